"""The folders of data sets that people download: all that is missing, in one error."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from qmtl.errors import InvalidInputError

__all__ = ["check_files", "read_text"]


def check_files(
    path: str | PathLike[str], needed: Iterable[str | Sequence[str]], *, what: str, where: str
) -> list[Path]:
    """The files of a data set, or one error that lists every missing one.

    Args:
        path: the folder.
        needed: names relative to it; several names in a sequence are alternatives.
        what: the data set, for the message.
        where: where people get it, in words.

    Returns:
        One existing file per entry of `needed`.

    Raises:
        InvalidInputError: the folder or a file is missing.

    Example:
        >>> check_files("/no/such/folder", ["a.csv"], what="Toy", where="the toy shop")
        Traceback (most recent call last):
        ...
        qmtl.errors.InvalidInputError: Toy: there is no folder /no/such/folder; get the data from \
the toy shop
    """
    root = Path(path)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.is_file() else None
        said = f"{root} {problem}" if problem else f"there is no folder {root}"
        raise InvalidInputError(f"{what}: {said}; get the data from {where}")
    found, missing = [], []
    for entry in needed:
        names = [entry] if isinstance(entry, str) else list(entry)
        there = [root / name for name in names if (root / name).is_file()]
        if there:
            found.append(there[0])
        else:
            missing.append(" or ".join(names))
    if missing:
        raise InvalidInputError(
            f"{what}: {root} lacks {len(missing)} of {len(missing) + len(found)} files: "
            f"{', '.join(missing)}; get them from {where}"
        )
    return found


def read_text(path: Path) -> str:
    """A whole text file in UTF-8, with or without a byte order mark.

    Raises:
        InvalidInputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected UTF-8 text, got other bytes") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
