"""Self-supervised auxiliary tasks: the rotation of an image, its intensity, its origin."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.data import MultiTaskData, Split
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["with_auxiliary_tasks"]

KINDS = ("rotation", "intensity", "domain")
QUARTERS = 4


def with_auxiliary_tasks(
    data: MultiTaskData,
    kinds: Sequence[str] = ("rotation", "intensity"),
    *,
    image: tuple[int, int] | None = None,
    domain: Any = None,
    seed: int = 0,
) -> MultiTaskData:
    """The data with self-supervised tasks, which are ordinary tasks and come after the data's own.

    * ``rotation``: by how many quarter turns an image is rotated, four classes. Every split gets a
      second copy of its rows, each rotated at random, with only this label.
    * ``intensity``: mean and standard deviation of the pixels, a regression with two targets.
    * ``domain``: the origin of a row, such as its hospital or view; binary or multiclass.

    Args:
        data: data with images, (N, channels, H, W), or with flat rows of pixels.
        kinds: the tasks to add, in this order.
        image: height and width of flat images (N, channels·H·W); None if the data have image shape.
        domain: codes 0, 1, ... of all rows that `qmtl.data.Split.index` counts; NaN or a negative
            number means missing.
        seed: seed of the rotations.

    Raises:
        InvalidInputError: for an unknown kind, a task that exists already, images that are not
            square (rotation), sizes that do not fit, or a single domain.

    Example:
        >>> from qmtl.data import digits
        >>> data = with_auxiliary_tasks(digits(tasks=["parity"]), image=(8, 8))
        >>> [(task.name, task.kind) for task in data.tasks]
        [('parity', 'binary'), ('rotation', 'multiclass'), ('intensity', 'regression')]
        >>> len(data.train) == 2 * len(digits().train)
        True

    References:
        Ghamizi et al., arXiv:2302.02907: such tasks beside the main ones in adversarial training.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of auxiliary task:", kind, KINDS)
        if kind in [task.name for task in data.tasks]:
            raise InvalidInputError(f"the data already have a task {kind!r}")
    splits = data.splits
    added: dict[str, tuple[Task, dict[str, Tensor]]] = {}
    if "intensity" in kinds:
        found = {name: _intensity(split.inputs) for name, split in splits.items()}
        added["intensity"] = Task.regression("intensity", 2), found
    if "domain" in kinds:
        added["domain"] = _domain(splits, domain)
    tasks = {task.name: task for task in data.tasks}
    tasks |= {name: task for name, (task, _) in added.items()}
    for name, split in splits.items():
        more = {task.name: found[name] for task, found in added.values()}
        splits[name] = replace(split, targets=split.targets | more)
    if "rotation" in kinds:
        size = _square(data.train.inputs, image)
        generator = torch.Generator().manual_seed(seed)
        for name, split in splits.items():
            splits[name] = _with_turned_rows(split, list(tasks.values()), size, generator)
        tasks["rotation"] = Task.multiclass("rotation", QUARTERS)
    ordered = [*data.tasks, *(tasks[kind] for kind in kinds)]
    parts: Any = splits
    return replace(data, tasks=tuple(ordered), **parts)


def _intensity(inputs: Tensor) -> Tensor:
    flat = inputs.double().flatten(1)
    return torch.stack([flat.mean(1), flat.std(1, correction=0)], dim=1)


def _domain(splits: dict[str, Split], domain: Any) -> tuple[Task, dict[str, Tensor]]:
    if domain is None:
        raise InvalidInputError("the auxiliary task 'domain' needs domain, a code for each row")
    codes = np.asarray(domain, dtype=float)
    needed = 1 + max(int(split.index.max()) for split in splits.values())
    if codes.ndim != 1 or len(codes) < needed:
        raise InvalidInputError(
            f"domain must have one code for each of the {needed} rows of the original data, got "
            f"shape {codes.shape}"
        )
    codes = np.where(codes < 0, np.nan, codes)
    n_domains = len(np.unique(codes[~np.isnan(codes)]))
    if n_domains < 2:
        raise InvalidInputError(f"domain must have two codes at least, got {n_domains}")
    task = Task.binary("domain") if n_domains == 2 else Task.multiclass("domain", n_domains)
    if n_domains > 2:
        codes = np.where(np.isnan(codes), -100, codes)
    return task, {n: task.to_targets(codes[split.index.numpy()]) for n, split in splits.items()}


def _square(inputs: Tensor, image: tuple[int, int] | None) -> tuple[int, int]:
    """The size of the images, checked to be square."""
    width = int(inputs[0].numel())
    if inputs.ndim == 4:
        image = image or (inputs.shape[2], inputs.shape[3])
    if image is None:
        raise InvalidInputError(
            f"the auxiliary task 'rotation' needs image, the height and width of the images, for "
            f"inputs of shape {tuple(inputs.shape[1:])}"
        )
    height, length = image
    if height != length or height < 1 or width % (height * length):
        raise InvalidInputError(
            f"the auxiliary task 'rotation' turns square images, whose pixels are the inputs; got "
            f"image {tuple(image)} for inputs of shape {tuple(inputs.shape[1:])}"
        )
    return height, length


def _with_turned_rows(
    split: Split, tasks: Sequence[Task], size: tuple[int, int], generator: torch.Generator
) -> Split:
    """A split with its rows twice: the second copy is rotated and has only the rotation's label."""
    n_rows = len(split)
    quarters = torch.randint(QUARTERS, (n_rows,), generator=generator)
    images = split.inputs.reshape(n_rows, -1, *size)
    turned = torch.empty_like(images)
    for quarter in range(QUARTERS):
        own = quarters == quarter
        turned[own] = images[own].rot90(quarter, dims=(2, 3))
    targets = {}
    for task in tasks:
        values = split.targets[task.name]
        nothing = torch.nan if values.is_floating_point() else -100
        targets[task.name] = torch.cat([values, torch.full_like(values, nothing)])
    targets["rotation"] = torch.cat([torch.full((n_rows,), -100), quarters])
    inputs = torch.cat([split.inputs, turned.reshape_as(split.inputs)])
    weights = split.sample_weight
    weights = None if weights is None else weights.repeat(2)
    return Split(inputs, targets, split.index.repeat(2), weights)
