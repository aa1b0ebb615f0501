"""Large JPEGs are decoded at a reduced scale; nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from scipy.ndimage import gaussian_filter

from picie.data import frame_reading
from picie.data.folder import Folder
from picie.data.frame_reading import read_frame
from picie.data.images import centre_frame
from picie.data.scaling import Reading
from picie.errors import UnreadableImageError

FRAME = (32, 32)


def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A photo of `size` (H, W) with detail at every scale."""
    rng = np.random.default_rng(seed)
    scales = [gaussian_filter(rng.standard_normal((*size, 3)), (s, s, 0)) * s for s in (1, 4, 16)]
    return Image.fromarray((128 + 40 * np.sum(scales, axis=0)).clip(0, 255).astype(np.uint8))


def folder_with(tmp_path: Path, image: Image.Image, name: str = "a.jpg", **options: Any) -> Folder:
    image.save(tmp_path / name, **options)
    return Folder(tmp_path)


def differences(folder: Folder, size: tuple[int, int] = FRAME) -> np.ndarray:
    """By how many grey levels the frame differs from that of the whole photo."""
    frame, _ = read_frame(folder, 0, size)
    return np.abs(frame.astype(int) - centre_frame(folder.image(0), size).astype(int))


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The scales at which photos were decoded."""
    found: list[int] = []

    def scale(ratio: float) -> int:
        found.append(real(ratio))
        return found[-1]

    real = frame_reading._scale
    monkeypatch.setattr(frame_reading, "_scale", scale)
    return found


@pytest.mark.parametrize(
    ("size", "options", "scale"),
    [
        ((301, 403), {}, 4),
        ((403, 301), {"progressive": True}, 4),
        ((300, 400), {"subsampling": 0}, 4),
        ((520, 600), {}, 8),
        ((140, 131), {}, 2),
    ],
)
def test_a_frame_differs_by_little(
    tmp_path: Path, scales: list[int], size: tuple[int, int], options: dict[str, Any], scale: int
) -> None:
    apart = differences(folder_with(tmp_path, photo(size), quality=90, **options))
    assert scales == [scale]
    assert 0 < apart.mean() < 1
    assert apart.max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_the_photo_is(tmp_path: Path, scales: list[int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    apart = differences(folder_with(tmp_path, photo((301, 403)), exif=exif, quality=90), (24, 40))
    assert scales == [2 if orientation >= 5 else 4]  # the frame is wider than high
    assert apart.mean() < 1


def test_its_colours_are_those_of_the_profile(tmp_path: Path, scales: list[int]) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = lab.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")  # red and blue
    swapped = swapped.replace(b"s\0R\0G\0B", b"x\0X\0Y\0Z").replace(b"sRGB", b"xXYZ")
    folder = folder_with(tmp_path, photo((301, 403)), icc_profile=swapped, quality=90)
    plain = np.asarray(Image.open(folder.paths[0]).convert("RGB").resize((32, 32)))
    converted = np.asarray(folder.image(0).resize((32, 32)))
    assert np.abs(plain.astype(int) - converted).mean() > 2  # the profile matters
    assert differences(folder).mean() < 1
    assert scales == [4]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes(tmp_path: Path, scales: list[int], mode: str) -> None:
    assert differences(folder_with(tmp_path, photo((301, 403)).convert(mode), quality=90)).mean() < 1
    assert scales == [4]


@pytest.mark.parametrize(("size", "name"), [((127, 127), "a.jpg"), ((301, 403), "a.png"), ((301, 403), "a.webp")])
def test_small_photos_and_other_formats_are_read_whole(tmp_path: Path, size: tuple[int, int], name: str) -> None:
    folder = folder_with(tmp_path, photo(size), name)
    assert not differences(folder).any()
    assert read_frame(folder, 0, FRAME)[1] == ()


def test_a_class_that_changes_images_is_asked_for_them(tmp_path: Path) -> None:
    class Inverted(Folder):
        def image(self, index: int) -> Image.Image:
            return super().image(index).point(lambda value: 255 - value)

    folder_with(tmp_path, photo((301, 403)))
    inverted = Inverted(tmp_path)
    assert np.array_equal(read_frame(inverted, 0, FRAME)[0], centre_frame(inverted.image(0), FRAME))


def test_a_photo_that_is_nearly_black_is_remarked_upon(tmp_path: Path, scales: list[int]) -> None:
    assert read_frame(folder_with(tmp_path, Image.new("RGB", (400, 300))), 0, FRAME)[1] == ("nearly black",)
    assert scales == [4]


def test_limits_and_damage_are_reported_as_before(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, photo((301, 403)))
    folder.reading = Reading(max_pixels=100_000)
    with pytest.raises(UnreadableImageError, match=r"the limit is 0\.1 megapixels"):
        read_frame(folder, 0, FRAME)
    folder.reading = Reading()
    folder.paths[0].write_bytes(folder.paths[0].read_bytes()[:2000])
    with pytest.raises(UnreadableImageError, match="cannot be read as an image"):
        read_frame(folder, 0, FRAME)
