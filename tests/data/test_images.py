"""Reading pictures of any kind, label maps, and the squares that are cut from them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from picie.data.images import (
    centre_frame,
    centre_label,
    decoding_bytes,
    image_size,
    open_image,
    open_label,
    to_rgb,
    upright,
    whole_size,
)
from picie.data.scaling import Reading
from picie.data.search import find_images
from picie.errors import InputError, UnreadableImageError


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A smooth RGB picture, 24 high and 32 wide, with no symmetry."""
    rows, columns = np.mgrid[0:24, 0:32]
    return np.stack([rows * 10, columns * 7, (rows + 2 * columns) % 256], axis=2).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_plain_picture_is_read_as_it_is(tmp_path: Path, pixels: np.ndarray) -> None:
    for suffix in ("png", "bmp", "tif", "ppm", "PNG"):
        image = open_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels)))
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "I", "I;16", "F"])
def test_every_mode_becomes_rgb_of_the_same_size(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    source = Image.fromarray(pixels)
    grey = source.convert("L")
    made = grey.convert(mode) if mode in {"LA", "I", "I;16", "F"} else source.convert(mode)
    expected = {"RGBA": source, "CMYK": source, "P": made.convert("RGB"), "1": made.convert("RGB")}.get(
        mode, grey.convert("RGB")
    )
    image = open_image(saved(tmp_path / "a.tif", made))
    assert (image.mode, image.size) == ("RGB", (32, 24))
    assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("mode", ["PA", "YCbCr", "HSV", "LAB"])
def test_modes_that_no_file_holds_become_rgb(pixels: np.ndarray, mode: str) -> None:
    source = Image.fromarray(pixels)
    made = {"PA": source.convert("P").convert("PA"), "LAB": Image.fromarray(pixels, "LAB")}.get(mode) or source.convert(mode)
    image = to_rgb(made)
    assert (image.mode, image.size) == ("RGB", (32, 24))


def test_cmyk_jpeg_keeps_its_colors(tmp_path: Path, pixels: np.ndarray) -> None:
    read = np.asarray(open_image(saved(tmp_path / "c.jpg", Image.fromarray(pixels).convert("CMYK"), quality=100)))
    assert np.abs(read.astype(int) - pixels).mean() < 3


def test_floats_are_stretched_over_their_range() -> None:
    for low, high in ((0.0, 1.0), (-2.0, 5.5)):
        ramp = np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)
        read = np.asarray(to_rgb(Image.fromarray(ramp)))[..., 1].ravel()
        assert np.abs(read.astype(int) - np.arange(256)).max() <= 1
    assert not np.asarray(to_rgb(Image.fromarray(np.full((2, 2), 0.5, np.float32)))).any()


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:2] = (200, 0, 0, 255)
    rgba[2:] = (0, 0, 0, 0)
    half = rgba.copy()
    half[:2, :, 3] = 128
    opaque = np.asarray(open_image(saved(tmp_path / "rgba.png", Image.fromarray(rgba))))
    assert opaque[0, 0].tolist() == [200, 0, 0]
    assert opaque[3, 3].tolist() == [255, 255, 255]
    mixed = np.asarray(open_image(saved(tmp_path / "half.png", Image.fromarray(half))))[0, 0]
    assert np.abs(mixed.astype(int) - [227, 127, 127]).max() <= 1
    la = Image.fromarray(np.array([[[40, 255], [40, 0]]], dtype=np.uint8), "LA")
    assert np.asarray(open_image(saved(tmp_path / "la.png", la)))[0].tolist() == [[40] * 3, [255] * 3]


def test_a_palette_entry_may_be_transparent(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 0, 0, 0, 40, 50, 60])
    read = np.asarray(open_image(saved(tmp_path / "p.png", image, transparency=1)))
    assert read.tolist() == [[[10, 20, 30], [255] * 3], [[40, 50, 60], [255] * 3]]


