"""Gradients of a step: summed over processes, and aggregated from the Jacobian of the losses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.training.parallel import sum_over_processes

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
    whole = sum_over_processes(torch.cat([g.flatten() for _, g in found]))
    parts = whole.split([p.numel() for p, _ in found])
    for (parameter, _), part in zip(found, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def aggregate(
    losses: Tensor, shared: Sequence[nn.Parameter], aggregator: Any, chunk: int | None
) -> None:
    """Set ``.grad`` of the shared parameters to TorchJD's aggregation of the losses' Jacobian.

    Args:
        losses: the task losses, shape (tasks,); they must add up over processes.
        shared: parameters that several tasks depend on.
        aggregator: a TorchJD aggregator.
        chunk: rows of the Jacobian to differentiate at once; None for all.
    """
    from torchjd.autojac import backward, jac_to_grad

    backward(list(losses.unbind()), inputs=shared, parallel_chunk_size=chunk)
    jacobians: Any = [p for p in shared if getattr(p, "jac", None) is not None]
    for parameter in jacobians:
        parameter.jac = sum_over_processes(parameter.jac)
    jac_to_grad(jacobians, aggregator)
