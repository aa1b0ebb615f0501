"""A run in two processes that only a network connects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import TINY

from picie.config import load
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api

ROOT = Path(__file__).parents[2]


def _may_make_namespaces() -> bool:
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "picie-probe"], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", "picie-probe"], check=True)
    return made


@pytest.mark.long
def test_two_network_namespaces_train_as_one_process(labelled_folder: Path, tmp_path: Path) -> None:
    if not _may_make_namespaces():
        pytest.skip("network namespaces need Linux and root")
    options = [*(o for o in TINY if not o.startswith("train.lr")), "train.lr=1e-5", "train.precision=fp32"]
    api.train(load(None, None, [*options, f"data.root={labelled_folder}"]), tmp_path / "one")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    ended = subprocess.run(
        ["bash", ROOT / "benchmarks/two_hosts.sh", labelled_folder, *options, "run.progress=false", "--out", tmp_path / "two"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert RunRecord(tmp_path / "two").read()["engine"]["processes"] == 2
    for ours, theirs in zip(read_metrics(tmp_path / "two"), read_metrics(tmp_path / "one"), strict=True):
        for key in ("loss", "within", "cross", "inertia"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
