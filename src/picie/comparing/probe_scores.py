"""Probes of the runs of an ablation, kept in a file beside their other records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picie.errors import InputError
from picie.runtime.atomic_write import write_atomically

PROBES = {"more_clusters": "mIoU %, more clusters", "linear_probe": "mIoU %, linear probe"}
"""Names of the scores in `Run.probes`, and their titles in tables."""
_FILE = "probes.json"


def read_probes(run: Path) -> dict[str, float]:
    """The scores that `measure_probes` wrote for a run; empty if there are none.

    Raises `InputError` if the file is damaged.
    """
    path = run / _FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        return {key: float(content[key]["miou"]) for key in PROBES if key in content}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete it, and run the ablation again") from error


def measure_probes(run: Path) -> None:
    """Score the probes of a finished run, see `picie.scoring.probes`, and write the file.

    Nothing is done if the file is newer than the run's checkpoint.
    """
    from picie.scoring.evaluation import ScoreOptions
    from picie.scoring.probes import LINEAR, MORE_CLUSTERS, evaluate_probes

    path = run / _FILE
    if path.is_file() and path.stat().st_mtime >= (run / "checkpoint.pt").stat().st_mtime:
        return
    starts = {"more_clusters": MORE_CLUSTERS, "linear_probe": LINEAR}
    rows: dict[str, Any] = {}
    for name, result in evaluate_probes(run, options=ScoreOptions(progress=False)).items():
        for key, start in starts.items():
            if name.startswith(start):
                rows[key] = {"accuracy": result.scores.accuracy, "miou": result.scores.miou, "protocol": result.protocol}
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
