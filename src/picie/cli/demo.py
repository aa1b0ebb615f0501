"""`picie demo`: all steps on built-in scenes, from generated images to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from PIL import Image

from picie import config
from picie.cli.tables import show_evaluation
from picie.data.folder import Folder
from picie.data.images import open_image
from picie.data.scenes.dataset import write
from picie.display.overlays import colorize, legend, overlay, sheet
from picie.errors import InputError
from picie.inference.predict import predict_files
from picie.inference.segmenter import Segmenter
from picie.report import FILE_NAME
from picie.runtime.atomic_write import write_atomically
from picie.runtime.progress import log
from picie.scoring.baselines import evaluate_baselines
from picie.scoring.evaluation import evaluate
from picie.training.api import train

_ROWS = 8


def demo(out: Path, seed: int = 0) -> None:
    """Generate scenes, train PiCIE, score it and baselines, predict, and draw the results.

    Args:
        out: folder for scenes/, run/ (with its report), predictions/ and results.png.
        seed: determines the scenes and the training.

    Raises:
        InputError: `out` contains anything but scenes.
    """
    # `write` replaces the scenes of an interrupted call, and refuses other files there
    if out.exists() and (not out.is_dir() or any(path.name != "scenes" for path in out.iterdir())):
        raise InputError(f"--out {out}: exists already; give another folder or remove it")
    data, run, predictions = out / "scenes", out / "run", out / "predictions"
    log.info("drawing scenes: %s", data)
    write(data, seed=seed)
    log.info("training on the images only (picie train %s --preset demo); labels are used for scores only", data)
    train(config.load("demo", None, [f"seed={seed}", f"data.root={json.dumps(str(data), ensure_ascii=False)}"]), run)
    result = evaluate(run)
    show_evaluation(result, evaluate_baselines(run))
    predict_files(run, [data / "images" / "val"], predictions)
    results = out / "results.png"
    drawn = _results_sheet(run, data)
    write_atomically(results, lambda file: drawn.save(file, "PNG"))
    typer.echo(f"open {run / FILE_NAME} or {results}  (and {predictions}/*_overlay.jpg)")


def _results_sheet(run: Path, data: Path) -> Image.Image:
    """Draw image | prediction | overlay | label of some validation images."""
    segmenter, val = Segmenter.load(run), Folder(data, "val")
    rows = []
    for index in range(0, len(val), max(1, len(val) // _ROWS))[:_ROWS]:
        image = open_image(val.paths[index])
        labels = segmenter.predict(image)
        truth = colorize(val.label(index), segmenter.colors)
        rows.append([image, colorize(labels, segmenter.colors), overlay(image, labels, segmenter.colors), truth])
    width = 4 * (rows[0][0].width + 6)
    titles = ["image", "picie, without labels", "overlay", "label (only for the score)"]
    return sheet(rows, titles, legend(segmenter.names, segmenter.colors, width))
