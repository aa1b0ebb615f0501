"""Models on the Hugging Face Hub: the files of a model's repository, and its card.

A model is a checkpoint without the state of its training, and without paths of the machine that
trained it. What is downloaded is opened like any file of other people: see SECURITY.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

from picie.config import Config
from picie.data import split_title
from picie.errors import InputError
from picie.inference.model_card import model_card
from picie.inference.model_state import write
from picie.methods.base import Method
from picie.runtime import checkpoint
from picie.runtime.output_paths import write_text
from picie.version import __version__

if TYPE_CHECKING:
    from picie.inference.cells import Features
    from picie.inference.segments import Segments


class OnHub(ModelHubMixin, library_name="picie", pipeline_tag="image-segmentation"):
    """Pushes a segmenter to the Hub and loads it from there.

    Attributes:
        method: the network.
        config: the run's configuration.
        segments: the meaning of each value of a predicted map.
        kept: what its checkpoint held beside the network, the configuration and the training.
    """

    method: Features
    config: Config
    segments: Segments
    kept: dict[str, Any]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, device: str = "auto", **options: Any) -> Self:
        """Load a model that `push_to_hub` uploaded, from the Hugging Face Hub or its cache.

        The file is data from other people: no code in it is run, and code that it names is
        imported only if `picie.trust` allows it.

        Args:
            pretrained_model_name_or_path: the model's name, "user/model"; or a folder.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            options: of `huggingface_hub.ModelHubMixin.from_pretrained`, e.g. revision, token,
                cache_dir, local_files_only.

        Raises:
            InputError: the file is not a checkpoint of picie, or needs code that is not trusted.
            huggingface_hub.errors.HfHubHTTPError: there is no such model, or no access to it.
        """
        loaded: Self = super().from_pretrained(pretrained_model_name_or_path, device=device, **options)
        return loaded

    def push_to_hub(
        self, repo_id: str, *, scores: Mapping[str, Any] | None = None, card: str | None = None, **options: Any
    ) -> str:
        """Upload the segmenter to the Hugging Face Hub, with a model card.

        The checkpoint has no training state, and no path or pattern of file names of this machine.
        The card states the data, K, the scores with their protocol, and the licence of the
        backbone's weights.

        Args:
            repo_id: "user/model"; the repository is made if there is none. It is public unless the
                option `private=True` is given.
            scores: `Evaluation.to_dict()` of a later `picie.evaluate`; None takes the latest scores
                of the training, if it was scored.
            card: Markdown that is added to the card, e.g. on the origin and licence of the photos.
            options: of `huggingface_hub.ModelHubMixin.push_to_hub`, e.g. private, token, branch,
                commit_message.

        Returns:
            The address of the commit.

        Raises:
            InputError: this segmenter is not of a run.
            huggingface_hub.errors.HfHubHTTPError: the Hub refuses it.
        """
        message = options.pop("commit_message", "Push a model of picie")
        # `save_pretrained(push_to_hub=True)` passes what the card states, too.
        about = {"scores": scores, "more": card, **(options.pop("model_card_kwargs", None) or {}), "name": repo_id}
        address: str = super().push_to_hub(repo_id, commit_message=message, model_card_kwargs=about, **options)
        return address

    @classmethod
    def _from_pretrained(cls, *, model_id: str, device: str = "auto", **options: Any) -> Self:
        # The mixin also passes on what config.json, a file for people, holds.
        known = {key: options[key] for key in ("revision", "cache_dir", "force_download", "local_files_only", "token")}
        folder = Path(model_id)
        file = folder if folder.is_dir() else Path(hf_hub_download(model_id, checkpoint.FILE_NAME, **known))
        loaded: Self = cls.load(file, device)  # type: ignore[attr-defined]
        return loaded

    def _save_pretrained(self, save_directory: Path) -> None:
        if not (self.kept and isinstance(self.method, Method)):
            raise InputError("this segmenter is not of a run; only what `Segmenter.load` opened can be published")
        config = published(self.config)
        kept = {**self.kept, "summary": _without_patterns(self.kept.get("summary"), self.config)}
        write(save_directory / checkpoint.FILE_NAME, kept, config, self.method, self.segments)
        about = {
            "picie": __version__,
            "backbone": config.model.backbone,
            "size": config.predict_size,
            "names": list(self.segments.names),
            "colors": list(self.segments.colors),
        }
        write_text(save_directory / "config.json", json.dumps(about, indent=2) + "\n")

    def generate_model_card(self, *, name: str = "user/model", **about: Any) -> ModelCard:
        """Return the model card of the repository `name`."""
        found = {**self.kept, **about}
        found |= {key: _without_patterns(found.get(key), self.config) for key in ("summary", "scores")}
        return model_card(published(self.config), self.segments, found, name)


def published(config: Config) -> Config:
    """Return a run's configuration without paths and patterns of file names of the training machine."""
    data = config.data.model_copy(update={"root": None, "include": (), "exclude": (), "held_out": ()})
    weights = None if config.model.weights is None else PurePath(config.model.weights).name
    return config.model_copy(update={"data": data, "model": config.model.model_copy(update={"weights": weights})})


def _without_patterns(scores: Mapping[str, Any] | None, config: Config) -> dict[str, Any] | None:
    """Return scores, or a summary, whose protocol does not state the patterns of held-out files."""
    if scores is None:
        return None
    patterns = split_title("", config.data)
    return {key: value.replace(patterns, "") if key == "protocol" else value for key, value in scores.items()}
