"""Scores of several settings over several seeds, from the command line's own commands, as one table.

    python benchmarks/seeds.py DATA -k 11 --out runs/camvid

Each run is `picie train` and `picie evaluate --json`; what is there already is not run again. The spread is the standard
deviation over seeds (n - 1). Scores are those of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SETTINGS = {
    "not trained": ["--epochs", "0"],
    "not trained, one start": ["--epochs", "0", "cluster.refit=0"],
    "preset reference": ["--preset", "reference"],
    "preset default": [],
    "mdc, default": ["--method", "mdc"],
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="labelled folder, as for picie train")
    parser.add_argument("-k", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", default="10", help="of the settings that train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), help="settings by name")
    parser.add_argument("options", nargs="*", help="section.key=value for all runs")
    asked = parser.parse_intermixed_args()
    args_of = {name: [*SETTINGS[name], "-k", str(asked.k), *asked.options] for name in asked.only}
    for arguments in args_of.values():
        arguments += [] if "--epochs" in arguments else ["--epochs", asked.epochs]
    print("| setting | accuracy | mIoU | epoch, s (median) | peak memory, MB |\n|---|---|---|---|---|")
    for name, arguments in args_of.items():
        runs = [
            _run(asked.data, asked.out / f"{name.replace(' ', '-')}-{s}", [*arguments, "--seed", str(s)])
            for s in range(asked.seeds)
        ]
        for other, scores in runs[0]["scores"].get("baselines", {}).items():
            print(f"| {other} (seed 0) | {scores['accuracy']:.1f} | {scores['miou']:.1f} | | |")
        accuracy, miou = ([run["scores"][key] for run in runs] for key in ("accuracy", "miou"))
        seconds = statistics.median(s for run in runs for s in run["seconds"])
        memory = max(run["memory"] for run in runs)
        print(f"| {name} | {_spread(accuracy)} | {_spread(miou)} | {seconds:.1f} | {memory} |", flush=True)


def _run(data: str, folder: Path, arguments: list[str]) -> dict[str, object]:
    scores = folder / "scores.json"
    if not scores.is_file():
        picie = [sys.executable, "-m", "picie", "--quiet"]
        subprocess.run([*picie, "train", data, "--out", str(folder), *arguments], check=True, stdout=subprocess.DEVNULL)
        beside = ["--baselines"] if folder.name == "not-trained-0" else []
        evaluate = [*picie, "evaluate", str(folder), "--json", str(scores), *beside]
        subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "scores": json.loads(scores.read_text()),
        "seconds": [sum(line["seconds"].values()) for line in lines],
        "memory": json.loads((folder / "run.json").read_text())["peak_memory_mb"],
    }


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {deviation:.1f} ({', '.join(f'{v:.1f}' for v in values)})"


if __name__ == "__main__":
    main()
