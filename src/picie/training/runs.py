"""Training from Python: `train` and `resume` return a `Run`."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from picie.config import Config
from picie.errors import InputError
from picie.inference.segmenter import Segmenter
from picie.runtime import checkpoint
from picie.runtime.progress import shown_logs
from picie.runtime.run_record import read_metrics
from picie.training import api
from picie.training.keywords import Keywords, config_of, default_folder


class Run:
    """A run: the folder that training leaves.

    It can be given wherever a run's folder is expected, e.g. `picie.evaluate(run, "labelled")`.

    Args:
        path: the run's folder.

    Attributes:
        path: the run's folder.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checkpoint.find_checkpoint(path).parent
        self._opened: tuple[tuple[int, int], Segmenter] | None = None

    @property
    def segmenter(self) -> Segmenter:
        """The run's segmenter, on the device of `run.device`.

        It is loaded again when the run's checkpoint has changed, e.g. by `picie name`.
        """
        status = (self.path / checkpoint.FILE_NAME).stat()
        version = (status.st_mtime_ns, status.st_ino)
        if self._opened is None or self._opened[0] != version:
            state = checkpoint.load(self.path)
            device = str(state["config"].get("run", {}).get("device", "auto"))
            self._opened = version, Segmenter.load(self.path, device)
        return self._opened[1]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A dictionary for each epoch: losses, inertia, seconds, and scores if there are labels.

        `pandas.DataFrame(run.metrics)` is a table.
        """
        return read_metrics(self.path)

    @property
    def report(self) -> Path:
        """The run's page, report.html; it is written if the training did not."""
        from picie.report import FILE_NAME, write_report  # its imports take a second

        page = self.path / FILE_NAME
        return page if page.is_file() else write_report(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        figures = "; ".join(f"{name} {value}" for name, value in self._figures())
        return f"Run({str(self.path)!r}{'; ' if figures else ''}{figures})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self._figures())
        path = html.escape(str(self.path))
        return f"<table><tr><th>run</th><td>{path}</td></tr>{rows}</table>{self.segmenter._repr_html_()}"

    def _figures(self) -> list[tuple[str, str]]:
        """Names and values of the last epoch's figures."""
        lines = self.metrics
        last = lines[-1] if lines else {}
        figures = [("epochs", str(last["epoch"]))] if last else []
        figures += [(name, f"{last[name]:.3f}") for name in ("loss",) if last.get(name) is not None]
        scores = (("accuracy", "accuracy"), ("miou", "mIoU"))
        figures += [(title, f"{last[name]:.1f} %") for name, title in scores if last.get(name) is not None]
        return figures


def train(
    data: str | os.PathLike[str] | Config,
    /,
    *,
    clusters: int | None = None,
    epochs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Unpack[Keywords],
) -> Run:
    """Train a new run on a folder of images; labels are not needed.

    Log lines are shown unless the program has set up logging (a level for the logger "picie", or
    INFO for all). The global random generators are as before afterwards. Under torchrun every
    process calls this, and they train the run together.

    Args:
        data: a folder of images, the name of a dataset (`picie list datasets`), or a whole
            `Config`, which takes no other option than `out`.
        clusters: the number of clusters, K; 27 by default.
        epochs: the number of epochs; 5 by default. 0 clusters the untrained network.
        out: the run's folder, which must not hold a run already; by default
            runs/DATA-METHOD-kK-sSEED.
        options: further options, by the names of `picie train`: seed, method, backbone, size,
            batch_size, include, exclude, lr, device, workers, preset, config (a TOML file). Every
            other option is an entry of its section, e.g. `views={"crop": 320}`; see the page of
            options.

    Returns:
        The run.

    Raises:
        InputError: the configuration or the data cannot be used; nothing is left behind.
        TrainingError: the loss is not finite, or memory ran out.
        Stopped: SIGINT or SIGTERM; `resume` continues the run.
    """
    with shown_logs():
        if isinstance(data, Config):
            if options or clusters is not None or epochs is not None:
                raise InputError("a whole Config takes no other option than out; change the Config instead")
            config = data
        else:
            config = config_of(data, {"clusters": clusters, "epochs": epochs, **options})
        return Run(api.train(config, default_folder(config) if out is None else Path(out)))


def resume(run: str | os.PathLike[str], *, epochs: int | None = None, overrides: Sequence[str] = ()) -> Run:
    """Continue a run exactly where it stopped.

    Args:
        run: the run, or its folder.
        epochs: the number of epochs in all, to train a finished run for more; None keeps it.
        overrides: "run.key=value" (options that do not change results) or "data.root=FOLDER" (the
            same images elsewhere).

    Returns:
        The run.

    Raises:
        InputError: there is no run, an override is not allowed, or the images have changed; also as
            for `train`.
    """
    more = () if epochs is None else (f"train.epochs={epochs}",)
    with shown_logs():
        return Run(api.resume(Path(run), (*overrides, *more)))
