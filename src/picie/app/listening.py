"""The page's server: opens the run and listens on a port."""

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
    """The server of a page.

    Args:
        run: a run's folder.
        images: see `Studio`.
        host: the name or address to listen on.
        port: the port to listen on; 0 takes a free one.
        limits: maximum size of uploaded pictures.
        device: where to compute.

    Attributes:
        url: the address of the page.

    Raises:
        InputError: the port is in use, the host is not an address of this machine, or `Studio`
            cannot be made.
    """

    def __init__(self, run: Path, images: Path | None, host: str, port: int, limits: Limits, device: str) -> None:
        self._socket = listen(host, port)
        application = create(Studio(run, images, device), limits, host)
        if not is_loopback(host):
            log.warning(
                "--host %s: anyone who can reach this machine can use the page and rename segments, without a password", host
            )
        config = uvicorn.Config(
            application, log_config=None, access_log=False, limit_concurrency=64, timeout_graceful_shutdown=5, ws="none"
        )
        self._server = uvicorn.Server(config)
        name = socket.gethostname() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}/"

    def run(self) -> None:
        """Serve until a signal; then raise `KeyboardInterrupt`."""
        self._server.run(sockets=[self._socket])
        # also if the server handled the signal itself, which happens under load
        raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Raises `InputError` if that is not possible.
    """
    if not host.strip():  # the system would listen on every address of the machine
        raise InputError(
            "--host is empty; give a name or an address of this machine, e.g. 127.0.0.1, or 0.0.0.0 for all of them"
        )
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); give another host or port; --port 0 takes a free one"
        ) from error
