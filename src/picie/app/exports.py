"""Export of all pictures of the gallery: predicted, converted, and offered as one file."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picie import registry
from picie.conversion.base import ConvertOptions, Format
from picie.conversion.convert import convert, default_name
from picie.errors import InputError, PicieError, Stopped
from picie.inference.predict import predict_files
from picie.inference.prediction_options import PredictOptions
from picie.inference.prediction_record import LEGEND
from picie.runtime.interrupts import StopRequest, stopped_by
from picie.runtime.progress import log

MASKS = "masks"
"""The format of `picie predict` itself: indexed PNGs, a legend and predictions.json."""


class Exports:
    """Makes one export at a time, in a thread.

    Label maps stay in a temporary folder until the program ends, so that the next export, also in
    another format, predicts only what has changed.

    Args:
        run: the run's folder.
        pictures: the files.
        device: where to compute.
    """

    def __init__(self, run: Path, pictures: Sequence[Path], device: str) -> None:
        self.run, self.pictures, self.device = run, list(pictures), device
        self._folder = tempfile.TemporaryDirectory(prefix="picie-app-", ignore_cleanup_errors=True)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = StopRequest()
        self._state: dict[str, Any] = {"state": "none"}
        self.file: Path | None = None

    @staticmethod
    def formats() -> list[str]:
        """The names of the formats."""
        return [MASKS, *registry.FORMATS]

    def state(self) -> dict[str, Any]:
        """{state: none, running, done, cancelled or failed; done, total: pictures; format, file, error}."""
        labels = self._predictions.rglob("*") if self._state["state"] in {"running", "cancelled"} else ()
        done = sum(path.suffix in {".png", ".tif"} and path.stem != LEGEND for path in labels)
        return {**self._state, "done": done, "total": len(self.pictures)}

    def start(self, name: str) -> None:
        """Start an export in a format.

        Raises:
            InputError: there is no such format, or another export is running.
        """
        if name not in self.formats():
            raise InputError(f"{name:.40}: no such format; the formats are {', '.join(self.formats())}")
        with self._lock:
            if self._state["state"] == "running":
                raise InputError("another export is running; wait until it has finished")
            self._state, self._stop = {"state": "running", "format": name}, StopRequest()
            self._thread = threading.Thread(target=self._export, args=(name,), name="picie export", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Ask the running export to stop after the current picture. What it predicted is kept for the next one."""
        self._stop.ask()

    @property
    def _predictions(self) -> Path:
        return Path(self._folder.name) / "predictions"

    def _export(self, name: str) -> None:
        try:
            with stopped_by(self._stop):
                self.file = self._made(name)
        except Stopped:
            self._state = {"state": "cancelled", "format": name}
        except PicieError as error:
            self._state = {"state": "failed", "format": name, "error": str(error)}
        except Exception as error:
            # any other error; if it were not caught, the page would wait forever
            log.warning("the export failed: %s: %s", type(error).__name__, error)
            self._state = {"state": "failed", "format": name, "error": f"picie failed ({type(error).__name__})"}
        else:
            self._state = {"state": "done", "format": name, "file": self.file.name}

    def _made(self, name: str) -> Path:
        """Predict and convert. Returns one file."""
        root = Path(os.path.commonpath([picture.absolute().parent for picture in self.pictures]))
        predicting = PredictOptions(overlay=False, progress=False, root=root)
        predict_files(self.run, self.pictures, self._predictions, self.device, predicting)
        if name == MASKS:
            return self._zipped(self._predictions, "masks")
        out = Path(self._folder.name) / "converted" / default_name(name)
        kind: type[Format] = registry.find(registry.FORMATS, name, "format")
        options = ConvertOptions(photos="none") if "photos" in kind.options else None
        convert(self._predictions, name, out, options, overwrite=True, progress=False)
        return self._zipped(out, out.name) if out.is_dir() else out

    def _zipped(self, folder: Path, name: str) -> Path:
        # renamed at the end, because the page may still be reading an earlier archive of that name
        whole = Path(self._folder.name) / f"{name}.zip"
        with tempfile.TemporaryDirectory(dir=self._folder.name) as unfinished:
            return Path(shutil.make_archive(str(Path(unfinished) / name), "zip", folder)).replace(whole)
