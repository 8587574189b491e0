"""The ``--out FILE`` option."""

import sys
from pathlib import Path

__all__ = ["check_out", "make_folder", "write_out"]


def check_out(out: Path | None) -> None:
    """Raise if a file cannot be written there, before any work is done for it.

    Raises:
        InvalidInputError: it is a folder, or its folder does not exist.
    """
    from qmtl.errors import InvalidInputError

    if out is None:
        return
    if out.is_dir():
        raise InvalidInputError(f"--out: {out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise InvalidInputError(f"--out: there is no folder {out.parent}")


def make_folder(out: Path) -> None:
    """Make a folder for several files, unless it is there.

    Raises:
        InvalidInputError: there is a file of that name.
    """
    from qmtl.errors import InvalidInputError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidInputError(f"--out: {out} is a file; give the name of a folder") from None


def write_out(out: Path | None, content: str) -> None:
    """Write a file, or to standard output."""
    from qmtl._io import write_text

    if out is None:
        print(content, end="")
    else:
        write_text(out, content)
        print(f"wrote {out}", file=sys.stderr)
