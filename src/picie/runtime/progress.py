"""Log lines and progress bars on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from picie.runtime import distributed

log = logging.getLogger("picie")
console = Console(stderr=True)  # progress bars and log lines; results go to stdout
_LINE_EVERY = 60.0  # seconds, without a terminal


def set_up_logging(quiet: bool = False) -> None:
    """Send the package's log lines to stderr, above any progress bar; `quiet` keeps only warnings.

    In a run of several processes only the main process logs. What tifffile logs about damaged files
    is left out, because picie reports them.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    log.handlers[:] = [_Handler() if distributed.is_main() else logging.NullHandler()]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


@contextlib.contextmanager
def shown_logs() -> Iterator[None]:
    """Show the package's log lines within the block, unless the program has set up logging.

    That is a level for the package's logger, or a handler that gets lines of level INFO.
    """
    if log.level != logging.NOTSET or (log.hasHandlers() and log.isEnabledFor(logging.INFO)):
        yield
        return
    handlers, propagate = log.handlers[:], log.propagate
    tifffile = logging.getLogger("tifffile")
    tifffile_level = tifffile.level
    set_up_logging()
    try:
        yield
    finally:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(logging.NOTSET)
        tifffile.setLevel(tifffile_level)


class _Handler(logging.Handler):
    """Writes lines to stderr, above the progress bars on a terminal; in a notebook to stdout.

    A notebook shows what goes to stderr as if it were an error.
    """

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "picie: warning: " if record.levelno >= logging.WARNING else ""
        text = prefix + record.getMessage()
        if console.is_terminal:
            console.print(text, soft_wrap=True, markup=False, highlight=False)
        else:
            print(text, file=sys.stdout if console.is_jupyter else sys.stderr)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "", style="progress.data.speed")


class _RunLeft(ProgressColumn):
    """The remaining time of the whole run, if it can be estimated."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.run_left())


def duration(seconds: float) -> str:
    """Return a duration in words, suitably rounded.

    >>> [duration(seconds) for seconds in (4.2, 90, 3600, 9000, 200_000)]
    ['4 s', '90 s', '60 min', '2 h 30 min', '55 h']
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{minutes // 60} h"


class Progress:
    """Progress bars with rate and remaining time on a terminal; elsewhere a log line per minute.

    In a run of several processes the main process shows its own progress, multiplied by their
    number.

    Args:
        enabled: False shows nothing.
        unit: The unit that is counted, "images" or "bytes".
    """

    def __init__(self, enabled: bool = True, unit: Literal["images", "bytes"] = "images") -> None:
        counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), _Rate())
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *counts,
            TimeRemainingColumn(),
            TextColumn("left"),
            _RunLeft(self),
        )
        self.seconds_left: Callable[[], float | None] = lambda: None
        enabled = enabled and distributed.is_main()
        self._lines, self._unit = enabled and not console.is_terminal, unit
        self._shown = RichProgress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal))

    def __enter__(self) -> Progress:
        if not self._shown.disable:  # some versions of rich print an empty line then
            self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._shown.disable:
            self._shown.stop()

    def run_left(self) -> str:
        """Return the remaining time of the run in words, or nothing.

        `seconds_left` provides the estimate.
        """
        seconds = self.seconds_left()
        return "" if seconds is None else f"(run: about {duration(seconds)} left)"

    @contextlib.contextmanager
    def bar(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a bar of `total` (None: unknown) within the block.

        Call the yielded function with each number done.
        """
        task = self._shown.add_task(name, total=total)
        done, last_line = 0, time.monotonic()

        def advance(n: int) -> None:
            nonlocal done, last_line
            n *= distributed.world_size()
            self._shown.advance(task, n)
            done += n
            if self._lines and time.monotonic() - last_line > _LINE_EVERY:
                last_line = time.monotonic()
                shown = [decimal(amount) if self._unit == "bytes" else f"{amount:,}" for amount in (done, total or 0)]
                left = self.run_left()
                log.info("%s: %s%s%s", name, shown[0], f" of {shown[1]}" if total else "", f" {left}" if left else "")

        try:
            yield advance
        finally:
            self._shown.remove_task(task)
