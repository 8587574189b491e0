"""Plots of a benchmark: what is drawn, and that every head has a look of its own."""

import matplotlib
import pytest
from matplotlib.figure import Figure

from qmtl.experiments._bench_report import plot_forest, plot_score_against_parameters, write_plots
from qmtl.experiments._build import head_look
from qmtl.heads import HEAD_TYPES
from qmtl.plotting import save_figure, style
from tests.experiments.bench_samples import summary

pytestmark = pytest.mark.usefixtures("figure_layout")

LINEAR = [{"a": 0.5, "b": 0.7}, {"a": 0.6, "b": 0.6}]
QUANTUM = [{"a": 0.7, "b": 0.7}, {"a": 0.7, "b": 0.7}]


def test_every_head_has_its_own_look():
    heads = (*HEAD_TYPES, "single-task", "linear-probe")
    looks = [tuple(head_look(head).values()) for head in heads]
    assert len(set(looks)) == len(heads)


def test_points_are_the_means():
    ax = plot_score_against_parameters(
        summary({"quantum": QUANTUM, "linear": LINEAR}), Figure().subplots()
    )
    points = {c.get_label(): c.lines[0].get_xydata()[0] for c in ax.containers}
    assert points["quantum"].round(6).tolist() == [10, 70]
    # The same number of parameters: beside it, so that both can be seen.
    assert points["linear"].round(6).tolist() == [10.5, 60]


def test_forest_shows_differences_on_one_task():
    ax = plot_forest(summary({"quantum": QUANTUM, "linear": LINEAR}), "a", Figure().subplots())
    assert [round(c.lines[0].get_xdata()[0], 6) for c in ax.containers] == [15]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["quantum"]
    assert ax.get_title() == "a (accuracy)"


def test_files(tmp_path):
    both = write_plots(summary({"quantum": QUANTUM, "linear": LINEAR}), tmp_path)
    assert [path.name for path in both] == ["score_against_parameters.png", "forest.png"]
    assert all(path.stat().st_size > 5000 for path in both)
    one_seed = summary({"quantum": QUANTUM[:1], "linear": LINEAR[:1]})
    assert len(write_plots(one_seed, tmp_path)) == 2
    assert len(write_plots(summary({"quantum": QUANTUM}), tmp_path)) == 1
    assert write_plots(summary({}), tmp_path) == []


def test_the_style_ends_with_its_block_and_files_repeat(tmp_path):
    before = matplotlib.rcParams["axes.spines.top"]
    with style():
        for name in ("one.svg", "two.svg"):
            figure = Figure()
            figure.subplots().plot([1, 2])
            save_figure(figure, tmp_path / name)
    assert matplotlib.rcParams["axes.spines.top"] == before
    assert (tmp_path / "one.svg").read_text() == (tmp_path / "two.svg").read_text()
