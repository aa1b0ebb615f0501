"""Who may talk to the page: a browser on the page itself, not another site that the same browser has open.

A page on 127.0.0.1 can be reached by every site that a person visits: it can post to it, and with a name of its own that it
points to 127.0.0.1 (DNS rebinding) it could read from it. Both come with headers that a browser lets no site change.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # names, colours and whole runs change under the same address
}


class Guard:
    """Refuses requests that another site made, and marks every answer as for this page alone.

    Args:
        app: what is guarded.
        host: the name or address that the page listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        problem = self.problem(Headers(scope=scope), scope["path"])
        answer = self.app if problem is None else JSONResponse({"error": problem}, 403)
        await answer(scope, receive, send_marked)

    def problem(self, headers: Headers, path: str) -> str | None:
        """What is wrong with a request, if anything."""
        host = headers.get("host", "")
        if not self._is_own(_name(f"//{host}")):
            return f"the page is not served as {host!r}; open it under the address that picie app printed"
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and path != "/":  # a link to the page is fine
            return "another site asked; only the page itself may"
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return "another site asked; only the page itself may"
        return None

    def _is_own(self, name: str) -> bool:
        """Whether a request may call the page's machine `name`; an address is no name that somebody can point elsewhere."""
        if name in {"localhost", self.host.lower()}:
            return True
        if is_loopback(self.host):
            return is_loopback(name)
        return _is_address(name) or name == socket.gethostname().lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(url: str) -> str:
    """The host's name or address in `url`, in small letters; "" if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
