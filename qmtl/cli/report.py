"""``qmtl report``: one HTML file that shows a run, or several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli._options import expanded
from qmtl.cli._output import check_out

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(callback=expanded, help="Run directories, shown side by side.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=expanded, help="The file. [RUN/report.html; of several runs, report.html here]"
        ),
    ] = None,
) -> None:
    """Write a report: metrics, curves, predictions, circuit, plan, noise, hardware, recipe.

    One HTML file that loads nothing from elsewhere; an earlier one of its name is replaced.

    Examples of use:

    qmtl report runs/seed1

    qmtl report runs/quantum runs/linear --out comparison.html
    """
    from qmtl.experiments import write_report

    default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    check_out(out)
    print(f"wrote {write_report(runs, default if out is None else out)}")
