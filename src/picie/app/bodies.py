"""The bodies of requests: an uploaded picture, a change of segments, a click, an export."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from picie.app.checks import check_type, read_body
from picie.errors import validation_message
from picie.naming.changes import Changes

_MAX_JSON = 2**20  # bytes of a request without a picture: the names of 4096 segments


_Body = TypeVar("_Body", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Name(_Strict):
    segment: str
    name: str = ""
    color: str = ""


class _Merge(_Strict):
    segments: Annotated[list[str], Field(min_length=2)]
    name: str = ""
    color: str = ""


class _Split(_Strict):
    segment: str
    parts: int


class ChangeRequest(_Strict):
    """A change of segments, each given by its name or by the number of one of its clusters.

    Attributes:
        was: the names of all segments that the page shows.
        names: new names and colours.
        merges: segments to merge.
        splits: segments to split.
        k: number of new clusters.
        undo: take back the latest change instead.
    """

    was: list[str]
    names: list[_Name] = []
    merges: list[_Merge] = []
    splits: list[_Split] = []
    k: int | None = None
    undo: bool = False

    def changes(self) -> Changes:
        """The change as `picie name` makes it."""
        return Changes(
            k=self.k,
            names={one.segment: (one.name, one.color) for one in self.names},
            splits={one.segment: one.parts for one in self.splits},
            merges=[(one.segments, one.name, one.color) for one in self.merges],
        )


class ClickRequest(_Strict):
    """A named pixel of an open picture.

    Attributes:
        x: its column.
        y: its row.
        name: its class.
    """

    x: int
    y: int
    name: str


class ExportRequest(_Strict):
    """An export of all pictures.

    Attributes:
        format: the name of a format.
    """

    format: str


class TeachRequest(_Strict):
    """Teach the run by the clicks so far.

    Attributes:
        was: the names of all segments that the page shows.
    """

    was: list[str]


async def read(request: Request, kind: type[_Body]) -> _Body:
    """Read a body of JSON. Raises `HTTPException` for anything else."""
    check_type(request, "application/json")
    try:
        return kind.model_validate_json(await read_body(request, _MAX_JSON, "1 MB"))
    except ValidationError as error:
        raise HTTPException(400, f"this request cannot be understood: {validation_message(error)}") from error


async def read_picture(request: Request, megabytes: int) -> bytes:
    """Read an uploaded picture: the body itself, or the file of a form such as `curl -F` sends.

    Other sites can make a browser send a form, and the page itself sends none, so that of a
    browser is refused.

    Raises:
        HTTPException: the body is too long, of another type, or a form without a file.
    """
    of_browser = any(name in request.headers for name in ("origin", "referer", "sec-fetch-site", "sec-fetch-mode", "cookie"))
    check_type(request, "image/", "application/octet-stream", *(() if of_browser else ("multipart/form-data",)))
    data = await read_body(request, megabytes * 1_000_000, f"{megabytes} MB")
    kind = request.headers["content-type"]
    if not kind.startswith("multipart/"):
        return data
    form = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode("latin-1", "replace") + b"\r\n\r\n" + data)
    for part in form.iter_parts() if form.is_multipart() else ():
        content = part.get_payload(decode=True)
        if part.get_filename() is not None and isinstance(content, bytes):
            return content
    raise HTTPException(400, "the form holds no file; write curl -F file=@photo.jpg")
