"""The model card of a segmenter on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from huggingface_hub import ModelCard, ModelCardData

from picie.config import Config, ModelConfig
from picie.inference.segments import Segments
from picie.models.catalogue import KNOWN

_PAPER = (
    "https://openaccess.thecvf.com/content/CVPR2021/html/Cho_PiCIE_Unsupervised_Semantic_Segmentation_Using_Invariance_"
    "and_Equivariance_in_Clustering_CVPR_2021_paper.html"
)


def model_card(config: Config, segments: Segments, about: Mapping[str, Any], name: str) -> ModelCard:
    """Return the card: data, K, scores with their protocol, licence, and how to use the model.

    Args:
        config: the run's configuration.
        segments: what it predicts.
        about: "summary" of the run's records; "scores", an `Evaluation.to_dict()`, or None; and
            "more", Markdown to add, or None.
        name: the repository, "user/model".
    """
    summary = about.get("summary") or {}
    scores = about.get("scores") or (summary if summary.get("protocol") else None)
    licence = weights_licence(config.model)
    known = licence in {None, "apache-2.0", "mit"}  # the Hub has identifiers for these, but not for many others
    data = ModelCardData(
        library_name="picie",
        pipeline_tag="image-segmentation",
        license=(licence or "unknown") if known else "other",
        license_name=None if known else licence,
        tags=["picie", "unsupervised", "semantic-segmentation"],
    )
    k, sections = len(segments.assignment), ["---", data.to_yaml(), "---", "", f"# {name}", ""]
    sections += [
        f"Unsupervised semantic segmentation by [PiCIE]({_PAPER}), trained with picie without labels. It finds {k} clusters "
        "in photos like those that it was trained on, and labels every pixel with one of the segments below.",
        "",
        "```python",
        "from picie import Segmenter",
        "",
        f'segmenter = Segmenter.from_pretrained("{name}")',
        'labels = segmenter.predict("photo.jpg")  # (H, W) values of the table below',
        'segmenter.overlay("photo.jpg").show()',
        "```",
        "",
        "## Training",
        "",
        f"- Data: {_data(config, summary)}.",
        f"- K: {k} clusters.",
        f"- Method: {config.method}, {summary.get('epochs', config.train.epochs)} epochs, views of {config.views.size} px; "
        f"pictures are computed with a short side of {config.predict_size} px.",
        f"- Backbone: {config.model.backbone}, {_weights(config.model, licence)}.",
        "",
        "## Scores",
        "",
        *_scores(scores),
        "",
        "## Segments",
        "",
        "| value | name | colour | clusters |",
        "|---|---|---|---|",
        *(
            f"| {value} | {_cell(segment)} | {color} | {', '.join(map(str, members)) or 'none'} |"
            for value, (segment, color, members) in enumerate(
                zip(segments.names, segments.colors, segments.members(), strict=True)
            )
        ),
        "",
        "Segments are clusters: their names were given by people or by a matching with labels, and a cluster may hold "
        "more than its name says.",
    ]
    return ModelCard("\n".join([*sections, *(["", about["more"]] if about.get("more") else []), ""]))


def weights_licence(model: ModelConfig) -> str | None:
    """Return the licence of the weights that a backbone starts from, as timm's hub states it.

    None if there are no such weights, or it is not known.
    """
    if not model.pretrained or model.weights is not None:
        return None
    if model.backbone in KNOWN:
        return KNOWN[model.backbone].licence
    if not timm.is_model(model.backbone.split(".")[0]):
        return None
    return getattr(timm.get_pretrained_cfg(model.backbone), "license", None)


def _weights(model: ModelConfig, licence: str | None) -> str:
    if model.weights is not None:
        return f"started from the weights in {model.weights}, whose licence picie does not know"
    if not model.pretrained:
        return "started from random weights"
    return f"started from weights under the licence {licence or 'that their authors state'}; this model derives from them"


def _data(config: Config, summary: Mapping[str, Any]) -> str:
    count = f"{summary['images']} images" if "images" in summary else "images"
    return f"{count} of a folder, without labels" if config.data.name == "folder" else f"{count} of {config.data.name}"


def _scores(scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return ["Not scored."]
    figures = [f"{title} {scores[key]:.1f}" for key, title in (("accuracy", "accuracy"), ("miou", "mIoU")) if scores.get(key)]
    return [f"{', '.join(figures)} (percent).", "", f"Protocol: {scores['protocol']}."]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
