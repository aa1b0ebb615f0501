"""The interface through which `download` and `curate` report their output and progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, Protocol


class Reporter(Protocol):
    """Receives the output of `download` and `curate`."""

    def line(self, text: str) -> None:
        """Show one line of the command's result."""
        ...

    def bar(
        self, name: str, total: int | None, unit: Literal["images", "bytes"] = "images"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Show the progress of a task for the duration of the context.

        Args:
            name: what is being done.
            total: the amount of work; None: unknown.
            unit: unit of `total`.

        Returns:
            A context manager whose value is a function; call it with the amount just done.
        """
        ...
