"""Measure the decoding of large photos at a reduced scale: `python -m benchmarks.decoding`.

    python -m benchmarks.decoding camvid/images/train large/ --photos 16     # makes photos, once
    python -m benchmarks.decoding large/                                     # measures them

Photos of 12 megapixels are made of small pictures: every other one is a picture enlarged, with the
grain of a sensor, and the rest are mosaics of many pictures, which have more detail than any photo.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from picie.cli.exit_status import run_app
from picie.data import frame_reading
from picie.data.folder import Folder
from picie.data.images import centre_frame
from picie.data.remarks import inspect
from picie.errors import InputError

SIZE = (3000, 4000)
_GRAIN = 4.0  # standard deviation, in grey levels

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make photos or measure them, and return the exit status."""
    return run_app(app, "python -m benchmarks.decoding", arguments)


@app.command()
def decoding(
    data: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to create, and to fill with large photos made of them.")] = None,
    photos: Annotated[int, typer.Option(min=1, help="Number of photos to make or measure.")] = 16,
    frame: Annotated[int, typer.Option(min=1, help="Side of the frame in pixels.")] = 320,
    progressive: Annotated[bool, typer.Option("--progressive", help="Make progressive JPEGs.")] = False,
) -> None:
    """Make large photos, or measure time and error of their frames at a reduced scale."""
    dataset = Folder(data)
    if out is not None:
        if out.exists():
            raise InputError(f"{out}: exists already; give another folder")
        out.mkdir(parents=True)
        for number in range(photos):
            photo(dataset, number).save(out / f"{number:04d}.jpg", quality=90, progressive=progressive)
        return
    n = min(photos, len(dataset))
    differences, whole, reduced = [], [], []
    for index in range(n):
        pair = [_timed(reader, dataset, index, (frame, frame)) for reader in (_whole, frame_reading.read_frame)]
        whole.append(pair[0][1])
        reduced.append(pair[1][1])
        differences.append(np.abs(pair[0][0].astype(int) - pair[1][0].astype(int)))
    apart = np.stack(differences)
    typer.echo(f"{n} photos, frames of {frame} px; processor time per photo, median")
    typer.echo(f"decoded whole     {1000 * float(np.median(whole)):6.1f} ms")
    typer.echo(f"at reduced scale  {1000 * float(np.median(reduced)):6.1f} ms")
    typer.echo(
        f"difference in grey levels: mean {apart.mean():.2f}, 99 % at most {np.percentile(apart, 99):.0f}, "
        f"largest {apart.max()}; mean of the worst photo {apart.mean((1, 2, 3)).max():.2f}"
    )


def _whole(dataset: Folder, index: int, size: tuple[int, int]) -> tuple[np.ndarray, tuple[str, ...]]:
    image = dataset.image(index)
    return centre_frame(image, size), inspect(image)


def _timed(reader: Callable[..., tuple[np.ndarray, object]], *arguments: object) -> tuple[np.ndarray, float]:
    began = time.process_time()
    frame, _ = reader(*arguments)
    return frame, time.process_time() - began


def photo(dataset: Folder, number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A large photo of `size` (H, W): a picture enlarged, with grain, or a mosaic of pictures."""
    rng = np.random.default_rng(number)
    if number % 2 == 0:
        picture = dataset.image(int(rng.integers(len(dataset)))).resize(size[::-1], Image.Resampling.BICUBIC)
        grain = rng.standard_normal((size[0] // 2, size[1]), dtype=np.float32) * _GRAIN  # for both halves
        values = np.asarray(picture) + np.concatenate([grain, grain[::-1]])[: size[0], :, None]
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))
    mosaic, top = Image.new("RGB", size[::-1]), 0
    while top < size[0]:
        left, height = 0, 0
        while left < size[1]:
            picture = dataset.image(int(rng.integers(len(dataset))))
            mosaic.paste(picture, (left, top))
            left, height = left + picture.width, max(height, picture.height)
        top += height
    return mosaic


if __name__ == "__main__":
    sys.exit(main())
