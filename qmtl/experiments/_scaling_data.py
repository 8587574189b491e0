"""Real data with many binary tasks, of which growing subsets are learned."""

import random
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from qmtl.data import MultiTaskData, Split, chestxray, digits
from qmtl.tasks import Task

IMAGE_SIDE = 16

__all__ = ["digit_dichotomies", "in_random_order", "scaling_data"]


def scaling_data(folder: str | Path | None, seed: int) -> MultiTaskData:
    """Binary tasks on common inputs, split and in an order that the seed shuffles.

    Args:
        folder: with chest X-rays in CheXpert's layout, which `qmtl.data.chestxray` reads, scaled
            down to 16×16 pixels; None for `digit_dichotomies`.
        seed: of splits and order.

    Example:
        >>> [task.name for task in scaling_data(None, seed=0).tasks[:2]]
        ['01567', '03578']
    """
    if folder is None:
        return in_random_order(digit_dichotomies(seed=seed), seed)
    data = chestxray(folder, image_size=IMAGE_SIDE, flat=True, seed=seed)
    # "No Finding" says that all others are absent, which is no task beside them.
    findings = [task.name for task in data.tasks if task.name != "No Finding"]
    return in_random_order(data.subset(findings), seed)


def digit_dichotomies(*, seed: int = 0) -> MultiTaskData:
    """scikit-learn's digits with 126 binary tasks: every way to halve the ten digits.

    Task ``01234`` is whether the digit is one of 0, 1, 2, 3 and 4. The labels are balanced and
    come from one real label, so that the number of tasks grows while their difficulty does not.

    Args:
        seed: of the split, which is stratified by digit.

    Returns:
        1,797 rows of 64 pixels in [0, 1]; 60, 20 and 20 percent for the three splits.

    References:
        Output codes: Dietterich and Bakiri, arXiv:cs/9501101.

    Example:
        >>> data = digit_dichotomies()
        >>> len(data.tasks), data.tasks[0].name, len(data.train)
        (126, '01234', 1079)
    """
    source = digits(seed=seed, tasks=["digit"])
    # A half and its complement are one task; the half with a zero names it.
    halves = [(0, *rest) for rest in combinations(range(1, 10), 4)]
    tasks = {"".join(map(str, half)): half for half in halves}

    def labels(digit: Tensor) -> dict[str, Tensor]:
        return {name: torch.isin(digit, torch.tensor(h)).float() for name, h in tasks.items()}

    def relabelled(split: Split) -> Split:
        return Split(split.inputs, labels(split.targets["digit"]), split.index)

    return MultiTaskData(
        "digit-dichotomies",
        tuple(Task.binary(name, metrics=("accuracy",)) for name in tasks),
        train=relabelled(source.train),
        validation=relabelled(source.validation),
        test=relabelled(source.test),
        split_seed=seed,
    )


def in_random_order(data: MultiTaskData, seed: int) -> MultiTaskData:
    """The same data, tasks shuffled: neighbours share light cones, and no order is favoured.

    Example:
        >>> shuffled = in_random_order(digits(tasks=["digit", "ink", "parity"]), seed=1)
        >>> sorted(task.name for task in shuffled.tasks)
        ['digit', 'ink', 'parity']
    """
    names = [task.name for task in data.tasks]
    random.Random(seed).shuffle(names)
    return data.subset(names)
