"""Checks of requests before they are processed."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_body(request: Request, max_bytes: int, limit: str) -> bytes:
    """Read the request's body; stop at once if its announced or actual length is too large.

    Args:
        request: a request whose body has not been read yet.
        max_bytes: the maximum length.
        limit: the maximum length as text, for the error message.

    Raises:
        HTTPException: the body is too long.
    """
    refusal = HTTPException(413, f"the file is too large; the maximum is {limit}")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise refusal
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise refusal
    return bytes(data)


def check_type(request: Request, *types: str) -> None:
    """Raise `HTTPException` unless the body has one of `types`.

    HTML forms of other sites cannot send these types.
    """
    if not request.headers.get("content-type", "").startswith(types):
        raise HTTPException(415, f"the content type must be {' or '.join(types)}")


def number(request: Request, name: str) -> int:
    """The integer, at least 0, of the query parameter `name`.

    Raises `HTTPException` if it is missing or not a number.
    """
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(400, f"{name}: give an integer, at least 0")
    return int(text)
