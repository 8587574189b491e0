"""scikit-learn's handwritten digits with five tasks: small, real, and installed with qmtl."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal

import numpy as np
import torch

from qmtl._sections import Fractions
from qmtl.data._columns import TableColumns
from qmtl.data._dataset import DataSection, MultiTaskData, Split, take_splits
from qmtl.data._splits import choose_rows
from qmtl.tasks import Task, chosen_tasks


class DigitsSection(DataSection):
    """Recipe section of `digits`."""

    source: Literal["digits"] = "digits"
    splits: Fractions | None = None

    def load(self) -> MultiTaskData:
        return digits(seed=self.seed, tasks=self.tasks, **self.given())

    def load_tasks(self) -> tuple[Task, ...]:
        return _chosen(self.tasks)


TASKS = (
    Task.multiclass("digit", 10, class_names=tuple("0123456789")),
    Task.binary("parity", class_names=("even", "odd")),
    Task.binary("five_or_more"),
    Task.binary("has_loop"),
    Task.regression("ink"),
)


def digits(
    *,
    seed: int = 0,
    splits: Sequence[float] | Mapping[str, Any] = (0.6, 0.2, 0.2),
    tasks: Sequence[str] | None = None,
) -> MultiTaskData:
    """Load 1797 images of 8x8 pixels, with five tasks on each.

    Tasks: digit (10 classes), parity (odd is 1), five_or_more, has_loop (0, 6, 8 and 9; binary)
    and ink (regression: the mean pixel in [0, 1]).

    The images are the test set of E. Alpaydin and C. Kaynak's Optical Recognition of Handwritten
    Digits (UCI Machine Learning Repository, 1998, licence CC BY 4.0).

    Args:
        seed: seed of the split, which is stratified by digit.
        splits: three fractions, or a dict of row numbers.
        tasks: names of some of the tasks, in the order wanted; None for all.

    Returns:
        Inputs (N, 64), pixels in [0, 1]. `columns` converts tables with raw pixels 0..16.

    Raises:
        InvalidInputError: a task is unknown, or the splits do not fit.

    Example:
        >>> data = digits(tasks=["digit", "ink"])
        >>> len(data.train), [task.kind for task in data.tasks]
        (1079, ['multiclass', 'regression'])
    """
    # The data of `sklearn.datasets.load_digits`, without the second that its import takes.
    with (resources.files("qmtl.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
        inputs = torch.from_numpy(arrays["pixels"]).float() / 16
        digit = torch.from_numpy(arrays["labels"]).long()
    loops = torch.isin(digit, torch.tensor([0, 6, 8, 9]))
    labels_of = {
        "digit": digit, "parity": digit % 2, "five_or_more": digit >= 5, "has_loop": loops,
        "ink": inputs.mean(dim=1),
    }  # fmt: skip
    chosen = _chosen(tasks)
    targets = {task.name: task.to_targets(labels_of[task.name]) for task in chosen}
    indices = choose_rows(len(inputs), splits, seed, digit)
    return MultiTaskData(
        "digits",
        chosen,
        *take_splits(Split(inputs, targets), indices),
        columns=TableColumns(tuple((f"pixel_{i}", 0.0, 16.0) for i in range(64))),
        split_seed=None if isinstance(splits, Mapping) else int(seed),
    )


def _chosen(names: Sequence[str] | None) -> tuple[Task, ...]:
    known = {task.name: task for task in TASKS}
    return tuple(known[name] for name in chosen_tasks(names, known, "digits task"))
