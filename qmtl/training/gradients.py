"""Gradients of a step: summed over processes, and aggregated from the Jacobian of the losses."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.tasks.stacked import stacks_by_shape
from qmtl.training.local_rows import Locality, linearised, local_rows
from qmtl.training.parallel import n_processes, sum_over_processes
from qmtl.training.sparse_rows import SparseRows

__all__ = ["aggregate", "set_gradients"]


def set_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Set ``.grad`` to the sum over all processes; a parameter without a gradient keeps none.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> set_gradients([weight], [torch.ones(2)])
        >>> weight.grad
        tensor([1., 1.])
    """
    found = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    if not found:
        return
    stacks = stacks_by_shape([g for _, g in found])
    # A copy, too, in one process: gradients that autograd returns may share memory.
    whole = sum_over_processes(torch.cat([stack.flatten() for _, stack in stacks]))
    parts = whole.split([stack.numel() for _, stack in stacks])
    for (places, stack), part in zip(stacks, parts, strict=True):
        for place, gradient in zip(places, part.view_as(stack).unbind(), strict=True):
            found[place][0].grad = gradient


def aggregate(
    losses: Tensor,
    logits: Sequence[Tensor],
    own: Sequence[nn.Parameter],
    shared: Sequence[nn.Parameter],
    aggregator: Any,
    *,
    chunk: int | None = None,
    features: Tensor | None = None,
    locality: Locality | None = None,
) -> None:
    """Set ``.grad``: of shared parameters to TorchJD's aggregation of the losses' Jacobian, and of
    a task's own ones to the gradient of its loss.

    Args:
        losses: the task losses, shape (tasks,); they must add up over processes.
        logits: for each loss, in this order, the one tensor by which it depends on parameters.
        own: parameters that only one of the losses depends on.
        shared: parameters that several of them depend on.
        aggregator: a TorchJD aggregator.
        chunk: rows of the Jacobian to differentiate at once; None for all.
        features: the encoder's output that all logits were computed from, if there is one.
        locality: which of the features and shared weights these tasks depend on, if that is known.
            It saves most of the passes through the head (unless there is a `chunk`).

    Example:
        >>> from qmtl.training.combine import make_aggregator
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> logits = [weight * 2, weight.sum()]
        >>> losses = torch.stack([logits[0].sum(), -logits[1]])
        >>> aggregate(losses, logits, [], [weight], make_aggregator("mean", 2))
        >>> weight.grad
        tensor([0.5000, 0.5000])
    """
    if not shared:
        set_gradients(own, torch.autograd.grad(losses.sum(), own, allow_unused=True))
        return
    if locality is None or features is None or chunk is not None or not locality.holds(features):
        _combine(shared, _rows(losses, logits, own, shared, chunk), aggregator)
        return
    rows, gradients = local_rows(losses, logits, features, shared, own, locality)
    set_gradients(own, gradients)
    _combine(shared, rows, aggregator)


def _rows(
    losses: Tensor,
    logits: Sequence[Tensor],
    own: Sequence[nn.Parameter],
    shared: Sequence[nn.Parameter],
    chunk: int | None,
) -> Sequence[Tensor]:
    """The Jacobian by the shared parameters; sets the tasks' own gradients."""
    from torchjd.autojac import jac

    rows = [i for i, values in enumerate(logits) if values.requires_grad]
    outputs = [logits[i] for i in rows]
    # One pass gives the tasks' own gradients, and where the Jacobian's rows start from.
    starts = torch.autograd.grad(
        losses.sum(), [*outputs, *own], retain_graph=True, allow_unused=True
    )
    set_gradients(own, starts[len(outputs) :])
    linear = linearised(outputs, starts[: len(outputs)], rows, len(losses))
    jacobians: Sequence[Tensor] = jac(linear, shared, parallel_chunk_size=chunk)
    return jacobians


def _combine(
    shared: Sequence[nn.Parameter], jacobians: Sequence[Tensor | SparseRows], aggregator: Any
) -> None:
    from torchjd.autojac import jac_to_grad

    whole = [_over_processes(rows) for rows in jacobians]
    weights = _weights(whole, aggregator)
    if weights is not None:
        # The Jacobian is not copied into one matrix, nor are sparse rows taken apart.
        for parameter, rows in zip(shared, whole, strict=True):
            parameter.grad = _weighted_sum(rows, weights.to(parameter.dtype))
        return
    tensors: Any = list(shared)
    for parameter, rows in zip(tensors, whole, strict=True):
        parameter.jac = rows.dense() if isinstance(rows, SparseRows) else rows
    jac_to_grad(tensors, aggregator)


def _weights(jacobians: Sequence[Tensor | SparseRows], aggregator: Any) -> Tensor | None:
    """What each row counts, if the aggregator tells from inner products or the number of rows."""
    from torchjd.aggregation import Constant, GramianWeightedAggregator, Mean, Random, Sum

    if _is_hooked(aggregator):
        return None
    weights: Tensor | None = None
    if isinstance(aggregator, GramianWeightedAggregator):
        weights = aggregator.gramian_weighting(sum(_gramian(rows) for rows in jacobians))
    elif type(aggregator) in (Constant, Mean, Random, Sum):
        tensors = [rows.joint if isinstance(rows, SparseRows) else rows for rows in jacobians]
        dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
        weights = aggregator.weighting(tensors[0].new_empty(len(jacobians[0]), 0, dtype=dtype))
    return weights


def _is_hooked(aggregator: Any) -> bool:
    """Whether somebody wants to see what it is given, or what it returns."""
    return any(part._forward_pre_hooks or part._forward_hooks for part in aggregator.modules())


def _over_processes(rows: Tensor | SparseRows) -> Tensor | SparseRows:
    if isinstance(rows, SparseRows) and n_processes() == 1:
        return rows
    # Other processes, with other labels, may not have found these rows to be sparse.
    return sum_over_processes(rows.dense() if isinstance(rows, SparseRows) else rows)


def _gramian(rows: Tensor | SparseRows) -> Any:
    if isinstance(rows, SparseRows):
        return rows.gramian()
    matrix = rows.unsqueeze(1).flatten(1)
    return matrix @ matrix.T


def _weighted_sum(rows: Tensor | SparseRows, weights: Tensor) -> Tensor:
    if isinstance(rows, SparseRows):
        return rows.weighted_sum(weights)
    total: Tensor = torch.tensordot(weights, rows, dims=1)
    return total
