"""What commands write: files, metrics as tables, a finished run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qmtl._io import write_text
from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from qmtl.experiments import Run

__all__ = ["check_out", "make_folder", "show_metrics", "show_run", "write_out"]


def check_out(out: Path | None) -> None:
    """Raise if a file cannot be written there, before any work is done for it.

    Raises:
        InvalidInputError: it is a folder, or its folder does not exist.
    """
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
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidInputError(f"--out: {out} is a file; give the name of a folder") from None


def write_out(out: Path | None, content: str) -> None:
    """Write a file, or to standard output."""
    if out is None:
        print(content, end="")
    else:
        write_text(out, content)
        print(f"wrote {out}", file=sys.stderr)


Metrics = Mapping[str, Mapping[str, float]]


HIGHER_IS_WORSE = ("mse", "mae", "ece")


def show_metrics(title: str, metrics: Metrics, others: Mapping[str, Metrics]) -> None:
    """One row per task and metric: the model's value, then those of `others` by column."""
    from rich.console import Console
    from rich.table import Table

    # Names of tasks and paths are the user's: a [/b] or a :b: in them is no markup.
    console = Console(markup=False, emoji=False)
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for name in ("model", *others):
        table.add_column(name, justify="right")
    for task, values in metrics.items():
        for metric, value in values.items():
            if metric == "loss":
                continue
            arrow = " ↓" if metric in HIGHER_IS_WORSE else ""
            cells = [_number(other[task].get(metric)) for other in others.values()]
            table.add_row(task, metric + arrow, _number(value), *cells)
        table.add_section()
    console.print(table)


def show_run(run: "Run") -> None:
    """A finished run: its test metrics beside the constant prediction and other heads."""
    results = run.results
    others = {"baseline": results["baselines"]["test"]}
    others |= {head: metrics["test"] for head, metrics in results["rivals"].items()}
    show_metrics("test split", results["metrics"]["test"], others)
    counts = results["parameters"]
    parts = [f"{counts['encoder']} encoder parameters, {counts['head']} head parameters"]
    parts += [f"{value} in the {name}" for name, value in counts.items() if name.endswith(" head")]
    print(", ".join(parts))
    print(
        f"{results['epochs']} epochs in {results['seconds']:.1f} s; kept epoch "
        f"{results['best_epoch'] + 1}, the best on validation"
    )
    print(f"run directory: {run.path}")


def _number(value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
