"""Write long JSON lists an element at a time."""

from __future__ import annotations

import json
from typing import Any, TextIO


class JsonList:
    """A JSON list that is written into an open text file.

    Args:
        file: the file; the list begins where it is now.
    """

    def __init__(self, file: TextIO) -> None:
        self.file, self.length = file, 0
        file.write("[")

    def add(self, element: Any) -> None:
        """Write an element on a line of its own."""
        self.file.write((",\n" if self.length else "\n") + json.dumps(element))
        self.length += 1

    def end(self) -> None:
        """Write the end of the list."""
        self.file.write("\n]")
