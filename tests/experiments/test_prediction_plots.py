"""Plots of predictions show what scikit-learn computes."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from qmtl.errors import InvalidInputError
from qmtl.experiments._prediction_plots import (
    plot_calibration,
    plot_confusion,
    plot_regression,
    plot_roc,
)
from qmtl.tasks import Task

pytestmark = pytest.mark.usefixtures("figure_layout")


def _axes():
    return Figure().subplots()


def _multiclass(n, classes=4):
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(n, classes, generator=generator).softmax(1)
    y = torch.randint(classes, (n,), generator=generator)
    y[::5] = -100
    return Task.multiclass("a", classes), p, y


def test_confusion_is_in_percent_of_the_true_class():
    task, p, y = _multiclass(200)
    ax = plot_confusion(task, p, y, _axes())
    rows = y >= 0
    counts = confusion_matrix(y[rows], p[rows].argmax(1))
    drawn = ax.images[0].get_array()
    np.testing.assert_allclose(drawn, 100 * counts / counts.sum(1, keepdims=True))
    assert [text.get_text() for text in ax.texts] == [f"{v:.0f}" for v in drawn.flat]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize(("classes", "numbers", "ticks"), [(13, 0, 13), (40, 0, 0)])
def test_many_classes_have_no_numbers(classes, numbers, ticks):
    ax = plot_confusion(*_multiclass(300, classes), _axes())
    assert len(ax.texts) == numbers
    assert len(ax.get_xticklabels()) == ticks


def test_a_class_that_never_occurs_has_an_empty_row():
    task = Task.binary("a")
    ax = plot_confusion(task, torch.tensor([0.9, 0.1]), task.to_targets([1, 1]), _axes())
    assert ax.images[0].get_array().tolist() == [[0, 0], [50, 50]]


def test_a_roc_curve_encloses_the_area_that_its_legend_tells_with_equal_scores_too():
    task = Task.binary("a")
    p, y = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1]), task.to_targets([1, 1, 0, 0, 0])
    ax = plot_roc(task, p, y, _axes())
    # The path as drawn, steps included.
    x, drawn = ax.lines[0].get_path().interpolated(1).vertices.T
    assert ax.lines[0].get_drawstyle() == "default"
    assert np.trapezoid(drawn, x) == pytest.approx(roc_auc_score(y, p))


def test_roc_of_labels():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(80, 3, generator=generator)
    y = (torch.rand(80, 3, generator=generator) < p).double()
    y[::4, 0], y[:, 2] = torch.nan, 1.0
    ax = plot_roc(Task.multilabel("a", 3, class_names=("x", "y", "z")), p, y, _axes())
    rows = ~y[:, 0].isnan()
    areas = [roc_auc_score(y[rows, 0], p[rows, 0]), roc_auc_score(y[:, 1], p[:, 1])]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{name} {area:.3f}" for name, area in zip("xy", areas, strict=True)]
    line = ax.lines[1].get_xydata()
    assert line[0].tolist() == [0, 0]
    assert line[-1].tolist() == [1, 1]


def test_roc_of_many_labels_keeps_the_frequent_ones():
    y = torch.zeros(60, 20, dtype=torch.float64)
    for i in range(20):
        y[: i + 1, i] = 1
    ax = plot_roc(Task.multilabel("a", 20), torch.rand(60, 20), y, _axes())
    names = [text.get_text().split()[0] for text in ax.get_legend().get_texts()]
    assert names == [str(i) for i in range(8, 20)]


def test_calibration_of_a_task_that_knows():
    """Labels drawn with the very probabilities lie on the diagonal."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(20_000, generator=generator, dtype=torch.float64)
    y = (torch.rand(20_000, generator=generator) < p).double()
    ax = plot_calibration(Task.binary("a"), p, y, _axes())
    sure, right = ax.lines[1].get_xydata().T
    assert len(sure) == 10
    np.testing.assert_allclose(sure, right, atol=0.03)


def test_regression_draws_the_chosen_target():
    y = torch.arange(10_000, dtype=torch.float64).repeat(2, 1).T.clone()
    y[::2, 1] = torch.nan
    task = Task.regression("a", 2, class_names=("low", "high"))
    ax = plot_regression(task, 2 * y, y, _axes(), target=1)
    points = ax.collections[0].get_offsets()
    assert 1_600 < len(points) <= 2_000
    np.testing.assert_array_equal(points[:, 1], 2 * points[:, 0])
    assert ax.get_title() == "a: high"


@pytest.mark.parametrize(
    ("plot", "task"),
    [
        (plot_confusion, Task.regression("a")),
        (plot_calibration, Task.multilabel("a", 2)),
        (plot_roc, Task.multiclass("a", 3)),
        (plot_regression, Task.binary("a")),
    ],
)
def test_other_kinds_are_refused(plot, task):
    with pytest.raises(InvalidInputError, match=f"'a' is {task.kind}"):
        plot(task, torch.zeros(2), torch.zeros(2), _axes())


def test_arrays_and_labels_by_name_are_taken():
    task, p = Task.binary("a", class_names=("no", "yes")), torch.tensor([0.9, 0.2, 0.6])
    for plot in (plot_confusion, plot_roc, plot_calibration):
        for given, labels in (
            (p.numpy(), ["yes", "no", "no"]),
            (p.tolist(), np.array([1, 0, 0])),
            (p.clone().requires_grad_(), torch.tensor([1.0, 0.0, 0.0])),
            (p[:, None], [1, 0, 0]),
        ):
            same = plot(task, p, task.to_targets([1, 0, 0]), _axes())
            drawn = plot(task, given, labels, _axes())
            for one, other in zip(same.lines, drawn.lines, strict=True):
                np.testing.assert_allclose(one.get_xydata(), other.get_xydata(), atol=1e-6)
            assert [t.get_text() for t in same.texts] == [t.get_text() for t in drawn.texts]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", [0.5], [1]), "task must be a Task, got str"),
        ((Task.binary("a"), [0.5, 0.5], [1]), r"have shape \(2,\), expected 1 for each of 1 label"),
        ((Task.binary("a"), [0.5, 0.5], [1, 2]), "row 1 has 2; allowed"),
        ((Task.binary("a"), [0.5, 0.5], [1, 0], 3), "ax must be axes of matplotlib, got int"),
    ],
)
def test_wrong_types(arguments, message):
    for plot in (plot_confusion, plot_roc, plot_calibration):
        with pytest.raises(InvalidInputError, match=message):
            plot(*arguments)


def test_without_labels():
    nothing = torch.full((2,), torch.nan)
    for plot in (plot_confusion, plot_calibration):
        with pytest.raises(InvalidInputError, match="no label"):
            plot(Task.binary("a"), torch.ones(2), nothing, _axes())
    with pytest.raises(InvalidInputError, match="no label"):
        plot_regression(Task.regression("a"), torch.ones(2), nothing, _axes())
    with pytest.raises(InvalidInputError, match="both classes"):
        plot_roc(Task.binary("a"), torch.ones(2), torch.ones(2), _axes())


@pytest.mark.parametrize("seed", range(3))
def test_a_roc_curve_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, 40), rng.random(40).round(1).astype("float32")  # with equal scores
    ax = plot_roc(Task.binary("a"), torch.from_numpy(p), torch.from_numpy(y).float(), _axes())
    false, true = ax.lines[0].get_data()
    expected = roc_curve(y, p, drop_intermediate=False)[:2]
    np.testing.assert_allclose((false, true), expected)
    assert ax.get_legend_handles_labels()[1] == [f"AUROC {roc_auc_score(y, p):.3f}"]
