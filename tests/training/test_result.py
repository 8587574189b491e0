"""Result: its curves against epochs."""

import pytest
from matplotlib.figure import Figure

from qmtl.errors import InvalidInputError
from qmtl.training import plot_curves


def history(tasks, epochs=3, metric="loss", split="validation"):
    return [
        {"epoch": e + 1, "split": split, "task": task, "metric": metric, "value": i + e}
        for e in range(epochs)
        for i, task in enumerate(tasks)
    ]


def draw(rows, **options):
    ax = Figure().subplots()
    assert plot_curves(rows, ax, **options) is ax
    return ax


def test_a_line_per_task_from_epoch_one():
    ax = draw(history("ab"), kept=2)
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["a"] == [[1, 0], [2, 1], [3, 2]]
    assert lines["b"] == [[1, 1], [2, 2], [3, 3]]
    assert lines["kept"][0][0] == 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "validation loss")


def test_many_tasks_show_their_median():
    ax = draw(history([f"t{i}" for i in range(13)]))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["median of 13 tasks"]
    assert ax.lines[-1].get_ydata()[0] == 6


def test_undefined_values_are_left_out_of_the_median():
    rows = history([f"t{i}" for i in range(13)])
    rows[0]["value"] = float("nan")
    assert draw(rows).lines[-1].get_ydata()[0] == 6.5


def test_only_the_tasks_asked_for():
    ax = draw(history("abc"), tasks=["c", "a"])
    assert [line.get_label() for line in ax.lines] == ["c", "a"]


@pytest.mark.parametrize("options", [{"metric": "f1"}, {"split": "train"}, {"tasks": ["z"]}])
def test_nothing_to_draw_is_an_error(options):
    with pytest.raises(InvalidInputError, match="it has validation loss"):
        draw(history("ab"), **options)
