"""Which process trains a run: a note in the run's folder, as long as the process lives."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from qmtl._io import write_json
from qmtl.errors import RunDirectoryError

FILE = "process.json"


def training_process(folder: Path) -> str | None:
    """The process that trains a run now, in words; None if there is none.

    A process that was killed leaves its note, but its number then belongs to nobody, or to a
    process that began at another time. Of another machine's process nobody here knows the end.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     training_process(Path(folder)) is None
        True
    """
    try:
        note = json.loads((folder / FILE).read_text(encoding="utf-8"))
        host, pid, started = str(note["host"]), int(note["pid"]), float(note["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname():
        return f"process {pid} on {host}"
    return f"process {pid}" if _began(pid) == started else None


def check_untrained(folder: Path) -> None:
    """Raise if another process trains a run.

    Raises:
        RunDirectoryError: the process is named.
    """
    other = training_process(folder)
    if other is not None and other != f"process {os.getpid()}":
        raise RunDirectoryError(
            f"the run {folder} is being trained by {other}; stop it first"
            f"{f', or remove {folder / FILE} if it has ended' if ' on ' in other else ''}"
        )


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Leave a note of this process in a run's folder during a block.

    Raises:
        RunDirectoryError: if another process trains the run.
    """
    check_untrained(folder)
    pid = os.getpid()
    note: dict[str, Any] = {"host": socket.gethostname(), "pid": pid, "started": _began(pid)}
    write_json(folder / FILE, note)
    try:
        yield
    finally:
        (folder / FILE).unlink(missing_ok=True)


def _began(pid: int) -> float | None:
    """When a process began, in seconds; None if there is none, or it was killed just now."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
