"""The page of a tiny run, with and without a socket."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from picie import Segmenter
from picie.app.listening import listen
from picie.app.server import Limits, create
from picie.app.studio import Studio
from picie.data.images import open_image
from picie.inference.neighbors import feature_at
from picie.runtime import checkpoint

HOST = "127.0.0.1"


@pytest.fixture(scope="session")
def images(labelled_folder: Path) -> Path:
    """The pictures to choose from."""
    return labelled_folder / "images" / "train"


@pytest.fixture(scope="session")
def split_run(trained: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clusters are the three objects of the pictures, set by hand.

    Read it.
    """
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("split") / "run"))
    segmenter, picture = Segmenter.load(run, "cpu"), open_image(images / "000.jpg")
    label = np.asarray(Image.open(images.parents[1] / "labels" / "train" / "000.png"))
    inner = [np.argwhere(label == value).mean(0).astype(int) for value in range(3)]
    state = checkpoint.load(run)
    rows = [feature_at(segmenter, picture, int(x), int(y)) for y, x in inner]
    state["classifier"] = {"weight": torch.stack(rows), "bias": torch.zeros(3)}
    checkpoint.save(run / "checkpoint.pt", state)
    return run


@pytest.fixture
def own_run(split_run: Path, tmp_path: Path) -> Path:
    """A copy of `split_run` that the test may change."""
    return Path(shutil.copytree(split_run, tmp_path / "own_run"))


@pytest.fixture(scope="session")
def still(split_run: Path, images: Path) -> Iterator[TestClient]:
    """A browser's requests to a page that no test changes."""
    with TestClient(create(Studio(split_run, images, "cpu"), Limits(1, 1), HOST), base_url=f"http://{HOST}:7860") as made:
        yield made


@pytest.fixture
def studio(own_run: Path, images: Path) -> Iterator[Studio]:
    """The studio of a run that the test may change."""
    made = Studio(own_run, images, "cpu")
    yield made
    assert made.gallery is not None
    made.gallery.stop()


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    """A browser's requests, without a browser."""
    with TestClient(create(studio, Limits(1, 1), HOST), base_url=f"http://{HOST}:7860") as made:
        yield made


@contextmanager
def serving(studio: Studio) -> Iterator[str]:
    """Serve the page of `studio` from a thread, and yield its address."""
    application = create(studio, Limits(1, 1), HOST)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, timeout_graceful_shutdown=1))
    with listen(HOST, 0) as socket:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        yield f"http://{HOST}:{socket.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def served(studio: Studio) -> Iterator[str]:
    """The address of the page, served from a thread."""
    with serving(studio) as url:
        yield url


Opens = Callable[[Path], dict[str, object]]


@pytest.fixture
def upload(client: TestClient) -> Opens:
    """upload(file): the response to an uploaded picture."""

    def send(file: Path) -> dict[str, object]:
        answer = client.post("/api/pictures", content=file.read_bytes(), headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200, answer.text
        content: dict[str, object] = answer.json()
        return content

    return send
