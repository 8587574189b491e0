"""Gradients of a step, summed over the processes of a distributed run."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

__all__ = ["n_processes", "set_gradients", "sum_over_processes"]


def n_processes() -> int:
    """How many processes train together.

    Example:
        >>> n_processes()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's tensor, on all of them; the tensor itself in a single process.

    Example:
        >>> sum_over_processes(torch.tensor([1.0]))
        tensor([1.])
    """
    if n_processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def set_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Set ``.grad`` to the sum over all processes; a parameter without a gradient keeps none.

    Gradients of all types travel in one flat tensor of each type.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> set_gradients([weight], [torch.ones(2)])
        >>> weight.grad
        tensor([1., 1.])
    """
    found = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    if n_processes() > 1:
        for dtype in dict.fromkeys(g.dtype for _, g in found):
            same = [(p, g) for p, g in found if g.dtype == dtype]
            flat = sum_over_processes(torch.cat([g.flatten() for _, g in same]))
            parts = flat.split([g.numel() for _, g in same])
            for (parameter, gradient), part in zip(same, parts, strict=True):
                parameter.grad = part.view(gradient.shape)
        return
    seen = set[int]()
    for parameter, gradient in found:
        # What autograd returns may share memory, which whoever clips gradients must not change.
        place = gradient.untyped_storage().data_ptr()
        apart = place not in seen and gradient.is_contiguous()
        seen.add(place)
        parameter.grad = (
            gradient if apart else gradient.clone(memory_format=torch.contiguous_format)
        )
