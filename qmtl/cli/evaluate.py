"""``qmtl evaluate``: metrics of a finished run, computed again from its model and data."""

from qmtl.cli._options import RunDirectory, Split
from qmtl.cli._output import show_metrics
from qmtl.errors import unknown_name

__all__ = ["evaluate"]


def evaluate(
    run: RunDirectory,
    split: Split = "test",
) -> None:
    """Evaluate a run's model on a split of its data.

    Example: qmtl evaluate runs/seed1 --split validation
    """
    from qmtl.experiments import Run, build_data
    from qmtl.model import load
    from qmtl.training import baseline_metrics
    from qmtl.training import evaluate as metrics_of

    opened = Run.read(run)
    data = build_data(opened.recipe)
    if split not in data.splits:
        raise unknown_name("split", split, data.splits)
    model = load(opened.path / "model")
    rows = data.splits[split]
    show_metrics(
        f"{opened.path}: {split}, {len(rows)} rows",
        metrics_of(model, rows),
        {"baseline": baseline_metrics(data, rows)},
    )
