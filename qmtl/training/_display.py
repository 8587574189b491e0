"""The result of a training run as a notebook shows it: its table and its curves."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from qmtl._html import facts, panel, table
from qmtl.plotting import inline_svg, style
from qmtl.training._curves import plot_curves

if TYPE_CHECKING:
    from qmtl.training._result import Result

__all__ = ["result_html"]

MOST_ROWS = 60


def result_html(result: "Result") -> str:
    """What ``Result._repr_html_`` returns."""
    head = sum(p.numel() for p in result.model.head.parameters())
    encoder = sum(p.numel() for p in result.model.encoder.parameters())
    about = {
        "epochs": f"{result.epochs:,} in {result.seconds:.1f} s",
        "kept": f"epoch {result.best_epoch + 1:,}",
        "parameters": f"encoder {encoder:,}, head {head:,}",
    }
    rows = [
        {
            "task": row["task"],
            "metric": row["metric"],
            "test": row["value"],
            "constant prediction": row["baseline"],
        }
        for row in result.table()
    ]
    tasks = len(result.model.tasks)
    return panel(
        f"Result: {tasks:,} {'task' if tasks == 1 else 'tasks'}",
        facts(about),
        table(rows[:MOST_ROWS], len(rows)),
        _curves(result),
    )


def _curves(result: "Result") -> Markup:
    """Losses on both splits, side by side, as far as there are any."""
    from matplotlib.figure import Figure

    splits = [
        split
        for split in ("train", "validation")
        if any((row["split"], row["metric"]) == (split, "loss") for row in result.history)
    ]
    if not splits:
        return Markup()
    with style():
        figure = Figure(figsize=(4.4 * len(splits), 2.9))
        for ax, split in zip(
            figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True
        ):
            kept = None if result.best_epochs else result.best_epoch
            plot_curves(result.history, ax, split=split, kept=kept)
        return inline_svg(figure, "curves of the loss")
