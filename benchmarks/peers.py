"""Compare picie with what one would write with other libraries: `python -m benchmarks.peers`.

    OMP_NUM_THREADS=1 python -m benchmarks.peers camvid/ -k 11 --run runs/camvid

The peers cluster features of the same untrained timm network, on the same pixels and threads: with
scikit-learn's MiniBatchKMeans and with faiss's spherical k-means, each the best of 8 starts. Their
clusters are scored under picie's protocol, beside those of `picie train --epochs 0` and of a
trained run. Then a supervised training step of an FPN of segmentation_models_pytorch, if it is
installed, is timed beside one of picie's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli import check_out
from benchmarks.meters import cores, in_process, stoppable
from picie.cli.exit_status import run_app
from picie.cli.options import data_options, join_options
from picie.comparing.run_records import Run
from picie.config import Config, load
from picie.errors import InputError
from picie.runtime.run_record import git_state, versions

UNTRAINED = "picie train --epochs 0"
_EXTRA = ("scikit-learn", "faiss-cpu", "segmentation-models-pytorch")
_SUPERVISED = {"fp32": "smp FPN, supervised, float32", "bf16": "smp FPN, supervised, bfloat16"}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and return its exit status."""
    return run_app(app, "python -m benchmarks.peers", arguments)


@app.command()
def peers(
    data: Annotated[str, typer.Argument(help="Folder of images, or a name of `picie list datasets`.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Any option.")] = None,
    clusters: Annotated[int, typer.Option("--clusters", "-k", help="Number of clusters K.")] = 11,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="A trained run on the same data, for its row.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each contestant runs.")] = 1,
    steps: Annotated[int, typer.Option(min=0, help="Training steps to time; 0 times none.")] = 10,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Append a JSON line to this file.")] = None,
) -> None:
    """Time and score k-means on timm features by other libraries, picie, and a supervised step."""
    check_out(out)
    options = join_options({"cluster.k": clusters}, overrides or [])
    fixed = ["train.epochs=0", "run.report=false", "run.progress=false"]
    # all contestants compute features of the same pixels
    scale = [] if any(option.startswith("evaluate.scale=") for option in options) else ["evaluate.scale=1"]
    config = load(None, None, [*data_options(data, options), *options, *scale, *fixed])
    trained = None if run is None else _trained(run, config)
    with stoppable(), tempfile.TemporaryDirectory(prefix="picie-peers-") as temporary:
        results: dict[str, dict[str, Any]] = {}
        for number in range(rounds):
            results |= _round(config, Path(temporary) / f"run-{number}", results)
        timed = _child(_training_steps, config, steps)[0] if steps else {}
    if trained is not None:
        results["picie, trained (as its record says)"] = trained
    _show(results, timed)
    if out is not None:
        record = {
            "taken": time.strftime("%Y-%m-%d"),
            "versions": versions() | _versions(),
            "git": git_state(),
            "cores": cores(),
            "backbone": config.model.backbone,
            "k": config.cluster.k,
            "contestants": results,
            "steps": timed,
        }
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        typer.echo(f"{out}")


def _round(config: Config, out: Path, before: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Run each contestant once; keeps the faster of this time and the one `before`."""
    work: dict[str, tuple[Callable[..., Any], Any]] = {UNTRAINED: (_untrained, out)}
    for name in ("scikit-learn MiniBatchKMeans", "faiss spherical k-means"):
        work[f"timm + {name}"] = (_timm, name)
    results = {}
    for name, (function, argument) in work.items():
        typer.echo(name, err=True)
        found, seconds = _child(function, config, argument)
        found["seconds"] = seconds
        earlier = before.get(name, found)
        results[name] = min(found, earlier, key=lambda one: float(one["cpu_seconds"]))
    return results


def _child(function: Callable[..., dict[str, Any]], *arguments: Any) -> tuple[dict[str, Any], float]:
    """The result of `function` in a process of its own, and its seconds, imports included."""
    began = time.perf_counter()
    return in_process(function, *arguments), time.perf_counter() - began


def _timm(*arguments: Any) -> dict[str, Any]:
    from benchmarks.peer_recipes import cluster_timm_features  # imports torch

    return cluster_timm_features(*arguments)


def _untrained(*arguments: Any) -> dict[str, Any]:
    from benchmarks.peer_recipes import picie_untrained

    return picie_untrained(*arguments)


def _training_steps(*arguments: Any) -> dict[str, Any]:
    from benchmarks.peer_recipes import training_steps

    return training_steps(*arguments)


def _trained(path: Path, config: Config) -> dict[str, Any]:
    """The last scores and the time of a trained run, from its records.

    Raises:
        InputError: it has another K or backbone, or no scores.
    """
    run = Run.read(path)
    for name, ours, theirs in (
        ("cluster.k", config.cluster.k, run.config.cluster.k),
        ("model.backbone", config.model.backbone, run.config.model.backbone),
        ("views.size", config.views.size, run.config.views.size),
    ):
        if ours != theirs:
            raise InputError(f"--run {path}: its {name} is {theirs}, not {ours}; give a run of the same setting")
    accuracy, miou = run.value("accuracy"), run.value("miou")
    if accuracy is None or miou is None:
        raise InputError(f"--run {path}: it has no scores; give a run on labelled data")
    scores = {"accuracy": accuracy, "miou": miou, "protocol": run.last["protocol"]}
    return {"seconds": run.record["seconds"], **scores, "epochs": run.last["epoch"]}


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in _EXTRA:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _table(results: dict[str, dict[str, Any]], reference: str) -> Sequence[str]:
    """Lines of a table of the contestants; ratios are of processor time, to that of `reference`."""
    lines = [f"{'':44} {'CPU s':>7} {'ratio':>6} {'wall s':>7} {'accuracy':>9} {'mIoU':>5}"]
    for name, found in results.items():
        cpu, base = found.get("cpu_seconds"), results[reference]["cpu_seconds"]
        times = f"{cpu:7.1f} {cpu / base:6.2f} {found['seconds']:7.1f}" if cpu else f"{'':7} {'':6} {found['seconds']:7.1f}"
        scores = f"{found['accuracy']:9.1f} {found['miou']:5.1f}" if "miou" in found else f"{'-':>9} {'-':>5}"
        lines.append(f"{name:44} {times} {scores}")
    return lines


def _show(results: dict[str, dict[str, Any]], timed: dict[str, Any]) -> None:
    for line in _table(results, UNTRAINED):
        typer.echo(line)
    protocols = {found["protocol"]: name for name, found in results.items() if "protocol" in found}
    for protocol, name in protocols.items() if len(protocols) > 1 else ():
        typer.echo(f"protocols differ: {name}: {protocol}")
    if not timed:
        return
    typer.echo("\nms of processor time per image of a training step")
    typer.echo(f"  picie, two views                 {timed['milliseconds']['picie']:6.1f}")
    for name, title in _SUPERVISED.items():
        if name in timed["ratios"]:
            ratio = timed["ratios"][name]
            typer.echo(f"  {title:32} {timed['milliseconds'][name]:6.1f}   picie / it: {ratio:.2f}")
    if not timed["ratios"]:
        typer.echo("  no supervised step: pip install segmentation-models-pytorch")


if __name__ == "__main__":
    sys.exit(main())
