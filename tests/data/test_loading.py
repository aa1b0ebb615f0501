"""FrameCache from the cache and from decoding, in order, and never far ahead of the consumer."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from picie.data.base import ClassMap
from picie.data.folder import Folder
from picie.data.frame_reading import read_frame
from picie.data.loading import FrameCache, default_workers, read_ahead, split_batches
from picie.errors import InputError, UnreadableImageError


class Counting:
    """A dataset of n images that counts decodings; those in `bad` are unreadable."""

    classes: ClassMap | None = None

    def __init__(self, n: int, bad: tuple[int, ...] = ()) -> None:
        self.n, self.bad, self.decoded = n, bad, [0] * n
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.n

    def name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int) -> Image.Image:
        with self._lock:
            self.decoded[index] += 1
        if index in self.bad:
            raise UnreadableImageError(f"{index}.png: broken")
        return Image.new("RGB", (20, 16), (index, 2 * index, 255 - index))

    def label(self, index: int) -> np.ndarray:
        raise AssertionError("a label was opened")


def scanned(dataset: object, folder: Path, cache_gb: float = 8.0, workers: int | None = None) -> FrameCache:
    frames = FrameCache(dataset, (8, 8), folder, cache_gb, workers)
    frames.scan("skip", lambda n: None)
    return frames


BATCHES = [np.array([5, 0, 3]), np.array([1]), np.array([4, 2])]


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
@pytest.mark.parametrize("cache_gb", [0.0, 8.0])
def test_frames_come_in_the_order_asked_for(
    tmp_path: Path, labelled_folder: Path, cache_gb: float, workers: int | None
) -> None:
    dataset = Folder(labelled_folder, "train")
    frames = scanned(dataset, tmp_path, cache_gb, workers)
    got = list(frames.batches(BATCHES))
    frames.close()
    assert [indices.tolist() for indices, _ in got] == [b.tolist() for b in BATCHES]
    for indices, pixels in got:
        expected = np.stack([read_frame(dataset, int(i), (8, 8))[0] for i in indices])
        assert np.array_equal(pixels.numpy(), expected)
    assert not list(tmp_path.iterdir())  # the frame file has no name


def test_cached_images_are_decoded_once_and_others_each_time(tmp_path: Path) -> None:
    for cache_gb, times in ((8.0, 1), (0.0, 3)):
        dataset = Counting(6)
        frames = scanned(dataset, tmp_path, cache_gb)
        for _ in range(2):
            list(frames.batches(BATCHES))
        frames.close()
        assert dataset.decoded == [times] * 6


def test_the_cache_has_a_limit(tmp_path: Path) -> None:
    size = 6 * 3 * 8 * 8
    for cache_gb, times in ((size / 1e9, 1), ((size - 1) / 1e9, 2)):
        dataset = Counting(6)
        frames = scanned(dataset, tmp_path, cache_gb)
        list(frames.batches(BATCHES))
        frames.close()
        assert dataset.decoded == [times] * 6


def test_only_an_unexpectedly_missing_cache_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    line = "frames need 1.2 kB, more than run.cache_gb or half of the free disk space: images are decoded in every pass"
    for cache_gb, said in ((8.0, []), (0.0, []), (1e-6, [line])):
        caplog.clear()
        scanned(Counting(6), tmp_path, cache_gb).close()
        assert [message for message in caplog.messages if "frames" in message] == said
    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    caplog.clear()
    scanned(Counting(6), tmp_path).close()
    assert [message for message in caplog.messages if "frames" in message] == [line]


class Full:
    """A disk whose half is less than the frames of six pictures."""

    free = 2 * 6 * 3 * 8 * 8 - 1


def test_scan_skips_and_reports_what_cannot_be_read(tmp_path: Path) -> None:
    done: list[int] = []
    frames = FrameCache(Counting(5, bad=(1, 4)), (8, 8), tmp_path)
    good = frames.scan("skip", done.append)
    frames.close()
    assert good.tolist() == [0, 2, 3]
    assert sum(done) == 5
    assert frames.unreadable == {1: "1.png: broken", 4: "4.png: broken"}


def test_scan_stops_at_a_bad_image_if_asked_to(tmp_path: Path) -> None:
    frames = FrameCache(Counting(5, bad=(1, 4)), (8, 8), tmp_path)
    with pytest.raises(InputError, match=r"1\.png: broken.*data\.on_bad_image=skip"):
        frames.scan("error", lambda n: None)
    frames.close()


def test_scan_needs_one_good_image(tmp_path: Path) -> None:
    frames = FrameCache(Counting(2, bad=(0, 1)), (8, 8), tmp_path)
    with pytest.raises(InputError, match=r"none of the 2 images.*0\.png: broken"):
        frames.scan("skip", lambda n: None)
    frames.close()


def test_a_file_that_disappears_is_named_unless_it_is_cached(own_folder: Path, tmp_path: Path) -> None:
    dataset = Folder(own_folder, "train")
    cached, decoding = scanned(dataset, tmp_path), scanned(dataset, tmp_path, cache_gb=0)
    dataset.paths[3].unlink()
    assert len(list(cached.batches(BATCHES))) == 3
    with pytest.raises(UnreadableImageError, match=r"003\.jpg"):
        list(decoding.batches(BATCHES))
    cached.close()
    decoding.close()


def test_decoding_stays_a_bounded_way_ahead(tmp_path: Path) -> None:
    dataset = Counting(60)
    frames = scanned(dataset, tmp_path, cache_gb=0, workers=2)
    passing = frames.batches(split_batches(np.arange(60), 3))
    taken = 0
    for _ in range(4):
        taken += len(next(passing)[0])
        time.sleep(0.05)
        assert sum(dataset.decoded) - 60 <= taken + 2 * 3 + 1
    passing.close()
    frames.close()


def test_read_ahead_keeps_order_and_bound() -> None:
    started: list[int] = []

    def slow_at_first(item: int) -> int:
        started.append(item)
        time.sleep(0.03 if item == 0 else 0)
        return item * item

    results = read_ahead(slow_at_first, range(40), workers=4, ahead=5)
    assert next(results) == 0
    time.sleep(0.05)
    assert max(started) <= 6
    assert list(results) == [i * i for i in range(1, 40)]
    assert sorted(started) == list(range(40))


def test_read_ahead_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picie.data.loading._AHEAD_BYTES", 10)
    started: list[int] = []

    def start(item: int) -> int:
        started.append(item)
        return item

    sizes = [4, 4, 4, 30, 1, 1]
    results = read_ahead(start, range(6), workers=2, ahead=4, cost=lambda item: sizes[item])
    expected = [[0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    for item in range(6):
        assert next(results) == item
        time.sleep(0.02)
        assert sorted(started) == expected[item]
    with pytest.raises(StopIteration):
        next(results)


def test_read_ahead_hands_on_an_error_in_its_place() -> None:
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = read_ahead(fail_at_three, range(10), workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_read_ahead_of_nothing_is_nothing() -> None:
    assert list(read_ahead(lambda i: i, [])) == []


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (9, 3, [3, 3, 3]), (1, 3, [1]), (3, 1, [1, 1, 1]), (0, 3, [])]
)
def test_split_batches_keeps_all_and_order_and_leaves_no_image_alone(n: int, size: int, sizes: list[int]) -> None:
    batches = split_batches(np.arange(n), size)
    assert [len(b) for b in batches] == sizes
    assert [i for b in batches for i in b.tolist()] == list(range(n))


def test_default_workers_leave_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 1), (2, 1), (8, 7), (64, 16)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_workers() == workers
