"""The page's HTTP routes. Slow work runs in threads; errors are one line of JSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from picie.app import opened
from picie.app.bodies import ChangeRequest, ClickRequest, ExportRequest, TeachRequest, read, read_picture
from picie.app.checks import number
from picie.app.exports import Exports
from picie.app.guard import Guard
from picie.app.opened import GoneError, Opened
from picie.app.studio import ChangedError, Studio
from picie.data.images import decode_image
from picie.display.colors import CONFIDENCE
from picie.errors import InputError
from picie.version import __version__

_STATIC = Path(__file__).parent / "static"
# pictures processed at once: 40 megapixels take 120 MB as RGB and 320 MB as clusters
_MAX_CONCURRENT = 2
_MAX_LISTED = 200  # maximum number of gallery pictures in one response


@dataclass(frozen=True)
class Limits:
    """Maximum size of an uploaded picture."""

    megabytes: int = 20
    megapixels: int = 40


class Pages:
    """The handlers of the routes.

    Args:
        studio: the model and the open pictures.
        limits: maximum size of uploaded pictures.
    """

    def __init__(self, studio: Studio, limits: Limits) -> None:
        self.studio, self.limits = studio, limits
        self._reading = replace(studio.segmenter.reading, max_pixels=limits.megapixels * 1_000_000)
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    def routes(self) -> list[Route | Mount]:
        """All routes."""
        picture, gallery = "/api/pictures/{key}", "/api/gallery/{index:int}"
        return [
            Route("/", lambda _: FileResponse(_STATIC / "index.html")),
            Route("/api/state", self.state),
            Route("/api/pictures", self.upload, methods=["POST"]),
            Route(f"{picture}/picture.png", self._of_picture(lambda o, _: Response(o.shown, media_type="image/png"))),
            Route(picture, self._of_picture(lambda o, _: JSONResponse(opened.look(self.studio.segmenter, o)))),
            Route(f"{picture}/values", self._of_picture(lambda o, _: _deflated(opened.shown_values(self.studio.segmenter, o)))),
            Route(f"{picture}/confidence", self._of_picture(lambda o, _: _deflated(self.studio.shown_confidence(o)))),
            Route(f"{picture}/mask.png", self._of_picture(self._mask)),
            Route(f"{picture}/query", self._of_picture(self._query)),
            Route("/api/changes", self.change, methods=["POST"]),
            Route("/api/teach", self.teach, methods=["POST"]),
            Route("/api/clicks.json", lambda _: JSONResponse(self.studio.clicks.content())),
            Route("/api/clicks/last", self.forget, methods=["DELETE"]),
            Route(f"{picture}/clicks", self.click, methods=["POST"]),
            Route("/api/export", self.export, methods=["POST"]),
            Route("/api/export", self.cancel_export, methods=["DELETE"]),
            Route("/api/export", self.exported),
            Route("/api/export/file", self.file),
            Route("/api/sheets", self.sheets),
            Route("/api/gallery", self.listing),
            Route(gallery, self.choose, methods=["POST"]),
            Route(f"{gallery}/thumbnail.jpg", self.thumbnail),
            Route(f"{gallery}/spot.jpg", self.spot),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]

    async def state(self, _: Request) -> Response:
        """Everything that the page shows before a picture is opened."""
        gallery = self.studio.gallery
        content = {
            "run": self.studio.run.resolve().name,
            "version": __version__,
            "limits": vars(self.limits),
            "ramp": CONFIDENCE,
            "formats": [] if self.studio.exports is None else self.studio.exports.formats(),
            "clicks": self.studio.clicks.counts(),
            **self._segments(),
            "gallery": None
            if gallery is None
            else {"count": len(gallery), "source": gallery.source, "memory": gallery.memory, **gallery.progress()},
        }
        return JSONResponse(content)

    async def upload(self, request: Request) -> Response:
        """Segment the picture in the request's body."""
        data = await read_picture(request, self.limits.megabytes)
        return await self._work(lambda: self._open(decode_image(data, self._reading)))

    async def choose(self, request: Request) -> Response:
        """Segment a picture of the gallery."""
        index = self._index(request)
        return await self._work(lambda: self._open(self._gallery().image(index), index))

    async def change(self, request: Request) -> Response:
        """Change the segments, see `ChangeRequest`. The response lists all segments."""
        change = await read(request, ChangeRequest)
        if change.undo:
            await run_in_threadpool(self.studio.undo, change.was)
        else:
            await run_in_threadpool(self.studio.change, change.was, change.changes())
        return JSONResponse(self._segments())

    async def click(self, request: Request) -> Response:
        """Name a pixel of an open picture. The response counts the clicks of each class."""
        click = await read(request, ClickRequest)
        one = await run_in_threadpool(self.studio.opened, request.path_params["key"])
        self.studio.click(one, click.x, click.y, click.name)
        return JSONResponse(self.studio.clicks.counts())

    async def forget(self, _: Request) -> Response:
        """Remove the latest click. The response counts the clicks of each class."""
        self.studio.clicks.remove_last()
        return JSONResponse(self.studio.clicks.counts())

    async def teach(self, request: Request) -> Response:
        """Teach the run by the clicks so far. The response lists all segments."""
        wanted = await read(request, TeachRequest)
        await run_in_threadpool(self.studio.teach, wanted.was)
        return JSONResponse(self._segments())

    async def export(self, request: Request) -> Response:
        """Start an export of all pictures. The response is its state."""
        wanted = await read(request, ExportRequest)
        self._exports().start(wanted.format)
        return JSONResponse(self._exports().state(), 202)

    async def cancel_export(self, _: Request) -> Response:
        """Ask the running export to stop. The response is the state, which is "cancelled" soon after."""
        self._exports().cancel()
        return await self.exported(_)

    async def exported(self, _: Request) -> Response:
        """The state of the export, see `Exports.state`."""
        return JSONResponse(await run_in_threadpool(self._exports().state))

    async def file(self, _: Request) -> Response:
        """The exported file."""
        file = self._exports().file
        if file is None or not file.is_file():
            raise HTTPException(404, "nothing has been exported yet")
        return FileResponse(file, filename=file.name)

    async def sheets(self, _: Request) -> Response:
        """What each segment looks like in the gallery's pictures so far."""
        return await self._work(lambda: JSONResponse(self.studio.contact_sheets()))

    async def listing(self, request: Request) -> Response:
        """Up to 200 pictures of the gallery: {index, name}, from number `start` on.

        With `segment`, all pictures so far that contain it: {index, name, share}, largest first.
        Pictures that cannot be read are left out, as far as they are known.
        """
        gallery = self._gallery()
        if "segment" in request.query_params:
            value = number(request, "segment")
            found = await run_in_threadpool(self.studio.pictures_with, value)
            rows = [{"index": i, "name": gallery.images.name(i), "share": share} for i, share in found[:_MAX_LISTED]]
            return JSONResponse(rows)
        start = number(request, "start")
        numbers = [index for index in range(start, len(gallery)) if index not in gallery.unreadable][:_MAX_LISTED]
        return JSONResponse([{"index": index, "name": gallery.images.name(index)} for index in numbers])

    async def thumbnail(self, request: Request) -> Response:
        """A small version of a picture of the gallery."""
        gallery, index = self._gallery(), self._index(request)
        return await self._work(lambda: _jpeg(gallery.thumbnail(index)))

    async def spot(self, request: Request) -> Response:
        """The surroundings of a pixel of the gallery, marked by a ring."""
        gallery, index = self._gallery(), self._index(request)
        x, y = number(request, "x"), number(request, "y")
        return await self._work(lambda: _jpeg(gallery.spot(index, x, y)))

    def _open(self, *picture: Any) -> Response:
        key, one = self.studio.open(*picture)
        (width, height), (shown_width, shown_height) = one.size, one.shown_size
        sizes = {"width": width, "height": height, "shownWidth": shown_width, "shownHeight": shown_height}
        return JSONResponse({"key": key, **sizes, **opened.look(self.studio.segmenter, one)})

    def _segments(self) -> dict[str, Any]:
        return {"segments": self.studio.segments(), "undo": self.studio.last_change(), "version": self.studio.version}

    def _of_picture(self, answer: Callable[[Opened, Request], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await self._work(lambda: answer(self.studio.opened(request.path_params["key"]), request))

        return endpoint

    async def _work(self, make: Callable[[], Response]) -> Response:
        """Run `make` in a thread.

        Only a few run at once, because each holds a picture in memory.
        """
        async with self._slots:
            return await run_in_threadpool(make)

    def _mask(self, one: Opened, _: Request) -> Response:
        return Response(opened.mask(self.studio.segmenter, one), media_type="image/png")

    def _query(self, one: Opened, request: Request) -> Response:
        return JSONResponse(self.studio.query(one, number(request, "x"), number(request, "y")))

    def _exports(self) -> Exports:
        if self.studio.exports is None:
            raise HTTPException(404, "there are no picture files to export; start picie app with --images DIR")
        return self.studio.exports

    def _gallery(self) -> Any:
        if self.studio.gallery is None:
            raise HTTPException(404, "there are no pictures to search; start picie app with --images DIR")
        return self.studio.gallery

    def _index(self, request: Request) -> int:
        index: int = self._gallery().check(request.path_params["index"])
        return index


def _deflated(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream", headers={"Content-Encoding": "deflate"})


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg")


def create(studio: Studio, limits: Limits, host: str) -> Starlette:
    """Create the ASGI application of the page.

    `host` is the name or address that it is served on.
    """

    async def refused(_: Request, error: Exception) -> Response:
        status = 410 if isinstance(error, GoneError) else 409 if isinstance(error, ChangedError) else 400
        return JSONResponse({"error": str(error)}, status)

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code)

    async def file_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        where = "a file of picie" if error.filename is None else error.filename
        return JSONResponse({"error": f"{where}: cannot be read or written ({error.strerror or error})"}, 500)

    async def memory_error(_: Request, __: Exception) -> Response:
        return JSONResponse({"error": "there is not enough memory for this picture; give a smaller one"}, 503)

    async def unexpected(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"picie failed ({type(error).__name__}); see its terminal for the reason"}, 500)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        if studio.gallery is not None:
            await run_in_threadpool(studio.gallery.stop)

    return Starlette(
        routes=Pages(studio, limits).routes(),
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={
            InputError: refused,
            HTTPException: http_error,
            OSError: file_error,
            MemoryError: memory_error,
            Exception: unexpected,
        },
        lifespan=lifespan,
    )
