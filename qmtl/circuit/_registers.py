"""Registers: which wires each task owns, how many, and what is read on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qmtl.circuit._readout import ExpectationZ, Probabilities, Readout
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = [
    "Layout",
    "Register",
    "check_names",
    "check_sizes",
    "default_readout",
    "make_registers",
    "register_sizes",
]

Layout = Literal["partitioned", "shared"]


@dataclass(frozen=True)
class Register:
    """The wires of one task, first wire most significant, and what is read on them."""

    task: Task
    wires: tuple[int, ...]
    readout: Readout


def default_readout(task: Task, n_wires: int | None = None) -> Readout:
    """Z on one wire per output; basis-state probabilities for a multiclass task.

    The wires read are spread over the register: read side by side, three targets on six wires
    would leave a weight of the opposite wire without effect.

    Args:
        task: the task.
        n_wires: wires of its register; None for the default number.

    Example:
        >>> default_readout(Task.multiclass("emotion", 9))
        Probabilities(n=9)
        >>> default_readout(Task.regression("pose", 3))
        ExpectationZ(n=3, step=2)
    """
    if task.kind == "multiclass":
        return Probabilities(task.n_outputs)
    size = _default_wires(task) if n_wires is None else n_wires
    if task.n_outputs == 1:
        return ExpectationZ(1)
    return ExpectationZ(task.n_outputs, step=max(1, size // task.n_outputs))


def _default_wires(task: Task) -> int:
    if task.kind == "multiclass":
        return max(2, Probabilities(task.n_outputs).min_wires)
    return max(2, 2 * task.n_outputs if task.kind == "regression" else task.n_outputs)


def register_sizes(
    tasks: Sequence[Task],
    layout: Layout,
    readouts: Mapping[str, Readout],
    wires_per_task: int | Mapping[str, int] | None,
    n_wires: int | None,
) -> dict[str, int]:
    """Wires of each task's register: those asked for, or the defaults."""
    defaults = {
        task.name: max(_default_wires(task), readouts[task.name].min_wires)
        if task.name in readouts
        else _default_wires(task)
        for task in tasks
    }
    if layout == "shared":
        if wires_per_task is not None:
            raise InvalidInputError("wires_per_task is for the partitioned layout; use n_wires")
        sizes = dict.fromkeys(defaults, max(defaults.values()) if n_wires is None else n_wires)
    else:
        if n_wires is not None:
            raise InvalidInputError("n_wires is for the shared layout; use wires_per_task")
        if isinstance(wires_per_task, Mapping):
            check_names("wires_per_task", wires_per_task, list(defaults))
            sizes = defaults | dict(wires_per_task)
        else:
            sizes = defaults if wires_per_task is None else dict.fromkeys(defaults, wires_per_task)
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise InvalidInputError(f"task {name!r}: wires must be an integer >= 1, got {size!r}")
    return {name: int(size) for name, size in sizes.items()}


def check_sizes(sizes: Mapping[str, int], readouts: Mapping[str, Readout]) -> None:
    """Check that every register has the wires that its readout needs."""
    for name, size in sizes.items():
        if size < readouts[name].min_wires:
            raise InvalidInputError(
                f"task {name!r}: the readout {readouts[name]} needs at least "
                f"{readouts[name].min_wires} wires, its register has {size}"
            )


def make_registers(
    tasks: Sequence[Task], layout: Layout, readouts: Mapping[str, Readout], sizes: Mapping[str, int]
) -> dict[str, Register]:
    """The registers: side by side if partitioned, all on the same wires if shared."""
    registers = {}
    start = 0
    for task in tasks:
        readout = readouts[task.name]
        if readout.n_outputs != task.n_outputs:
            raise InvalidInputError(
                f"task {task.name!r} has {task.n_outputs} outputs, its readout {readout} has "
                f"{readout.n_outputs}"
            )
        size = sizes[task.name]
        registers[task.name] = Register(task, tuple(range(start, start + size)), readout)
        start += size if layout == "partitioned" else 0
    return registers


def check_names(what: str, given: Mapping[str, object], names: list[str]) -> None:
    """Check that what is given per task names the circuit's tasks only."""
    known = set(names)
    for name in given:
        if name not in known:
            raise unknown_name(f"task in {what}", name, names)
