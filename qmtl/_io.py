"""Files: written completely or not at all, caches, recipes; processes; tables on the console."""

import csv
import io
import json
import logging
import math
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# The version in pyproject.toml; a test compares them. Saved files contain it.
__version__ = "0.1.0"
# Width of a table whose lines are not broken.
UNBROKEN = 10_000
# A terminal with fewer columns is too narrow for tables of several columns.
NARROW = 60


@contextmanager
def silenced(*names: str) -> Iterator[None]:
    """Let the loggers with these names report errors only."""
    loggers = [logging.getLogger(name) for name in names]
    # To set a level takes a while where many packages have loggers.
    loggers = [logger for logger in loggers if logger.level != logging.ERROR]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def process_start(pid: int) -> float | None:
    """Return a process's start, in seconds since the machine's start; None if it is not running.

    Unlike a time since the epoch, this number does not change when the clock is set.
    """
    import psutil

    booted = psutil.boot_time()
    try:
        process = psutil.Process(pid)
        # A zombie: it was killed, and its parent has not waited for it yet.
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(float(process.create_time() - booted), 2)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def cache_folder(name: str) -> Path:
    """Return the folder of one of qmtl's caches, in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "qmtl" / name


def recipe_texts() -> dict[str, str]:
    """Return the recipes that come with the package by name, as TOML text."""
    return _toml_texts(files("qmtl") / "experiments" / "recipes")


def design_texts() -> dict[str, str]:
    """Return the catalogue's circuits by name, as TOML text."""
    installed = files("qmtl") / "circuits"
    return _toml_texts(installed if installed.is_dir() else Path(__file__).parents[1] / "circuits")


def _toml_texts(folder: Traversable) -> dict[str, str]:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else []
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in entries
        if entry.name.endswith(".toml")
    }


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader, or a crash, never sees half of it.

    For a symbolic link, the target is replaced. A pipe or a device is written to directly, since no
    file may replace it.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(content)
        return
    path = path.resolve()
    # Files of the module tempfile would be private; here the user's umask sets the permissions.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:  # name the caller's path, not the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Call `write_bytes` with a text, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON by `write_bytes`; NaN and infinity become null, since JSON lacks them."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows with equal keys as CSV with a header."""
    text = io.StringIO()
    writer: Any = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows by `write_text`, in the form of `as_csv`."""
    write_text(path, as_csv(rows))


def console() -> "Console":
    """Return a console for standard output, which prints names of tasks and paths unchanged."""
    from rich.console import Console

    # A [/b] or a :b: in a user's names is not markup. A file or a pipe has no width, so its rows
    # need not be broken.
    width = None if sys.stdout.isatty() else UNBROKEN
    return Console(markup=False, emoji=False, highlight=False, width=width)


def print_table(
    columns: Iterable[str],
    rows: Iterable[Iterable[object]],
    *,
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Print a plain table; columns of numbers are right-aligned.

    A narrow terminal that the table does not fit shows a line per cell.
    """
    from rich.measure import Measurement
    from rich.table import Table

    def empty(**options: Any) -> Table:
        made = Table(title=title, caption=caption, box=None, padding=(0, 2, 0, 0), **options)
        made.title_justify = made.caption_justify = "left"
        return made

    shown, names, table = console(), list(columns), empty()
    cells = [[str(cell) for cell in row] for row in rows]
    for number, name in enumerate(names):
        numeric = bool(cells) and all(_is_number(row[number]) for row in cells)
        # Fold text in a narrow terminal: a path or a command must stay complete.
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    wide = Measurement.get(shown, shown.options.update(width=UNBROKEN), table).maximum
    if shown.width < min(wide, NARROW):
        table = empty(show_header=False)
        table.add_column(overflow="fold", max_width=shown.width // 2)
        table.add_column(overflow="fold")
        for number, row in enumerate(cells):
            if number:
                table.add_row()
            for name, cell in zip(names, row, strict=True):
                table.add_row(name, cell)
    shown.print(table)


def _is_number(text: str) -> bool:
    return text in ("–", "") or text.strip("+-").replace(",", "").replace(".", "", 1).isdigit()
