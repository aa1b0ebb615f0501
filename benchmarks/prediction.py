"""Measure `picie predict` against the number of pictures and of processes, and its memory over time.

    python -m benchmarks.prediction --images 2500 10000 --out benchmarks/results/prediction.jsonl

The pictures are generated, 64 x 48 pixels, and the network is tiny and untrained, so that the time
is that of everything around it: reading, decoding, encoding, writing and the record.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_NETWORK = ("model.backbone=test_efficientnet", "model.pretrained=false", "model.dim=8", "views.size=32", "run.report=false")
_KINDS = 64  # different pictures; the others are copies
_EVERY = 0.25  # seconds between two looks at the memory


def main() -> None:
    """Measure, print and append the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2500, 10_000], help="numbers of pictures")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, required=True, help="file that the records are appended to, as JSON lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_pictures(root / "train", 64)
        picie("train", root / "train", "-k", 8, "--epochs", 0, "--out", root / "run", *_NETWORK)
        for images in options.images:
            write_pictures(root / f"{images}", images)
            for processes in options.processes:
                record = measure(root / "run", root / f"{images}", root / f"{images}-{processes}", processes)
                print(json.dumps(record), flush=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


def write_pictures(folder: Path, n: int) -> None:
    """Write `n` noisy JPEGs, a thousand in a folder."""
    contents = [_picture(seed) for seed in range(_KINDS)]
    for number in range(n):
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % _KINDS])


def _picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BILINEAR).save(file, "JPEG")
    return file.getvalue()


def picie(*arguments: object) -> None:
    """Run a command to its end."""
    subprocess.run(_command(*arguments), check=True)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "picie", "-q", *map(str, arguments)]


def measure(run: Path, photos: Path, out: Path, processes: int) -> dict[str, Any]:
    """Predict a folder in one process, or in shards, and join these.

    Returns:
        Wall and CPU seconds, images/s, and the resident memory of the first process in MB at tenths
        of its time, after the first tenth, in which it starts.
    """
    before, start = os.times(), time.perf_counter()
    shards = [("--shard", f"{index}/{processes}") for index in range(1, processes + 1)] if processes > 1 else [()]
    commands = [_command("predict", run, photos, "--out", out, "--device", "cpu", *shard) for shard in shards]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    memory = []
    while running[0].poll() is None:
        memory.append(_resident_mb(running[0].pid))
        time.sleep(_EVERY)
    if any(process.wait() for process in running):
        sys.exit("picie predict failed")
    if processes > 1:
        picie("gather", out)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    images = len(json.loads((out / "predictions.json").read_bytes())["images"])
    return {
        "images": images,
        "processes": processes,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "images_per_second": round(images / wall, 1),
        "images_per_cpu_second": round(images / cpu, 1),
        "memory_mb": [memory[len(memory) * tenth // 10] for tenth in range(1, 10)],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _resident_mb(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text("utf-8")
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    main()
