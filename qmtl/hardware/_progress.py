"""Progress: a line that says what a run is doing."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from qmtl._html import in_notebook


@dataclass
class Progress:
    """A line on standard error, or in a notebook's cell, that says what a run is waiting for.

    On a terminal the line is overwritten; elsewhere a new line is written when it changes.

    Attributes:
        write: function that writes text.
        is_terminal: whether a line can be overwritten.
    """

    write: Callable[[str], Any] = field(default_factory=lambda: _stream().write)
    is_terminal: bool = field(default_factory=lambda: _stream().isatty())
    _started: float = field(default_factory=time.monotonic)
    _last: str = ""

    def show(self, text: str) -> None:
        """Show what the run is waiting for."""
        if self.is_terminal:
            seconds = int(time.monotonic() - self._started)
            line = f"{text} ({seconds // 60}:{seconds % 60:02d})"
            self.write(f"\r{line:<{len(self._last)}}")
            self._last = line
        elif text != self._last:
            self.write(f"{text}\n")
            self._last = text

    def end(self) -> None:
        """End the line."""
        if self.is_terminal and self._last:
            self.write("\n")


def _stream() -> TextIO:
    # Notebooks show standard error as if something had gone wrong.
    return sys.stdout if in_notebook() else sys.stderr
