"""A page on the tiny run, without and with a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from picie.app.server import Limits, create
from picie.app.studio import Studio

HOST = "127.0.0.1"


@pytest.fixture
def images(labelled_folder: Path) -> Path:
    """The pictures to choose from."""
    return labelled_folder / "images" / "train"


@pytest.fixture
def studio(own_run: Path, images: Path) -> Iterator[Studio]:
    """What a page on a run of one's own works with."""
    made = Studio(own_run, images, "cpu")
    yield made
    assert made.gallery is not None
    made.gallery.stop()


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    """A browser's requests, without a browser."""
    with TestClient(create(studio, Limits(1, 1), HOST), base_url=f"http://{HOST}:7860") as made:
        yield made


@pytest.fixture
def served(studio: Studio) -> Iterator[str]:
    """The address of the page, served from a thread."""
    from picie.app.server import _listen

    application = create(studio, Limits(1, 1), HOST)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, timeout_graceful_shutdown=1))
    with _listen(HOST, 0) as socket:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        yield f"http://{HOST}:{socket.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


Opens = Callable[[Path], dict[str, object]]


@pytest.fixture
def upload(client: TestClient) -> Opens:
    """upload(file): what the page is told of a dropped picture."""

    def send(file: Path) -> dict[str, object]:
        answer = client.post("/api/pictures", content=file.read_bytes(), headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told

    return send
