"""Protection of the page against other sites that are open in the same browser.

Every site that a user visits can send requests to a page on 127.0.0.1. If the site's own domain
name resolves to 127.0.0.1 (DNS rebinding), it could also read the responses. Both kinds of request
carry headers that a site cannot change.
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
    "Cache-Control": "no-store",  # the same address may later show other names, colours or runs
}


class Guard:
    """Middleware that refuses requests of other sites and adds security headers.

    Args:
        app: the protected application.
        host: the name or address that the page listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        problem = self.problem(Headers(scope=scope), scope["path"])
        answer = self.app if problem is None else JSONResponse({"error": problem}, 403)
        await answer(scope, receive, send_with_headers)

    def problem(self, headers: Headers, path: str) -> str | None:
        """The reason to refuse a request, or None."""
        host = headers.get("host", "")
        if not self._is_own(_name(f"//{host}")):
            return f"the page is not served as {host!r}; open it at the address that picie app printed"
        # a link to the page is allowed
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and path != "/":
            return "this request comes from another site; only the page itself may send it"
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return "this request comes from another site; only the page itself may send it"
        return None

    def _is_own(self, name: str) -> bool:
        """Whether a request may be addressed to `name`.

        Addresses are safe, unlike domain names: DNS cannot redirect them.
        """
        if name in {"localhost", self.host.lower()}:
            return True
        if is_loopback(self.host):
            return is_loopback(name)
        return _is_address(name) or name == socket.gethostname().lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(url: str) -> str:
    """The host name or address in `url`, in lower case; "" if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
