"""`read_table`: read a text table as a data frame; detect delimiter, decimal mark and encoding."""

import contextlib
import csv
import io
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmtl.data._cells import (
    Cells,
    check_decimal,
    number_with,
    spells_number,
    text_numbers,
    without_blanks,
)
from qmtl.errors import InvalidInputError, as_path, near_paths
from qmtl.tasks import MISSING_WORDS, number_text

if TYPE_CHECKING:
    import pandas as pd

# In order of preference: characters that are rare in texts come first.
DELIMITERS = ("\t", ";", "|", ",")
LINES, SAMPLE = 1000, 1 << 16  # lines and bytes from which to detect delimiter and decimal mark
BLOCK = 1 << 18  # bytes to scan for delimiters at a time; they fit in the processor's cache
FIRST, MANY = 200, 100  # rows that show the texts of a column; columns of a wide table
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_NAMELESS = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")


def is_nameless(column: str) -> bool:
    """Return whether a column has no name, or pandas' placeholder for a missing one."""
    return _NAMELESS.fullmatch(column) is not None


def column_names(given: Iterable[Any], whose: str, where: str = "") -> list[str]:
    """Return the names of a table's columns as different texts; those without one get a number."""
    names = [str(name).strip() or f"Unnamed: {place}" for place, name in enumerate(given)]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(f"{whose}: the column name {name!r} appears twice{where}")
    return names


def local_path(path: str | PathLike[str]) -> Path:
    """Return the path, with ``~`` expanded; raise for an open file or a URL."""
    if not isinstance(path, str | PathLike) or "://" in str(path):
        what = repr(path) if isinstance(path, str) else f"a {type(path).__name__}"
        raise InvalidInputError(
            f"path: expected the path of a local file, got {what}; read it by pandas.read_csv and "
            f"give the data frame to from_frame"
        )
    return as_path(path)


def read_table(
    path: str | PathLike[str],
    delimiter: str | None = None,
    *,
    decimal: str | None = None,
    encoding: str | None = None,
    usual_decimal: str | None = None,
    usual_encoding: str | None = None,
    texts: Collection[str] | None = (),
    na_values: Any = (),
) -> "pd.DataFrame":
    r"""Read a text table with a header as a data frame.

    Rows that are empty or hold only separators are left out. A column without a name is called
    "Unnamed: 0" and so on, by its position.

    Args:
        path: the file.
        delimiter: one character between cells; None detects which of comma, semicolon, tab and
            vertical bar the file uses.
        decimal: decimal mark; None detects it. Marks between groups of three digits are supported.
        encoding: encoding of the file. None: UTF-16 if the file begins with its byte order mark,
            else UTF-8, else Windows-1252 with a warning.
        usual_decimal: decimal mark if the file shows none and commas do not separate its cells. For
            a trained model, give the mark of its training file.
        usual_encoding: encoding of a file that is not UTF-8, instead of Windows-1252.
        texts: columns to keep as text: blanks around cells are removed, and an empty cell is an
            empty text; None for all. In other columns `qmtl.tasks.MISSING_WORDS` are missing, and a
            column of numbers becomes numeric.
        na_values: more words or numbers for missing values, as in `pandas.read_csv`: one, a list,
            or a dict from column to these.

    Returns:
        The rows. The index is the row number in the file, where the header is row 1.

    Raises:
        InvalidInputError: the file is missing, empty, unreadable or has only a header; a column
            name appears twice; or a row and the header have different numbers of cells.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text("x;y\n1,5;a\n\n;N/A\n2;b\n")
        >>> read_table(path)
             x  y
        2  1.5  a
        5  2.0  b
    """
    file = TextTable(path, delimiter, decimal, encoding, usual_decimal, usual_encoding, na_values)
    texts = set(file.header if texts is None else texts)
    frame = file.frame(texts)
    file.check_numbers(frame, set(file.header) - texts)
    read: dict[str, Any] = {}
    for name, column in frame.items():
        if name in texts:
            read[name] = np.append(column.cat.categories.astype(object), "")[column.cat.codes]
        elif column.dtype.kind not in "biuf":
            found = file.numbers_or_texts(column)
            if found is not column:
                read[name] = found
    return frame.assign(**read) if read else frame


