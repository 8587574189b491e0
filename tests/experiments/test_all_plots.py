"""Every plot function of the package: axes in, the same axes out, labelled, in colours we know."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import qmtl
from qmtl import experiments, training
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

PLOTS = {
    "plot_score_against_parameters": lambda ax: experiments.plot_score_against_parameters(
        summary(ROWS), ax
    ),
    "plot_forest": lambda ax: experiments.plot_forest(summary(ROWS), "a", ax),
    "plot_parameters": lambda ax: experiments.plot_parameters(COUNTS, "matched", ax),
    "plot_step_time": lambda ax: experiments.plot_step_time(COSTS, ax),
    "plot_memory": lambda ax: experiments.plot_memory(COSTS, ax),
    "plot_accuracy": lambda ax: experiments.plot_accuracy(POINTS, ax),
    "plot_accuracy_difference": lambda ax: experiments.plot_accuracy_difference(POINTS, ax),
    "plot_variance": lambda ax: experiments.plot_variance(
        VARIANCES, ax, against=lambda one: one.case.wires, xlabel="wires n", title="variance"
    ),
    "plot_under_noise": lambda ax: experiments.plot_under_noise(NOISE, "a", "f1", ax),
    "plot_signal": lambda ax: experiments.plot_signal(
        [HeadRobustness("tasks", n, 0.1, 0.9, 2) for n in (2, 4)], "tasks", ax
    ),
    "plot_confusion": lambda ax: experiments.plot_confusion(BINARY, P, Y, ax),
    "plot_roc": lambda ax: experiments.plot_roc(BINARY, P, Y, ax),
    "plot_calibration": lambda ax: experiments.plot_calibration(BINARY, P, Y, ax),
    "plot_regression": lambda ax: experiments.plot_regression(Task.regression("a"), P, Y, ax),
    "plot_measured": lambda ax: experiments.plot_measured(MEASURED, ax),
    "plot_curves": lambda ax: training.plot_curves(HISTORY, ax),
}
GREYS = {"#666666", "#808080", "#999999", "#4d4d4d", "#e5e5e5", "#e6e6e6", "#000000", "#ffffff"}


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
        assert PLOTS[name](ax) is ax
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


def test_one_row_that_noise_changes_is_not_a_collapse():
    found = [UnderNoise(float(s), "none", {"a": {"f1": 0.9 + s / 900}}) for s in (0, 1, 2)]
    low, high = experiments.plot_under_noise(found, "a", "f1", Figure().subplots()).get_ylim()
    assert low < 0.88
    assert high > 0.92
