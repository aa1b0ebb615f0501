"""A segmenter is pushed to a Hub on this machine and loaded from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from huggingface_hub.errors import RepositoryNotFoundError
from tests.inference.hub_server import Hub, serving

from picie import Segmenter, evaluate, registry
from picie.errors import InputError
from picie.inference.model_card import model_card
from picie.inference.segments import Segments
from picie.runtime import checkpoint

NAME = "ana/streets"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(monkeypatch) as hub:
        yield hub


@pytest.fixture
def photo(labelled_folder: Path) -> Path:
    return labelled_folder / "images/val/100.jpg"


@pytest.fixture
def segmenter(untrained: Path) -> Segmenter:
    segmenter = Segmenter.load(untrained, "cpu")
    segmenter.take_segments(Segments(("road", "a|b", "sky"), ("#010203", "#ffffff", "#808080"), (1, 2, 0), user_defined=True))
    return segmenter


def test_what_is_pushed_is_loaded(hub: Hub, segmenter: Segmenter, photo: Path, tmp_path: Path) -> None:
    assert isinstance(segmenter, ModelHubMixin)
    address = segmenter.push_to_hub(NAME, private=True, token="secret")
    assert address.startswith(f"{hub.address}/{NAME}/commit/")
    assert {name.removeprefix(f"{NAME}/") for name in hub.files} == {"checkpoint.pt", "config.json", "README.md"}
    assert hub.private == {NAME: True}
    loaded = Segmenter.from_pretrained(NAME, device="cpu", cache_dir=tmp_path / "cache")
    assert loaded.names == segmenter.names
    assert np.array_equal(loaded.predict(photo), segmenter.predict(photo))
    hub.requests.clear()
    cached = Segmenter.from_pretrained(NAME, device="cpu", cache_dir=tmp_path / "cache", local_files_only=True)
    assert hub.requests == []
    assert cached.names == segmenter.names
    with pytest.raises(RepositoryNotFoundError):
        Segmenter.from_pretrained("ana/nothing", cache_dir=tmp_path / "cache")


def test_the_card_says_what_the_model_is(hub: Hub, segmenter: Segmenter, labelled_folder: Path) -> None:
    segmenter.push_to_hub(NAME, card="The photos are in the public domain.")
    card = ModelCard(hub.files[f"{NAME}/README.md"].decode())
    assert card.data.library_name == "picie"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.license is not None
    for text in (
        f"# {NAME}",
        f'Segmenter.from_pretrained("{NAME}")',
        "6 images of a folder, without labels",
        "K: 3 clusters",
        "test_efficientnet",
        "| 1 | a\\|b | #ffffff | 0 |",
        "The photos are in the public domain.",
        f"Protocol: {segmenter.kept['summary']['protocol']}",
        f"accuracy {segmenter.kept['summary']['accuracy']:.1f}",
    ):
        assert text in card.text, text
    about = json.loads(hub.files[f"{NAME}/config.json"])
    assert (about["names"], about["backbone"]) == (["road", "a|b", "sky"], "test_efficientnet")


@pytest.mark.parametrize(
    ("change", "licence", "text"),
    [
        ({"backbone": "tf_efficientnet_lite0"}, ("apache-2.0", None), "under the licence apache-2.0"),
        ({"backbone": "dinov3-s"}, ("other", "dinov3-license"), "under the licence dinov3-license"),
        ({"backbone": "vit_small_patch16_dinov3"}, ("other", "dinov3-license"), "under the licence dinov3-license"),
        ({"weights": "mine.pth"}, ("unknown", None), "weights in mine.pth, whose licence picie does not know"),
        ({"pretrained": False}, ("unknown", None), "from random weights"),
        ({"backbone": "my_models:Toy"}, ("unknown", None), "under the licence that their authors state"),
    ],
)
def test_the_card_states_the_licence_of_the_backbone(
    segmenter: Segmenter, change: dict[str, Any], licence: tuple[str, str | None], text: str
) -> None:
    model = segmenter.config.model.model_copy(update={"pretrained": True, **change})
    card = model_card(segmenter.config.model_copy(update={"model": model}), segmenter.segments, {}, NAME)
    assert (card.data.license, card.data.license_name) == licence
    assert text in card.text
    assert "Not scored." in card.text


def test_the_card_takes_other_scores(hub: Hub, untrained: Path, labelled_folder: Path) -> None:
    result = evaluate(untrained, labelled_folder, split="train", bootstrap=0).to_dict()
    Segmenter.load(untrained, "cpu").push_to_hub(NAME, scores=result)
    card = hub.files[f"{NAME}/README.md"].decode()
    assert f"Protocol: {result['protocol']}" in card
    assert f"mIoU {result['miou']:.1f}" in card


def test_no_path_of_this_machine_is_pushed(hub: Hub, segmenter: Segmenter, labelled_folder: Path, untrained: Path) -> None:
    data = segmenter.config.data.model_copy(update={"include": ("client-name/*",)})
    model = segmenter.config.model.model_copy(update={"weights": "/home/ana/secret/weights.pth"})
    segmenter.config = segmenter.config.model_copy(update={"data": data, "model": model})
    segmenter.push_to_hub(NAME)
    for content in hub.files.values():
        for private in (str(labelled_folder), str(untrained), "client-name", "/home/ana"):
            assert private.encode() not in content


def test_it_is_pushed_like_any_model_of_the_hub(hub: Hub, segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.push_to_hub(repo_id=NAME)
    pushed = dict(hub.files)
    hub.files.clear()
    segmenter.save_pretrained(tmp_path / "model", repo_id=NAME, push_to_hub=True, model_card_kwargs={"more": "By Ana."})
    assert set(hub.files) == set(pushed)
    card = hub.files[f"{NAME}/README.md"].decode()
    assert f"# {NAME}" in card
    assert "By Ana." in card


@pytest.mark.parametrize("scored_later", [False, True])
def test_no_pattern_of_held_out_files_is_pushed(hub: Hub, segmenter: Segmenter, scored_later: bool, tmp_path: Path) -> None:
    data = segmenter.config.data.model_copy(update={"held_out": ("patient_Smith*", "b*")})
    segmenter.config = segmenter.config.model_copy(update={"data": data})
    scores = {"accuracy": 50.0, "miou": 40.0, "protocol": "val, held out patient_Smith*, b*; whole images"}
    segmenter.kept = {**segmenter.kept, "summary": {**segmenter.kept["summary"], **({} if scored_later else scores)}}
    segmenter.push_to_hub(NAME, scores=scores if scored_later else None)
    assert b"Protocol: val; whole images." in hub.files[f"{NAME}/README.md"]
    assert not any(b"Smith" in content for content in hub.files.values())
    (tmp_path / "checkpoint.pt").write_bytes(hub.files[f"{NAME}/checkpoint.pt"])
    assert b"Smith" not in str(checkpoint.load(tmp_path / "checkpoint.pt")).encode()


def test_code_that_a_downloaded_model_names_is_not_imported(
    hub: Hub, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "was_imported"
    (tmp_path / "code_of_a_hub.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Thing: pass\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    segmenter.push_to_hub(NAME)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(hub.files[f"{NAME}/checkpoint.pt"])
    state = torch.load(file, weights_only=True)
    state["config"]["model"]["backbone"] = "code_of_a_hub:Thing"
    torch.save(state, file)
    hub.files[f"{NAME}/checkpoint.pt"] = file.read_bytes()
    with registry.trust_scope():
        with pytest.raises(InputError, match="code_of_a_hub:Thing' is not part of picie"):
            Segmenter.from_pretrained(NAME, cache_dir=tmp_path / "cache")
        assert not trace.exists()
        registry.trust(["code_of_a_hub:Thing"])  # the user may
        with pytest.raises(InputError, match=r"model\.backbone"):
            Segmenter.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert trace.exists()


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg_overlay"])
def test_options_of_a_downloaded_backbone_open_no_file(segmenter: Segmenter, tmp_path: Path, option: str) -> None:
    (tmp_path / "bait.pth").write_bytes(b"bait")
    values: dict[str, Any] = {
        "checkpoint_path": str(tmp_path / "bait.pth"),
        "pretrained_cfg_overlay": {"file": str(tmp_path / "bait.pth")},
    }
    segmenter.save(tmp_path / "model")
    state = checkpoint.load(tmp_path / "model")
    state["config"]["model"]["backbone_options"] = {option: values[option]}
    checkpoint.save(tmp_path / "model" / checkpoint.FILE_NAME, state)
    with pytest.raises(InputError, match=f"model.backbone_options: '{option}' is not possible"):
        Segmenter.load(tmp_path / "model")


def test_another_file_is_refused(hub: Hub, segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.push_to_hub(NAME)
    hub.files[f"{NAME}/checkpoint.pt"] = b"something else"
    with pytest.raises(InputError, match="nothing was run"):
        Segmenter.from_pretrained(NAME, cache_dir=tmp_path / "cache")


def test_a_folder_is_loaded_too(segmenter: Segmenter, photo: Path, tmp_path: Path) -> None:
    segmenter.save_pretrained(tmp_path / "model")
    assert np.array_equal(Segmenter.from_pretrained(tmp_path / "model").predict(photo), segmenter.predict(photo))
