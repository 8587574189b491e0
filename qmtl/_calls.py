"""Call a module with other values of its parameters, in evaluation mode, or with a seed."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from qmtl.errors import InvalidInputError

_GENERATOR = threading.RLock()
"""A lock for the time in which qmtl seeds torch's global generator, which all threads share."""


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Let torch draw from this seed, then restore its generator; None changes nothing.

    Other threads that seed the generator through qmtl wait.
    """
    if seed is None:
        yield
        return
    number = as_seed(seed)
    with own_generator():
        torch.manual_seed(number % 2**64)
        yield


def as_seed(seed: object) -> int:
    """Return an argument `seed` as an integer, which may be of any size.

    Raises:
        InvalidInputError: if it is not an integer.

    Example:
        >>> as_seed("1")
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: seed must be an integer or None, got '1'
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise InvalidInputError(f"seed must be an integer or None, got {seed!r}")
    return int(seed)


@contextmanager
def own_generator(devices: Sequence[int] = ()) -> Iterator[None]:
    """Restore torch's global generators afterwards, also those of these GPUs.

    Other threads that seed them through qmtl wait; otherwise restoring could undo their seed.
    """
    with _GENERATOR, torch.random.fork_rng(devices=devices):
        yield


def called_with(
    module: nn.Module,
    values: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Call a module with other values of its parameters and buffers.

    Unlike `torch.func.functional_call`, this function also restores a module that is used twice.

    Args:
        module: the module.
        values: name of each parameter or buffer to replace, with its value. It is replaced
            wherever it is used.
        inputs: arguments of the call.
        options: keyword arguments of the call.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> both = nn.Sequential(layer, layer)
        >>> called_with(both, {"0.weight": torch.zeros(2, 2)}, (torch.ones(1, 2),)).shape
        torch.Size([1, 2])
        >>> layer.weight is both[1].weight, type(layer.weight).__name__
        (True, 'Parameter')
    """
    names = (module.named_parameters, module.named_buffers)
    own = {name: tensor for each in names for name, tensor in each(remove_duplicate=False)}
    replaced = {id(own[name]): value for name, value in values.items()}
    once = {path for path, _ in module.named_modules()}
    places = {
        name: replaced[id(tensor)]
        for name, tensor in own.items()
        if id(tensor) in replaced and name.rpartition(".")[0] in once
    }
    return functional_call(module, places, inputs, dict(options or {}), tie_weights=False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode; afterwards each module returns to its previous mode."""
    # Module by module: a frozen encoder may be in evaluation mode while the head trains.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
