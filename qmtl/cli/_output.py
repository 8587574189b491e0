"""Output of commands: streams of any encoding, files, tables, a finished run."""

import codecs
import io
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qmtl._html import number
from qmtl._io import NARROW, console, print_table, write_text
from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from qmtl.experiments import Run

# Replacements of the same width for characters in drawings that an encoding lacks.
PLAIN = str.maketrans(
    {
        "─": "-", "━": "-", "│": "|", "╭": "+", "╰": "+", "╮": "+", "╯": "+", "●": "o", "⊕": "+",
        "⟨": "<", "⟩": ">", "…": "~", "–": "-", "—": "-", "·": "*", "×": "x", "±": "~", "↓": "v",
        "↑": "^", "≤": "<", "≥": ">", "→": ">", "π": "p", "²": "2", "Δ": "D", "✓": "+", "✗": "-",
    }
)  # fmt: skip


def set_streams() -> None:
    """Make standard output and error accept any text in any encoding.

    An ASCII character of the same width (`PLAIN`) replaces a character that the encoding lacks, so
    that drawings keep their form. For other characters, an escape sequence with the code is used.
    """
    codecs.register_error("qmtl", _plain)
    for stream in (sys.stdout, sys.stderr):
        # In tests and notebooks, the streams are other objects.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="qmtl")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    plain = text.translate(PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


def terminal_width() -> int | None:
    """Return the width of the terminal; None if the output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def check_out(out: Path | None) -> None:
    """Raise `InvalidInputError` if `out` cannot be a file; call this before any work."""
    if out is None:
        return
    if out.is_dir():
        raise InvalidInputError(f"--out: {out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise InvalidInputError(f"--out: there is no folder {out.parent}")


def make_folder(out: Path) -> None:
    """Create a folder unless it exists; raise `InvalidInputError` if it is a file."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidInputError(f"--out: {out} is a file; give the name of a folder") from None


def write_out(out: Path | None, content: str) -> None:
    """Write text to a file, or to standard output."""
    if out is None:
        print(content, end="")
    else:
        write_text(out, content)
        print(f"wrote {out}", file=sys.stderr)


Metrics = Mapping[str, Mapping[str, float]]


# With at least this many tasks, `show_run` first prints an overview with a row per head.
MANY = 4


def show_metrics(
    title: str, metrics: Metrics, others: Mapping[str, Metrics], own: str = "model"
) -> None:
    """Print a table of metrics: a row per task and metric, a column for `own` and each other."""
    from rich.table import Table

    from qmtl.training import LOWER_IS_BETTER

    shown = console()
    padding = 0 if shown.width < NARROW else 1
    table = Table(title=title, title_justify="left", padding=(0, padding))
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    for name in (own, *others):
        table.add_column(name, justify="right", overflow="fold")
    for task, values in metrics.items():
        for metric, value in values.items():
            if metric == "loss":
                continue
            arrow = " ↓" if metric in LOWER_IS_BETTER else ""
            cells = [number(other[task].get(metric)) for other in others.values()]
            table.add_row(task, metric + arrow, number(value), *cells)
        table.add_section()
    shown.print(table)


def show_run(run: "Run") -> None:
    """Print a finished run's test metrics, beside the constant prediction and other heads."""
    from qmtl.experiments import overview

    results = run.results
    others = {"baseline": results["baselines"]["test"]}
    others |= {head: metrics["test"] for head, metrics in results["rivals"].items()}
    if len(results["metrics"]["test"]) >= MANY:
        rows = overview(results["metrics"]["test"], others)
        print_table(rows[0], (row.values() for row in rows), title="main metrics of all tasks")
        print()
    show_metrics("test split", results["metrics"]["test"], others)
    counts = results["parameters"]
    parts = [f"{counts['encoder']} encoder parameters, {counts['head']} head parameters"]
    parts += [f"{value} in the {name}" for name, value in counts.items() if name.endswith(" head")]
    print(", ".join(parts))
    training = run.recipe.training
    which = f"best by {training.monitor}" if training.restore_best else "last"
    print(
        f"{results['epochs']} epochs in {results['seconds']:.1f} s; kept epoch "
        f"{results['best_epoch']}, the {which}"
    )
    print(f"run directory: {run.path}")
