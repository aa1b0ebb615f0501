"""What every request must be before it is looked at."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_body(request: Request, most: int, told: str) -> bytes:
    """The request's body; one that is too long is refused by its announced length, or else as soon as it is too long.

    Args:
        request: whose body is not read yet.
        most: bytes.
        told: the same in words.

    Raises:
        HTTPException: it is too long.
    """
    refusal = HTTPException(413, f"the file is too large; at most {told} are taken")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise refusal
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise refusal
    return bytes(data)


def check_type(request: Request, *types: str) -> None:
    """Raise `HTTPException` unless the body is of one of `types`; none is what a form of another site can send."""
    if not request.headers.get("content-type", "").startswith(types):
        raise HTTPException(415, f"the content type must be {' or '.join(types)}")


def number(request: Request, name: str) -> int:
    """What a query says under `name`, an integer from 0. Raises `HTTPException`."""
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(400, f"{name}: give a number")
    return int(text)
