"""Frames of animations, pages of TIFFs, and videos."""

from __future__ import annotations

import importlib.util
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from picie.data.frames import open_frames
from picie.data.images import open_image
from picie.data.scaling import Reading
from picie.errors import UnreadableImageError


def colors(n: int = 4, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    return [Image.new("RGB", size, (60 * i, 200 - 40 * i, 90)) for i in range(n)]


def write_video(path: Path, frames: list[Image.Image], rate: int = 8) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
    return path


def write_growing_video(path: Path, small: Image.Image, large: Image.Image) -> None:
    """Write a video whose second frame is larger than its header says: each is a JPEG of its own size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = *small.size, "yuvj420p"
        for number, image in enumerate((small, large)):
            data = io.BytesIO()
            image.save(data, "JPEG")
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 8)
            packet.is_keyframe = True
            container.mux(packet)


@pytest.mark.parametrize("name", ["x.tif", "x.gif", "x.webp", "x.png"])
def test_all_pages_and_frames_are_read(tmp_path: Path, name: str) -> None:
    given = colors()
    lossless = {"lossless": True} if name == "x.webp" else {}
    given[0].save(tmp_path / name, save_all=True, append_images=given[1:], **lossless)
    frames = open_frames(tmp_path / name, Reading())
    assert frames is not None
    assert (frames.count, frames.width, frames.height, frames.rate) == (4, 40, 30, None)
    for _ in range(2):  # again from the start
        read = list(frames)
        for one, expected in zip(read, given, strict=True):
            assert np.abs(np.asarray(one).astype(int) - np.asarray(expected)).max() <= (0 if name != "x.gif" else 8)
    assert np.array_equal(np.asarray(read[0]), np.asarray(open_image(tmp_path / name)))


def test_pages_of_16_bits_take_the_scale_and_the_bands(tmp_path: Path) -> None:
    import tifffile

    pages = np.random.default_rng(0).integers(0, 1023, (3, 20, 30, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="rgb")
    frames = open_frames(tmp_path / "x.tif", Reading({"uint16": (0, 1020)}, bands=(3, 2, 1)))
    assert frames is not None
    for read, page in zip(frames, pages, strict=True):
        assert np.array_equal(np.asarray(read), (page[..., ::-1] / 4).round().clip(0, 255))


def test_a_single_picture_has_no_frames(tmp_path: Path) -> None:
    colors()[0].save(tmp_path / "x.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    assert open_frames(tmp_path / "x.png", Reading()) is None
    assert open_frames(tmp_path / "broken.tif", Reading()) is None


def test_a_video_gives_its_frames_and_its_rate(tmp_path: Path) -> None:
    given = colors()
    frames = open_frames(write_video(tmp_path / "x.mp4", given), Reading())
    assert frames is not None
    assert (frames.count, frames.width, frames.height, frames.rate) == (4, 40, 30, Fraction(8))
    for read, expected in zip(frames, given, strict=True):
        assert read.mode == "RGB"
        assert np.abs(np.asarray(read).astype(int) - np.asarray(expected)).max() < 12


def test_a_damaged_or_large_video_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.mp4").write_bytes(b"x" * 100)
    with pytest.raises(UnreadableImageError, match=r"x\.mp4: cannot be read \("):
        open_frames(tmp_path / "x.mp4", Reading())
    path = write_video(tmp_path / "y.mp4", colors())
    with pytest.raises(UnreadableImageError, match=r"40 x 30 pixels, more than data\.max_pixels"):
        open_frames(path, Reading(max_pixels=100))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnreadableImageError, match=r"videos need PyAV; pip install 'picie\[video\]'"):
        open_frames(path, Reading())


@pytest.mark.parametrize("name", ["x.tif", "x.avi"])
def test_the_limit_on_pixels_holds_for_each_frame(tmp_path: Path, name: str) -> None:
    small, large = colors(1)[0], colors(1, (80, 60))[0]
    if name == "x.tif":
        small.save(tmp_path / name, save_all=True, append_images=[large])
    else:
        write_growing_video(tmp_path / name, small, large)
    frames = open_frames(tmp_path / name, Reading(max_pixels=80 * 60))
    assert frames is not None
    assert [frame.size for frame in frames] == [(40, 30), (80, 60)]
    frames = open_frames(tmp_path / name, Reading(max_pixels=80 * 60 - 1))
    assert frames is not None
    with pytest.raises(UnreadableImageError, match=r"frame 2: it has 80 x 60 pixels, more than data\.max_pixels"):
        list(frames)


def test_a_file_that_ends_early_names_the_frame(tmp_path: Path) -> None:
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)) for i in range(3)]
    noise[0].save(tmp_path / "x.tif", save_all=True, append_images=noise[1:])
    frames = open_frames(tmp_path / "x.tif", Reading())
    assert frames is not None
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError, match=r"x\.tif: cannot be read \(frame \d"):
        list(frames)
