"""A note in a run's folder that says which process trains the run, while that process lives."""

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
    """Describe the process that trains a run now; None if there is none.

    A killed process leaves its note behind. On this machine, its number then belongs to no process,
    or to one that started at another time. For another machine it is unknown whether the process
    has ended.

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
        RunDirectoryError: if so; the error names the process.
    """
    other = training_process(folder)
    if other is not None and other != f"process {os.getpid()}":
        raise RunDirectoryError(
            f"the run {folder} is being trained by {other}; stop it first"
            f"{f', or remove {folder / FILE} if it has ended' if ' on ' in other else ''}"
        )


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """A context that keeps a note of this process in a run's folder.

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
    """When a process started, in seconds; None if it does not exist or has just been killed."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
