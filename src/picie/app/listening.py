"""From a run to a page that listens."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn

from picie.app.guard import is_loopback
from picie.app.server import Limits, create
from picie.app.studio import Studio
from picie.errors import InputError
from picie.runtime.progress import log


class Listening:
    """A page that waits for browsers.

    Args:
        run: a run's folder.
        images: see `Studio`.
        host: the name or address to listen on.
        port: 0 takes a free one.
        limits: of uploads.
        device: where to compute.

    Attributes:
        url: where the page is.

    Raises:
        InputError: the port is taken, the host is not this machine's, or as of `Studio`.
    """

    def __init__(self, run: Path, images: Path | None, host: str, port: int, limits: Limits, device: str) -> None:
        self._socket = listen(host, port)
        application = create(Studio(run, images, device), limits, host)
        if not is_loopback(host):
            log.warning(
                "--host %s: whoever reaches this machine can use the page and rename segments: it asks for no password", host
            )
        config = uvicorn.Config(
            application, log_config=None, access_log=False, limit_concurrency=64, timeout_graceful_shutdown=5, ws="none"
        )
        self._server = uvicorn.Server(config)
        name = socket.gethostname() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}/"

    def run(self) -> None:
        """Serve until a signal comes; it ends as `KeyboardInterrupt`."""
        self._server.run(sockets=[self._socket])
        raise KeyboardInterrupt  # also where the server took a signal and kept it to itself, as under load it may


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises `InputError`."""
    if not host.strip():  # for the system that is every address of the machine
        raise InputError(
            "--host: is empty; give a name or an address of this machine, e.g. 127.0.0.1, or 0.0.0.0 for all of them"
        )
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); give others; --port 0 is a free one"
        ) from error
