"""Images of more than 8 bits, unusual TIFFs, colour profiles and several pages: their right values."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from tests.conftest import UNTRAINED, picture

from picie.data.color_profiles import to_srgb
from picie.data.images import decode_image, image_size, measure_scales, open_image
from picie.data.remarks import MORE_BANDS, Remarks, inspect
from picie.data.scaling import Reading, estimate
from picie.errors import UnreadableImageError


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """An RGB picture (48, 64, 3) uint8 that uses the whole range."""
    pixels = picture(3)[0]
    pixels[0, 0], pixels[0, 1:30] = 0, 255
    return pixels


def deep(photo: np.ndarray, bits: int) -> np.ndarray:
    """The picture with `bits` per channel, stored in 16."""
    return (photo.astype(np.float64) * ((2**bits - 1) / 255)).round().astype(np.uint16)


def read(path: Path, reading: Reading | None = None) -> np.ndarray:
    return np.asarray(open_image(path, reading or Reading())).astype(int)


def sgi(values: np.ndarray, runs: bool) -> bytes:
    """An SGI file of 16 bits, from (H, W) or (H, W, C), with or without run lengths."""
    planes = np.atleast_3d(values)[::-1].transpose(2, 0, 1).astype(">u2")
    channels, height, width = planes.shape
    dimensions = 2 if channels == 1 else 3
    head = struct.pack(">hBBHHHHii", 474, runs, 2, dimensions, width, height, channels, 0, 65535).ljust(512, b"\0")
    if not runs:
        return head + planes.tobytes()
    rows = []
    for row in planes.reshape(-1, width):
        packed = b""
        for start in range(0, width, 100):
            part = row[start : start + 100]
            same = (part == part[0]).all()
            code = len(part) | (0 if same else 0x80)
            packed += struct.pack(">H", code) + (part[:1] if same else part).tobytes()
        rows.append(packed + b"\0\0")
    starts = 512 + 8 * len(rows) + np.cumsum([0, *(len(row) for row in rows[:-1])])
    lengths = np.array([len(row) for row in rows])
    return head + starts.astype(">u4").tobytes() + lengths.astype(">u4").tobytes() + b"".join(rows)


def write_16(path: Path, values: np.ndarray) -> Path:
    """Write 16-bit values as the format of the suffix."""
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(values))
    elif path.suffix == ".jp2":
        path.write_bytes(imagecodecs.jpeg2k_encode(values, codecformat="jp2", reversible=True, level=0))
    elif path.suffix == ".sgi":
        path.write_bytes(sgi(values, runs=False))
    elif path.suffix == ".ppm":
        kind = b"P5" if values.ndim == 2 else b"P6"
        header = kind + f"\n# a comment\n{values.shape[1]} {values.shape[0]}\n65535\n".encode()
        path.write_bytes(header + values.astype(">u2").tobytes())
    else:
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    return path


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".ppm", ".sgi"])
def test_deep_colour_images_look_like_their_8_bit_version(tmp_path: Path, photo: np.ndarray, bits: int, suffix: str) -> None:
    path = write_16(tmp_path / f"a{suffix}", deep(photo, bits))
    assert np.abs(read(path) - photo).max() <= 1
    assert image_size(path) == (48, 64)
    grey = write_16(tmp_path / f"g{suffix}", deep(photo[..., 1], bits))
    assert np.abs(read(grey)[..., 0] - photo[..., 1]).max() <= 1


def test_low_bits_are_not_dropped(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)  # their high byte is 0
    assert read(write_16(tmp_path / "a.png", np.stack([ramp] * 3, -1)))[..., 2].ravel().tolist() == list(range(256))


def test_run_lengths_of_an_sgi_are_expanded(tmp_path: Path, photo: np.ndarray) -> None:
    values = deep(photo, 12)
    values[10:12] = 1234  # runs of one value
    (tmp_path / "plain.sgi").write_bytes(sgi(values, runs=False))
    (tmp_path / "runs.rgb").write_bytes(sgi(values, runs=True))
    assert np.array_equal(read(tmp_path / "runs.rgb"), read(tmp_path / "plain.sgi"))
    damaged = bytearray(sgi(values, runs=True))
    damaged[512 + 8 * 48 * 3 : 512 + 8 * 48 * 3 + 2] = b"\0\0"
    (tmp_path / "runs.rgb").write_bytes(damaged)
    with pytest.raises(UnreadableImageError, match="a row has 0 values instead of 64"):
        open_image(tmp_path / "runs.rgb")


def test_a_stated_depth_has_a_scale_of_its_own(tmp_path: Path) -> None:
    """A file of 12 bits beside files of 16 does not become black."""
    ramp = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    for name, values, bits in (("a.jp2", ramp, 12), ("b.jp2", ramp * 16, 16)):
        (tmp_path / name).write_bytes(imagecodecs.jpeg2k_encode(values, codecformat="jp2", level=0, bitspersample=bits))
    (tmp_path / "c.pgm").write_bytes(b"P5 64 64 4095\n" + ramp.astype(">u2").tobytes())
    paths = sorted(tmp_path.iterdir())
    scales = measure_scales(paths)
    assert scales == {"uint12": (0.0, 4095.0), "uint16": (0.0, 65535.0)}
    assert [read(path, Reading(scales)).max() for path in paths] == [255, 255, 255]
    assert read(paths[0], Reading({"uint12": (0, 8190)})).max() == 128


def test_a_pfm_and_a_pgm_of_text_share_the_scale_of_their_folder(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 0.5, 64), (64, 1)).astype("<f4")
    (tmp_path / "a.pfm").write_bytes(b"Pf\n64 64\n-1.0\n" + ramp.tobytes())
    (tmp_path / "b.pgm").write_text("P2 2 1 4095\n400 400")
    assert read(tmp_path / "a.pfm", Reading({"float32": (0.0, 1.0)})).max() == 128
    assert read(tmp_path / "b.pgm", Reading({"uint16": (0, 65535)})).max() == 25  # Pillow spreads it over 16 bits
    assert measure_scales([tmp_path / "a.pfm"])["float32"] == pytest.approx((0, 0.5))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 2, 2, 16, 3), "a PSD of 16 bits per channel"),
        ("a.pfm", b"PF\n2 2\n-1.0\n" + bytes(48), "a PFM with colours"),
        ("a.pnm", b"P7\nWIDTH 2\n", "a PAM"),
        ("a.jpg", imagecodecs.jpeg_encode(np.zeros((8, 8), np.uint16), bitspersample=12), "a JPEG of 12 bits per channel"),
    ],
)
def test_unsupported_kinds_are_named(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"{kind}.* is not supported.; save it as PNG or TIFF"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("bits", [12, 16])
def test_alpha_uses_the_bits_of_the_colours(tmp_path: Path, photo: np.ndarray, bits: int) -> None:
    alpha = np.full(photo.shape[:2], 2**bits - 1, np.uint16)
    alpha[-5:] = 0
    path = write_16(tmp_path / "a.png", np.dstack([deep(photo, bits), alpha]))
    assert np.abs(read(path)[:-5] - photo[:-5]).max() <= 1
    assert (read(path)[-5:] == 255).all()


def test_a_hot_pixel_does_not_darken_the_image(tmp_path: Path) -> None:
    values = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    clean = read(write_16(tmp_path / "a.tif", values))
    values[30, 2] = 65535
    hot = read(write_16(tmp_path / "b.tif", values))
    changed = (clean != hot).any(-1)
    assert changed.sum() == 1 and hot[30, 2].tolist() == [255] * 3


def test_one_scale_serves_a_folder(tmp_path: Path) -> None:
    bright = write_16(tmp_path / "bright.tif", np.tile(np.linspace(0, 4000, 64).astype(np.uint16), (64, 1)))
    dark = write_16(tmp_path / "dark.tif", np.full((64, 64), 400, np.uint16))
    scales = measure_scales([bright, dark])
    assert scales == {"uint16": (0.0, 4095.0)}
    reading = Reading(scales)
    assert read(dark, reading)[0, 0].tolist() == [25] * 3  # 400 of 4095
    assert read(dark)[0, 0].tolist() == [200] * 3  # by itself: 400 of 511


@pytest.mark.parametrize(
    ("dtype", "nodata", "tagged"),
    [
        (np.float32, -9999, True),
        (np.float32, -9999, False),
        (np.float32, -3.4028234663852886e38, True),
        (np.float64, 1e38, False),
        (np.float32, np.nan, False),
        (np.float32, 0.125, True),
        (np.int16, -32768, True),
        (np.uint16, 65535, True),
    ],
)
def test_pixels_without_data_do_not_change_the_others(tmp_path: Path, dtype: Any, nodata: float, tagged: bool) -> None:
    scale = 0.01 if np.dtype(dtype).kind == "f" else 10
    values = (np.random.default_rng(0).uniform(20, 200, (60, 80)) * scale).astype(dtype)
    tifffile.imwrite(tmp_path / "clean.tif", values)
    clean = read(tmp_path / "clean.tif")
    values[:20, :20] = nodata
    tags = [(42113, "s", 0, str(nodata), True)] if tagged else []
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=tags)
    image = read(tmp_path / "a.tif")
    assert np.abs(image[20:] - clean[20:]).max() <= 2
    assert not image[:20, :20].any()


def test_floats_of_a_folder_share_their_percentiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.tif" for i in range(4)]
    for i, path in enumerate(paths):
        tifffile.imwrite(path, rng.uniform(i / 4, (i + 1) / 4, (50, 50)).astype(np.float32))
    reading = Reading(measure_scales(paths))
    assert np.allclose(reading.scales["float32"], (0, 1), atol=0.01)
    assert [round(read(path, reading).mean() / 32) for path in paths] == [1, 3, 5, 7]


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_photometric_interpretation_is_used(tmp_path: Path, photometric: str, dtype: Any) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    values = ramp.astype(dtype) * (257 if dtype == np.uint16 else 1)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric)
    expected = 255 - ramp if photometric == "miniswhite" else ramp
    assert np.array_equal(read(tmp_path / "a.tif")[..., 0], expected)


GEO = [(33550, "d", 3, (10.0, 10.0, 0.0), True)]


@pytest.mark.parametrize(("dtype", "planar"), [(np.uint8, "contig"), (np.uint8, "separate"), (np.uint16, "contig")])
@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha", "unspecified"])
def test_a_near_infrared_band_is_not_alpha(tmp_path: Path, photo: np.ndarray, dtype: Any, planar: str, extra: str) -> None:
    factor = 257 if dtype == np.uint16 else 1
    values = np.dstack([photo, picture(9)[0][..., :1]]).astype(dtype) * factor
    data = values if planar == "contig" else np.moveaxis(values, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig=planar, extrasamples=[extra], extratags=GEO)
    image = open_image(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(image), photo)
    assert image.info["notes"] == (MORE_BANDS,)


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_true_alpha_of_a_tiff_lies_over_white(tmp_path: Path, photo: np.ndarray, extra: str) -> None:
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:10], alpha[10:12] = 0, 128
    opacity = alpha[..., None] / 255
    stored = (photo * opacity).round() if extra == "assocalpha" else photo
    values = np.dstack([stored.astype(np.uint8), alpha])
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[extra])
    assert np.abs(read(tmp_path / "a.tif") - (photo * opacity + 255 * (1 - opacity))).max() <= 1.5


def test_of_many_bands_the_first_three_are_used(tmp_path: Path, photo: np.ndarray) -> None:
    bands = np.dstack([deep(photo, 12), deep(picture(5)[0], 12)[..., :2]])
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(bands, -1, 0), photometric="minisblack", planarconfig="separate")
    image = open_image(tmp_path / "a.tif")
    assert np.abs(np.asarray(image).astype(int) - photo).max() <= 1
    assert image.info["notes"] == (MORE_BANDS,)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_upright(tmp_path: Path, photo: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(tmp_path / "8.tif", exif=exif)
    tifffile.imwrite(tmp_path / "16.tif", deep(photo, 16), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read(tmp_path / "16.tif"), read(tmp_path / "8.tif"))
    assert image_size(tmp_path / "16.tif") == read(tmp_path / "16.tif").shape[:2]


def test_overviews_and_thumbnails_are_not_pages(tmp_path: Path, photo: np.ndarray) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(photo[::4, ::4], photometric="rgb", subfiletype=1)  # a thumbnail comes first
        tiff.write(photo, photometric="rgb")
        tiff.write(photo[::2, ::2], photometric="rgb", subfiletype=1)
    image = open_image(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(image), photo) and image.info["notes"] == ()
    assert image_size(tmp_path / "a.tif") == (48, 64)


def test_pages_and_frames_are_counted(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "blue", "green")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        image = open_image(tmp_path / name)
        assert image.info["notes"] == ("3 pages",), name
        assert np.abs(np.asarray(image)[2, 2].astype(int) - (255, 0, 0)).max() <= 3


def wide_gamut() -> bytes:
    """An ICC profile of linear light with other primaries."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    names = [bytes(profile[132 + 12 * i : 136 + 12 * i]) for i in range(struct.unpack(">I", profile[128:132])[0])]
    at = {name: struct.unpack(">I", profile[136 + 12 * i : 140 + 12 * i])[0] for i, name in enumerate(names)}
    for name, xyz in ((b"rXYZ", (0.7977, 0.2880, 0.0)), (b"gXYZ", (0.1352, 0.7119, 0.0)), (b"bXYZ", (0.0313, 0.0001, 0.8249))):
        profile[at[name] + 8 : at[name] + 20] = struct.pack(">3i", *(round(value * 65536) for value in xyz))
    text = b"desc" + bytes(4) + struct.pack(">I", 9) + b"ProPhoto\0" + bytes(80)
    profile[at[b"desc"] : at[b"desc"]] = b""
    size = struct.unpack(">I", profile[140 + 12 * names.index(b"desc") : 144 + 12 * names.index(b"desc")])[0]
    profile[at[b"desc"] : at[b"desc"] + size] = (text + bytes(size))[:size]
    return bytes(profile)


