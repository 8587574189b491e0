"""Every plot function of the package: axes in, the same axes out, labelled, in colours we know."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import qmtl
from qmtl import experiments, training
from qmtl.errors import InvalidInputError
from qmtl.experiments._robustness import HeadRobustness, UnderNoise
from qmtl.experiments._scaling_accuracy import AccuracyPoint
from qmtl.experiments._scaling_cost import StepCost
from qmtl.experiments._scaling_parameters import count_head, counted_head
from qmtl.experiments._statistics import Estimate
from qmtl.experiments._trainability import Case, GradientVariance
from qmtl.plotting import COLOURS, inline_svg, save_figure, style
from qmtl.tasks import Task
from tests.experiments.bench_samples import summary

pytestmark = pytest.mark.usefixtures("figure_layout")

ROWS = {
    "quantum": [{"a": 0.7, "b": 0.7}, {"a": 0.7, "b": 0.7}],
    "linear": [{"a": 0.5, "b": 0.7}, {"a": 0.6, "b": 0.6}],
}
P, Y = torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1.0, 0.0, 0.0])
BINARY = Task.binary("a")
COUNTS = [count_head(counted_head(head), n) for head in ("quantum", "linear") for n in (2, 8)]
COSTS = [StepCost("quantum", n, 32, 1, 9.0, n, 0.9 * n, 1.2 * n, 5, 2.0 * n) for n in (2, 4)]
POINTS = [
    AccuracyPoint("digits", h, n, 0.1, "accuracy", *[Estimate(0.9, 0.01, 5)] * 3, 0.5, 9 * n)
    for h in ("quantum", "linear")
    for n in (2, 4)
]
VARIANCES = [
    GradientVariance(Case("wires", r, "uniform", "cz_ring", n, 2), "block", 9, 2.0**-n, 1e-3)
    for r in ("local", "global-string")
    for n in (2, 3, 4)
]
NOISE = [UnderNoise(float(s), "none", {"a": {"f1": 1 - s / 9}}) for s in (0, 1, 2)]
HISTORY = [
    {"epoch": e, "split": "validation", "task": t, "metric": "loss", "value": 1.0}
    for e in (0, 1)
    for t in "ab"
]
MEASURED = [{"task": "a", "measured": 0.4, "predicted": 0.5, "standard_error": 0.1}]

# The arguments of each, without the axes.
PLOTS = {
    "plot_score_against_parameters": [summary(ROWS)],
    "plot_forest": [summary(ROWS), "a"],
    "plot_parameters": [COUNTS, "matched"],
    "plot_step_time": [COSTS],
    "plot_memory": [COSTS],
    "plot_accuracy": [POINTS],
    "plot_accuracy_difference": [POINTS],
    "plot_variance": [VARIANCES],
    "plot_under_noise": [NOISE, "a", "f1"],
    "plot_signal": [[HeadRobustness("tasks", n, 0.1, 0.9, 2) for n in (2, 4)], "tasks"],
    "plot_confusion": [BINARY, P, Y],
    "plot_roc": [BINARY, P, Y],
    "plot_calibration": [BINARY, P, Y],
    "plot_regression": [Task.regression("a"), P, Y],
    "plot_measured": [MEASURED],
    "plot_curves": [HISTORY],
}
OPTIONS = {
    "plot_variance": {
        "against": lambda one: one.case.wires, "xlabel": "wires n", "title": "variance"
    }
}  # fmt: skip
GREYS = {"#666666", "#808080", "#999999", "#4d4d4d", "#e5e5e5", "#e6e6e6", "#000000", "#ffffff"}


def draw(name, *arguments, **options):
    package = training if name == "plot_curves" else experiments
    return getattr(package, name)(*arguments, **OPTIONS.get(name, {}) | options)


def test_every_plot_function_is_here():
    """A new one must be added above."""
    files = Path(qmtl.__file__).parent.rglob("*.py")
    functions = (re.findall(r"^def (plot_\w+)", f.read_text(), re.MULTILINE) for f in files)
    found = {name for names in functions for name in names}
    assert found == set(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_axes_are_labelled_returned_and_saved(name, tmp_path):
    with style():
        figure = Figure(figsize=(4, 3))
        ax = figure.subplots()
        assert draw(name, *PLOTS[name], ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel() or name == "plot_forest"  # its rows are named one by one
    assert inline_svg(figure, name).count("<text") > 3
    save_figure(ax.figure, tmp_path / "plot.svg")
    lines = [line for line in ax.get_lines() if len(line.get_xdata())]
    used = {to_hex(line.get_color()) for line in lines}
    assert used <= {colour.lower() for colour in COLOURS} | GREYS
    data = [line for line in lines if not line.get_label().startswith("_")]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in data}
    assert len(looks) == len(data)


@pytest.mark.parametrize("name", PLOTS)
def test_arguments_of_a_wrong_type(name):
    first, *others = PLOTS[name]
    wrong = [3, "no", [], [3], [*first[:1], None]] if isinstance(first, list) else [3, "no", None]
    for value in wrong:
        with pytest.raises(InvalidInputError, match=r"^\w+ must be (a|one or more) \w+.*, got \w+"):
            draw(name, value, *others)
    with pytest.raises(InvalidInputError, match="ax must be axes of matplotlib, got str"):
        draw(name, first, *others, ax="no")
    for place, value in enumerate(others, start=1):
        if isinstance(value, str):
            with pytest.raises(InvalidInputError, match=r"unknown .*'other'"):
                draw(name, *PLOTS[name][:place], "other", *PLOTS[name][place + 1 :])


def test_one_row_that_noise_changes_is_not_a_collapse():
    found = [UnderNoise(float(s), "none", {"a": {"f1": 0.9 + s / 900}}) for s in (0, 1, 2)]
    low, high = experiments.plot_under_noise(found, "a", "f1", Figure().subplots()).get_ylim()
    assert low < 0.88
    assert high > 0.92
