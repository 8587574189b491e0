"""Sums over the processes of a distributed run; the identity in a single process."""

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["n_processes", "sum_over_processes"]


def n_processes() -> int:
    """How many processes train together.

    Example:
        >>> n_processes()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's tensor, on all of them.

    Example:
        >>> sum_over_processes(torch.tensor([1.0]))
        tensor([1.])
    """
    if n_processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total