def test_colour_profiles_are_converted_to_srgb(tmp_path: Path, photo: np.ndarray) -> None:
    profile = wide_gamut()
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(Image.fromarray(photo), source, target)).astype(int)
    assert np.abs(expected - photo).mean() > 5  # the conversion changes something
    Image.fromarray(photo).save(tmp_path / "a.png", icc_profile=profile)
    tifffile.imwrite(tmp_path / "a.tif", deep(photo, 16), photometric="rgb", iccprofile=profile)
    Image.fromarray(np.dstack([photo, np.full((48, 64), 255, np.uint8)])).save(tmp_path / "b.png", icc_profile=profile)
    for name in ("a.png", "a.tif", "b.png"):
        assert np.abs(read(tmp_path / name) - expected).max() <= 1, name


def test_srgb_and_damaged_profiles_leave_colours_alone(photo: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (None, srgb, srgb[:200], b"rubbish"):
        assert np.array_equal(np.asarray(to_srgb(Image.fromarray(photo), profile)), photo)


FORMATS = ("png", "tiff", "gif", "bmp", "webp", "jpeg", "jpeg2000", "ppm", "tga", "pcx", "sgi", "avif", "qoi")


@pytest.mark.parametrize("kind", [*FORMATS, "tiff16", "png16", "jp2-16"])
def test_damaged_files_are_unreadable_images(tmp_path: Path, photo: np.ndarray, kind: str) -> None:
    path = tmp_path / "a.x"
    if kind in FORMATS:
        Image.fromarray(photo).save(path, kind)
    else:
        source = write_16(tmp_path / f"a.{({'tiff16': 'tif', 'png16': 'png'}).get(kind, 'jp2')}", deep(photo, 12))
        path.write_bytes(source.read_bytes())
    whole, rng, read_anyway = path.read_bytes(), np.random.default_rng(0), 0
    for trial in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole))] if trial % 3 == 0 else whole)
        for position in rng.integers(0, min(len(damaged), 400), 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            open_image(path, Reading(max_pixels=1_000_000))
            read_anyway += 1
        except UnreadableImageError as error:
            assert "\n" not in str(error)
    assert read_anyway < 60


def test_a_header_that_claims_gigabytes_is_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")))
    data = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    with pytest.raises(UnreadableImageError, match=r"60000 x 60000 pixels; the limit is 500 megapixels"):
        decode_image(b"\x89PNG\r\n\x1a\n" + data, Reading())


def test_remarks_are_one_line_for_each_kind() -> None:
    remarks = Remarks()
    black, white, photo_like = Image.new("RGB", (90, 9)), Image.new("RGB", (9, 9), "white"), Image.fromarray(picture(1)[0])
    remarks.add("p.png", inspect(photo_like))
    assert remarks.lines() == []
    for name, image in (("b.png", black), ("c.png", black), ("w.png", white), ("g.png", Image.new("RGB", (9, 9), "grey"))):
        remarks.add(name, inspect(image))
    photo_like.info = {"notes": ("2 pages", MORE_BANDS)}
    remarks.add("m.tif", inspect(photo_like))
    assert remarks.lines() == [
        "2 of 6 images are nearly black, 1 of 6 images are nearly white, 1 of 6 images are of one colour, e.g. b.png; "
        "check their bit depth, nodata value and data.scale",
        "only the first page or frame is used of m.tif (2 pages)",
        "only the first bands are used, as RGB, of m.tif",
    ]


def test_estimates_by_hand() -> None:
    assert estimate([]) == (0, 255)
    assert estimate([np.array([0, 255], np.uint16)]) == (0, 255)
    assert estimate([np.array([1000, 2000], np.uint16)]) == (0, 2047)
    assert np.allclose(estimate([np.linspace(-1, 1, 1001)]), (-0.998, 0.998))


def test_training_records_the_scale_and_prediction_uses_it(cli: Any, tmp_path: Path, photo: np.ndarray) -> None:
    folder, run = tmp_path / "d", tmp_path / "run"
    folder.mkdir()
    for i in range(4):
        write_16(folder / f"{i}.tif", deep(picture(i)[0], 12))
    assert cli("train", folder, *UNTRAINED, "--out", run)[0] == 0
    assert "uint16 = [\n    0.0,\n    4095.0,\n]" in (run / "config.toml").read_text("utf-8")
    assert '"uint16": [\n' in (run / "run.json").read_text("utf-8")
    dark = tmp_path / "dark"
    dark.mkdir()
    write_16(dark / "a.tif", deep(photo, 12) // 16)  # by itself it would be scaled from 0..255
    status, _, err = cli("predict", run, dark, "--out", tmp_path / "out")
    assert status == 0
    assert "1 of 1 images are nearly black, e.g. a.tif" in err