@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (10, 10), (12, 12), (16, 16), (11, 12)])
def test_grey_of_many_bits_is_scaled_by_the_bits_it_uses(tmp_path: Path, bits: int, stored: int) -> None:
    ramp = np.linspace(0, 2**stored - 1, 64).round().astype(np.uint16).reshape(8, 8)
    if bits == 11:
        ramp = np.minimum(ramp, 3000)  # the brightest value needs 12 bits: the scale is that of 4095
    read = np.asarray(open_image(saved(tmp_path / "g.png", Image.fromarray(ramp))))
    assert np.array_equal(read[..., 0], (ramp * (255 / (2**stored - 1))).round())
    assert read.std() > 50  # not black
    assert (read[..., 0] == read[..., 2]).all()


def test_black_sixteen_bit_grey_stays_black(tmp_path: Path) -> None:
    assert not np.asarray(open_image(saved(tmp_path / "z.png", Image.fromarray(np.zeros((3, 3), np.uint16))))).any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix, options in (("jpg", {"quality": 95}), ("png", {}), ("tif", {})):
        path = saved(tmp_path / f"{orientation}.{suffix}", Image.fromarray(pixels), exif=exif, **options)
        image = open_image(path)
        with Image.open(path) as stored:
            expected = ImageOps.exif_transpose(stored)
        assert image.size == expected.size == ((32, 24) if orientation < 5 else (24, 32))
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert image_size(path) == (image.height, image.width)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.jpg", lambda good: good[: len(good) // 2]),
        ("header.jpg", lambda good: good[:100]),
        ("empty.jpg", lambda _: b""),
        ("text.jpg", lambda _: b"this is no picture\n"),
        ("zeros.png", lambda _: bytes(500)),
        ("half.png", lambda _: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    ],
)
def test_an_unreadable_image_names_the_file(
    tmp_path: Path, pixels: np.ndarray, name: str, content: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(content(jpeg(pixels)))
    with pytest.raises(UnreadableImageError, match=name) as error:
        open_image(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_bomb_are_unreadable(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg: no such file; check the path"):
        open_image(tmp_path / "gone.jpg")
    path = saved(tmp_path / "big.png", Image.fromarray(pixels))
    with pytest.raises(UnreadableImageError, match=r"it has 32 x 24 pixels; .*raise data\.max_pixels"):
        open_image(path, Reading(max_pixels=767))
    assert open_image(path, Reading(max_pixels=768)).size == (32, 24)


def test_an_upright_picture_is_not_copied(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    assert to_rgb(upright(image)) is image  # a copy of 108 megapixels takes 432 MB


def test_the_memory_of_decoding_is_estimated_from_the_header(tmp_path: Path, pixels: np.ndarray) -> None:
    image, n = Image.fromarray(pixels), pixels.shape[0] * pixels.shape[1]
    image.save(tmp_path / "progressive.jpg", progressive=True)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert decoding_bytes(saved(tmp_path / "plain.jpg", image)) == 4 * n
    assert decoding_bytes(tmp_path / "progressive.jpg") == 10 * n
    assert decoding_bytes(tmp_path / "deep.png") == 15 * n
    assert decoding_bytes(tmp_path / "gone.jpg") == 0


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((2, 2)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_tiny_pictures_and_strips_give_full_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    image = open_image(saved(tmp_path / "s.png", Image.new("RGB", size, (9, 8, 7))))
    frame = centre_frame(image, (16, 16))
    assert frame.shape == (3, 16, 16)
    assert (frame.reshape(3, -1).T == (9, 8, 7)).all()
    height, width = whole_size(size[1], size[0], 160)
    assert 1 <= min(height, width) <= 160
    assert max(height, width) <= 4096


def test_whole_size_keeps_the_shape() -> None:
    assert whole_size(480, 640, 160) == (160, 213)
    assert whole_size(640, 480, 160) == (213, 160)
    assert whole_size(100, 100, 160) == (160, 160)
    assert whole_size(10, 5000, 160) == (8, 4096)


def test_square_frame_is_the_centre(pixels: np.ndarray) -> None:
    assert np.array_equal(centre_frame(Image.fromarray(pixels), (24, 24)), pixels[:, 4:28].transpose(2, 0, 1))
    assert np.array_equal(
        centre_frame(Image.fromarray(pixels.transpose(1, 0, 2)), (24, 24)), pixels[:, 4:28].transpose(2, 1, 0)
    )
    halved = np.asarray(Image.fromarray(pixels).resize((16, 12), Image.Resampling.BILINEAR))[:, 2:14]
    assert np.array_equal(centre_frame(Image.fromarray(pixels), (12, 12)), halved.transpose(2, 0, 1))


def test_square_label_takes_pixels_of_the_same_centre() -> None:
    label = np.arange(24 * 32).reshape(24, 32)
    assert np.array_equal(centre_label(label, (24, 24)), label[:, 4:28])
    assert np.array_equal(centre_label(label, (8, 8)), label[1::3, 5:28:3])
    assert np.array_equal(centre_label(label, (48, 48)), label[:, 4:28].repeat(2, 0).repeat(2, 1))
    assert centre_label(label[:1, :1], (4, 4)).tolist() == [[0] * 4] * 4


def test_a_frame_of_another_shape_is_the_largest_centre_part(pixels: np.ndarray) -> None:
    label = np.arange(24 * 32).reshape(24, 32)
    assert np.array_equal(centre_frame(Image.fromarray(pixels), (16, 32)), pixels[4:20].transpose(2, 0, 1))
    assert np.array_equal(centre_label(label, (16, 32)), label[4:20])
    assert np.array_equal(centre_frame(Image.fromarray(pixels), (24, 12)), pixels[:, 10:22].transpose(2, 0, 1))
    assert np.array_equal(centre_label(label, (8, 16)), label[5:20:2, 1:32:2])
    assert np.array_equal(centre_frame(Image.fromarray(pixels), (24, 32)), pixels.transpose(2, 0, 1))  # nothing is cut off


def test_labels_are_indices_not_colors(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255], [2, 2, 0]], dtype=np.uint8)
    grey = saved(tmp_path / "l.png", Image.fromarray(values))
    palette = Image.fromarray(values, "P")
    palette.putpalette([9, 9, 9] * 256)
    wide = saved(tmp_path / "w.png", Image.fromarray(values.astype(np.uint16) * 100))
    assert np.array_equal(open_label(grey), values)
    assert np.array_equal(open_label(saved(tmp_path / "p.png", palette)), values)
    assert np.array_equal(open_label(wide), values.astype(int) * 100)
    assert open_label(saved(tmp_path / "b.png", Image.fromarray(values[:, :2] == 1))).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_a_colored_label_is_refused(tmp_path: Path, mode: str) -> None:
    color = {"RGB": (9, 8, 7), "RGBA": (9, 8, 7, 255), "LA": (9, 128), "CMYK": (9, 8, 7, 0)}[mode]
    path = saved(tmp_path / ("l.tif" if mode == "CMYK" else "l.png"), Image.new(mode, (3, 3), color))
    with pytest.raises(InputError, match=f"mode {mode}.*index PNG"):
        open_label(path)


def test_an_unreadable_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.png").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"l\.png: cannot be read as a label map"):
        open_label(tmp_path / "l.png")


def test_find_images_takes_images_alone_and_sorts_them(tmp_path: Path) -> None:
    wanted = ["b.jpg", "C.JPG", "a b.png", "sub/é漢.jpeg", "sub/deep/x.TIFF", "z.webp", "z.gif"]
    unwanted = ["._b.jpg", ".hidden.png", ".git/a.png", "notes.txt", "jpg", "a.jpg.txt", "run/run.json", "run/a.png"]
    unwanted += ["predicted/predictions.json", "predicted/a.png", "predicted/sub/b.png"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in found} == set(wanted)
    assert found == sorted(found)
