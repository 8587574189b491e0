"""Many tasks at once: those alike are stacked, so that the work does not grow call by call.

A call of torch costs microseconds whatever it computes, which for a thousand small tasks is most
of a training step.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qmtl.tasks.labels import present
from qmtl.tasks.losses import check_shapes, terms_of_stack

if TYPE_CHECKING:
    from qmtl.tasks.task import Task

__all__ = ["alike", "labelled_rows", "stacked_loss_terms", "stacks_by_shape"]


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """Places of equal keys together, in the order in which they first come.

    Example:
        >>> alike("abba")
        [[0, 3], [1, 2]]
    """
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def stacks_by_shape(tensors: Sequence[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Tensors of one shape, type and device as one, each group with its places.

    Example:
        >>> rows = [torch.zeros(3), torch.zeros(3, 2), torch.ones(3)]
        >>> [(places, tuple(stack.shape)) for places, stack in stacks_by_shape(rows)]
        [([0, 2], (2, 3)), ([1], (1, 3, 2))]
    """
    groups = alike((value.shape, value.dtype, value.device) for value in tensors)
    return [(places, torch.stack([tensors[i] for i in places])) for places in groups]


def labelled_rows(tasks: Sequence["Task"], targets: Mapping[str, Tensor]) -> Tensor:
    """`Task.labelled` of many tasks on the same rows: bool (tasks, N).

    Args:
        tasks: the tasks.
        targets: task name → canonical targets, see `Task.to_targets`.

    Example:
        >>> from qmtl.tasks import Task
        >>> tasks = [Task.binary("a"), Task.multiclass("b", 3)]
        >>> targets = {"a": torch.tensor([0.0, float("nan")]), "b": torch.tensor([-100, 2])}
        >>> labelled_rows(tasks, targets)
        tensor([[ True, False],
                [False,  True]])
    """
    stacks = stacks_by_shape([targets[task.name] for task in tasks])
    masks = [present(stack) for _, stack in stacks]
    rows = [mask if mask.ndim == 2 else mask.any(dim=2) for mask in masks]
    return _in_order(rows, [places for places, _ in stacks])


def stacked_loss_terms(
    tasks: Sequence["Task"], logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Tensor:
    """`Task.loss_terms` of many tasks, in a few calls for each kind and shape of task.

    Args:
        tasks: the tasks, at least one.
        logits: task name → (B, n_outputs); B may differ between tasks.
        targets: task name → canonical targets; of a regression already standardised.

    Returns:
        The sum of each task's loss over its labelled entries, and what to divide it by: shape
        (tasks, 2).

    Raises:
        InvalidInputError: the shapes of a task do not fit; both are named.

    Example:
        >>> from qmtl.tasks import Task
        >>> tasks = [Task.regression("a"), Task.regression("b")]
        >>> logits = {"a": torch.tensor([[1.0], [5.0]]), "b": torch.tensor([[2.0], [2.0]])}
        >>> targets = {"a": torch.tensor([3.0, float("nan")]), "b": torch.tensor([1.0, 1.0])}
        >>> stacked_loss_terms(tasks, logits, targets)
        tensor([[4., 1.],
                [2., 2.]])
    """
    outputs = [logits[task.name] for task in tasks]
    wanted = [targets[task.name] for task in tasks]
    keys = []
    for task, output, target in zip(tasks, outputs, wanted, strict=True):
        check_shapes(task, output, target)
        weighted = task.class_weights is not None
        keys.append((task.kind, task.n_outputs, weighted, output.shape[0], target.dtype))
    groups = alike(keys)
    terms = []
    for group in groups:
        stacked = [torch.stack([values[i] for i in group]) for values in (outputs, wanted)]
        terms.append(torch.stack(terms_of_stack([tasks[i] for i in group], *stacked), dim=1))
    return _in_order(terms, groups)


def _in_order(parts: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """The rows of all parts, each at its place."""
    if len(parts) == 1:
        return parts[0]
    places = [place for group in groups for place in group]
    order = torch.tensor(places).argsort()
    joined = torch.cat(list(parts))
    return joined[order.to(joined.device)]
