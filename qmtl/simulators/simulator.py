"""The contract of a simulator, and the checks that all of them share."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn, cast

import torch
from torch import Tensor

from qmtl.simulators._contract import Simulator

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["Simulator", "check_angles", "check_inputs", "checked_weights", "stacked_weights"]


def check_inputs(
    circuit: HeadCircuit,
    angles: Tensor,
    weights: Mapping[str, Tensor],
    tasks: Sequence[str] | None,
) -> tuple[str, ...]:
    """The tasks to evaluate, after checking shapes and types."""
    chosen = check_angles(circuit, angles, tasks)
    checked_weights(circuit, weights, ("encoding", *chosen), angles.dtype)
    return chosen


def check_angles(
    circuit: HeadCircuit, angles: Tensor, tasks: Sequence[str] | None
) -> tuple[str, ...]:
    """The tasks to evaluate, after checking all but the weights."""
    if not isinstance(angles, Tensor) or not angles.dtype.is_floating_point:
        kind = angles.dtype if isinstance(angles, Tensor) else type(angles).__name__
        raise InvalidInputError(f"angles must be a floating-point tensor, got {kind}")
    if angles.dtype not in (torch.float32, torch.float64):
        raise InvalidInputError(f"angles must be float32 or float64, got {angles.dtype}")
    if angles.ndim != 2 or angles.shape[1] != circuit.n_features:
        raise InvalidInputError(
            f"angles must have shape (batch, {circuit.n_features}), got {tuple(angles.shape)}"
        )
    if tasks is None:
        return tuple(circuit.registers)
    if isinstance(tasks, str):
        raise InvalidInputError(f"tasks must be a sequence of names, got the string {tasks!r}")
    chosen = tuple(tasks)
    for name in chosen:
        if name not in circuit.registers:
            raise unknown_name("task", name, circuit.registers)
    if len(set(chosen)) < len(chosen):
        raise InvalidInputError(f"tasks must be distinct, got {list(chosen)}")
    return chosen


def checked_weights(
    circuit: HeadCircuit,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    dtype: torch.dtype,
) -> list[Tensor]:
    """The weights of these names, after checking shapes and types."""
    found, sizes = [weights.get(name) for name in names], circuit.weight_sizes
    # Thousands of tasks are checked in every step: all at once, and one by one if any is wrong.
    kinds = {getattr(weight, "dtype", None) for weight in found}
    shapes = [getattr(weight, "shape", None) for weight in found]
    if kinds - {dtype} or shapes != [sizes[name] for name in names]:
        for name, weight in zip(names, found, strict=True):
            kind = getattr(weight, "dtype", None), getattr(weight, "shape", None)
            if kind != (dtype, sizes[name]):
                _refuse(name, weights, tuple(sizes[name]), dtype)
    return cast("list[Tensor]", found)


def stacked_weights(
    circuit: HeadCircuit,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    dtype: torch.dtype,
    found: Sequence[Tensor],
) -> Tensor:
    """What was found for tasks of one size, a row for each, after checking shapes and types."""
    # Torch looks at each of them in any case, several times as fast.
    with suppress(AttributeError, TypeError, RuntimeError):
        whole = torch.stack(list(found))
        right = whole.shape[1:] == circuit.weight_sizes[names[0]]
        if right and {weight.dtype for weight in found} == {dtype}:
            return whole
    return torch.stack(checked_weights(circuit, weights, names, dtype))


def _refuse(
    name: str, weights: Mapping[str, Tensor], size: tuple[int, ...], dtype: torch.dtype
) -> NoReturn:
    """Say what is wrong with the weights of this name."""
    if name not in weights:
        raise InvalidInputError(f"weights must have the key {name!r}, got {sorted(weights)}")
    weight: object = weights[name]
    if not isinstance(weight, Tensor):
        kind = type(weight).__name__
        raise InvalidInputError(f"weights[{name!r}] must be a tensor, got {kind}")
    if weight.shape != size:
        raise InvalidInputError(
            f"weights[{name!r}] must have shape {size}, got {tuple(weight.shape)}"
        )
    raise InvalidInputError(
        f"weights[{name!r}] must be {dtype} as the angles are, got {weight.dtype}"
    )