class TextTable:
    """The text of a table, with its delimiter, decimal mark and header; see `read_table`."""

    def __init__(
        self,
        path: str | PathLike[str],
        delimiter: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        usual_decimal: str | None = None,
        usual_encoding: str | None = None,
        na_values: Any = (),
    ) -> None:
        check_decimal(decimal)
        given = _checked(delimiter)
        self.path = path = local_path(path)
        text, as_stored = _as_utf8(path, encoding, usual_encoding)
        if b"\r" in text:
            text, as_stored = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), False
        blank = re.match(rb"( *\n)*", text)
        start = blank.end() if blank else 0
        # Excel writes this line.
        declared = re.match(r"sep=(.)\n", text[start : start + 9].decode(errors="ignore"))
        if declared:
            start, given = start + len(declared[0].encode()), given or declared[1]
        if not re.compile(rb"\S").search(text, start):
            raise InvalidInputError(f"{path}: the file is empty; expected a header and rows")
        self.sample = _first_lines(text, start)
        self.delimiter = given or self._find_delimiter()
        n_lines, cells = next(self._rows(self.sample))
        header = list(map(str.strip, cells))
        self.has_plain_header = as_stored and not start and n_lines == 1
        for _ in range(n_lines):
            start = text.find(b"\n", start) + 1 or len(text)
        self.text, self.start = text, start
        self.header = column_names(self._with_row_names(header), str(path), " in the header")
        self.missing = self._missing_words(na_values)
        self.decimal = self.given_decimal = decimal
        if decimal is None and self.delimiter != ",":
            self.decimal = self._find_decimal() or usual_decimal
        other = [mark for mark in DELIMITERS if mark in header[0]]
        if given and len(header) == 1 and other:
            raise InvalidInputError(
                f"{path}: with delimiter {self.delimiter!r} the header is one cell, "
                f"{header[0]!r}; did you mean {other[0]!r}?"
            )

    def _rows(
        self, text: str, delimiter: str | None = None, lines_before: int = 0
    ) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each row, after the number of the line where it ends."""
        rows = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter or self.delimiter,
            skipinitialspace=True, strict=True,
        )  # fmt: skip
        try:
            for row in rows:
                yield rows.line_num, row
        except csv.Error as error:
            raise InvalidInputError(
                f"{self.path}: cannot be read as a table: line {lines_before + rows.line_num}: "
                f"{error}"
            ) from error

    def _first_rows(self) -> Iterator[list[str]]:
        """Yield the rows of the sample, whose end may cut off a cell in quotes, up to an error."""
        with contextlib.suppress(InvalidInputError):
            for _, row in self._rows(self.sample):
                yield row

    def _find_delimiter(self) -> str:
        """Return the delimiter that makes most rows as wide as the header; a comma if none does."""
        found = []
        for mark in DELIMITERS:
            widths: list[int] = []
            try:
                widths += (len(row) for _, row in self._rows(self.sample, mark) if any(row))
            except InvalidInputError:
                widths.append(0)  # a row that does not fit
            if widths and widths[0] > 1:
                fitting = sum(width in (widths[0], widths[0] + 1) for width in widths)
                found.append((round(fitting / len(widths), 1), widths[0], mark))
        return max(found, key=lambda entry: entry[:2])[2] if found else ","

    def _with_row_names(self, header: list[str]) -> list[str]:
        """Return the header, with a nameless column added if rows have one cell more."""
        rows = [row for row in self._first_rows() if any(row)][1:]
        if not rows or any(len(row) != len(header) + 1 for row in rows):
            return header
        # The extra cell is a separator at the ends of lines, or a row name at their starts, as R
        # writes it.
        return [*header, ""] if not any(row[-1].strip() for row in rows) else ["", *header]

    def _missing_words(self, given: Any) -> list[list[str]]:
        """Return each column's additional words for missing values."""
        by_column = given if isinstance(given, Mapping) else dict.fromkeys(self.header, given)
        found = []
        for name in self.header:
            own = by_column.get(name)
            alone = isinstance(own, str | bytes) or not isinstance(own, Iterable)
            words = [] if own is None else [own] if alone else [*own]
            if any(isinstance(word, bool) or not isinstance(word, str | Real) for word in words):
                raise InvalidInputError(
                    f"na_values: expected texts or numbers, or a dict from column to these, got "
                    f"{given!r}"
                )
            # As texts, since pandas takes 1 for missing, too, if given the number 1.5.
            found.append([number_text(w) if isinstance(w, float) else str(w) for w in words])
        return found

    def frame(self, texts: Collection[str] = ()) -> "pd.DataFrame":
        """Return the rows; the index is that of `read_table`.

        Columns of `texts` get pandas' categorical type, which finds distinct texts once, and so do
        others whose texts repeat. `texts` keep words for missing values, except the given ones.
        """
        import pandas as pd

        self._check_widths()
        kept = [place for place, name in enumerate(self.header) if name in texts]
        others = sorted(set(range(len(self.header))) - set(kept))
        words = sorted(MISSING_WORDS)
        missing = {place: words + self.missing[place] for place in others}
        missing |= {place: self.missing[place] for place in kept if self.missing[place]}
        if len(others) <= MANY or any(self.missing):
            dtypes: dict[int, Any] = dict.fromkeys(kept, str)
            dtypes |= dict.fromkeys(self._with_few_texts(others, missing), "category")
            frame = self._read(None, na_values=missing, dtype=dtypes)
        else:
            # Read these separately: pandas is slow for each column with its own words for missing
            # values.
            numbers = self._read(others, na_values=words)
            rest = self._read(kept, dtype=str)
            frame = pd.concat([numbers, rest], axis=1)[range(len(self.header))]
        if len(self.header) > MANY:
            frame = frame.copy()  # one block of memory for each type
        for place, own in enumerate(self.missing):
            if self.header[place] in texts or (own and frame[place].dtype.kind not in "biuf"):
                frame[place] = without_blanks(frame[place], own)
        frame.index = pd.RangeIndex(2, len(frame) + 2)
        empty = frame[0].isna() | frame[0].isin([""])
        if empty.any():
            some = frame[empty]
            empty[empty] = (some.isna() | some.isin([""])).all(axis=1)
            frame = frame[~empty]
        if not len(frame):
            raise InvalidInputError(f"{self.path}: there is a header but no row under it")
        return frame.set_axis(pd.Index(self.header, dtype=object), axis=1)

    def _with_few_texts(
        self, places: Collection[int], missing: dict[int, list[Any]]
    ) -> Iterator[int]:
        """Yield text columns with repeated values, which are fast to read as categories."""
        with contextlib.suppress(InvalidInputError):  # the first bytes may end within a cell
            first = self._read(None, SAMPLE, nrows=FIRST, na_values=missing)
            for place in places:
                column = first[place]
                if column.dtype.kind not in "biuf" and 4 * column.nunique() < len(first):
                    yield place

    def _read(
        self, places: list[int] | None, n_bytes: int | None = None, **options: Any
    ) -> "pd.DataFrame":
        """Read some columns, given by position, and some bytes; None for all."""
        import pandas as pd

        options |= {
            "sep": self.delimiter, "header": None, "names": range(len(self.header)),
            "usecols": places, "index_col": False, "skip_blank_lines": False,
            "decimal": self.decimal or ".", "keep_default_na": False,
            "skipinitialspace": self.text.find(b" ", self.start) >= 0,
        }  # fmt: skip
        try:
            if self.has_plain_header and places is None and n_bytes is None:
                # Given a path, pandas reads a large file in several threads. It decides for each
                # part whether a column holds numbers, and warns if the parts differ.
                with warnings.catch_warnings():
                    warnings.simplefilter("error", pd.errors.DtypeWarning)
                    with contextlib.suppress(pd.errors.DtypeWarning):
                        return pd.read_csv(self.path, skiprows=1, compression=None, **options)
            end = None if n_bytes is None else self.start + n_bytes
            body = io.BytesIO(self.text[self.start : end])
            return pd.read_csv(body, low_memory=False, **options)
        except (ValueError, pd.errors.ParserError) as error:
            reason = " ".join(str(error).split())
            raise InvalidInputError(f"{self.path}: cannot be read as a table: {reason}") from error

    def _check_widths(self) -> None:
        """Refuse rows of the wrong width: pandas would silently fill up short rows."""
        if self.text.find(b'"', self.start) < 0 and all(map(self._is_even, self._blocks())):
            return
        width = len(self.header)
        lines = self.text.count(b"\n", 0, self.start)
        rows = self._rows(self.text[self.start :].decode(), lines_before=lines)
        for number, (_, row) in enumerate(rows, start=2):
            if row not in ([], [""]) and len(row) != width:  # a line of blanks is not a row
                raise InvalidInputError(
                    f"{self.path}: row {number} has {len(row)} cells, but the header has {width}"
                )

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks of whole lines, with their line ends, as bytes."""
        start = self.start
        while start < len(self.text):
            end = self.text.rfind(b"\n", start, start + BLOCK) + 1
            end = end or self.text.find(b"\n", start + BLOCK) + 1
            block = self.text[start:end] if end else self.text[start:] + b"\n"
            yield np.frombuffer(block, dtype=np.uint8)
            start += len(block)

    def _is_even(self, block: np.ndarray) -> bool:
        """Return whether each line is empty (then it is not a row) or as wide as the header."""
        width = len(self.header)
        line_ends = block == ord("\n")
        every = np.flatnonzero(line_ends | (block == ord(self.delimiter)))
        n_lines = np.count_nonzero(line_ends)
        # The fast case: exactly every `width`-th separator is a line end.
        if len(every) == width * n_lines and line_ends[every[width - 1 :: width]].all():
            return True
        ends, marks = np.flatnonzero(line_ends), np.flatnonzero(block == ord(self.delimiter))
        counts = np.diff(np.searchsorted(marks, ends), prepend=0)
        empty = np.diff(ends, prepend=-1) == 1
        return bool(((counts == width - 1) | empty).all())

    def _find_decimal(self) -> str | None:
        """Return "," if a comma in some cell must be a decimal mark, else None."""
        cells = {cell.strip() for row in self._first_rows() for cell in row if "," in cell}
        decimal = re.compile(r"[+-]?(\d{1,3}([.' \u00a0]\d{3})+|\d*),\d+")
        grouped = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
        clear = any(decimal.fullmatch(cell) and not grouped.fullmatch(cell) for cell in cells)
        return "," if clear else None

    def check_numbers(self, frame: "pd.DataFrame", names: Collection[str]) -> None:
        """Raise if a column is of numbers, but not of ones with the decimal mark that was given."""
        given = self.given_decimal
        if given is None:
            return
        other = {".": ",", ",": "."}[given]
        for name, dtype in frame.dtypes.items():
            if name not in names or dtype.kind in "biuf":
                continue
            cells = Cells.of(frame[name])
            wrong = [text for text in cells.texts if number_with(given, text) is None]
            if wrong and all(number_with(other, text) is not None for text in wrong):
                raise InvalidInputError(
                    f"{self.path}: row {frame.index[cells.row_of(wrong[0])]}, column '{name}': "
                    f"{wrong[0]!r} is not a number with the decimal mark {given!r} that was given"
                )

    def numbers_or_texts(self, column: "pd.Series") -> Any:
        """Return a column of texts as numbers if all its texts spell one, else as texts."""
        texts = column.astype(column.cat.categories.dtype) if column.dtype == "category" else column
        if not all(map(spells_number, Cells.of(column.iloc[:MANY]).texts)):
            return texts
        cells = Cells.of(column)
        if cells.texts and all(map(spells_number, cells.texts)):
            try:
                numbers = text_numbers(str(column.name), cells.texts, self.decimal)
            except InvalidInputError as error:
                raise InvalidInputError(f"{self.path}: {error}") from None
            if len(numbers) == len(cells.texts):
                return cells.spread(numbers)
        return texts


def _first_lines(text: bytes, start: int) -> str:
    """Return enough lines to detect the delimiter and decimal mark, also for a long header."""
    end = start
    for number in range(LINES):
        if end - start > SAMPLE and number > 2:
            break
        end = text.find(b"\n", end) + 1
        if not end:
            return text[start:].decode()
    return text[start:end].decode()


def _checked(delimiter: str | None) -> str | None:
    if delimiter is None:
        return None
    names = {"\\t": "\t", "tab": "\t"}
    mark = names.get(delimiter, delimiter) if isinstance(delimiter, str) else ""
    if len(mark) != 1 or not mark.isascii() or mark in '\r\n"':
        raise InvalidInputError(
            f"delimiter: expected one character (\\t for a tab), got {delimiter!r}"
        )
    return mark


def _as_utf8(path: Path, encoding: str | None, usual: str | None) -> tuple[bytes, bool]:
    """Return a file's text in UTF-8, and whether the file itself holds these bytes."""
    if path.is_dir() or not path.exists():
        what = "is a directory, not a file" if path.is_dir() else "there is no such file"
        raise InvalidInputError(f"{path}: {what}{near_paths(path)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    marks = [name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)]
    tried: Sequence[str] = [encoding] if encoding else marks or ["utf-8", usual or "cp1252"]
    for name in tried:
        try:
            # Most files are ASCII, which needs no decoding.
            is_ascii = not encoding and content.isascii()
            decoded = "" if is_ascii else content.decode(name).removeprefix("\ufeff")
            text = content if is_ascii else decoded.encode()
        except UnicodeDecodeError:
            continue
        except (LookupError, ValueError):  # a name with a zero byte gives the latter
            raise InvalidInputError(f"encoding: Python knows no encoding {encoding!r}") from None
        if b"\0" in text:
            continue
        if name == "cp1252" and not (encoding or usual):
            warnings.warn(
                f"{path} is not UTF-8; it is read as Windows-1252, pass encoding if that is wrong",
                UserWarning,
                stacklevel=2,
            )
        # A pipe can be read only once.
        return text, text == content and path.is_file()
    raise InvalidInputError(
        f"{path}: expected text in {' or '.join(tried)}, got other bytes; pass encoding if it is "
        f"text, or read the file with pandas and use from_frame"
    )
