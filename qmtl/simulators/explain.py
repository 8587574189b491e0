"""What a plan costs before it runs: cones, amplitudes, bytes; and the error if it cannot fit."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators.cause_of_size import cause_of_size
from qmtl.simulators.plan import Group, Plan
from qmtl.simulators.work import working_bytes

__all__ = ["Explanation", "GroupCost", "check_memory"]


@dataclass(frozen=True)
class GroupCost:
    """One group of equal cones, and what a training step of it takes.

    Attributes:
        tasks: the tasks' names.
        n_cones: encoded states per sample; more than tasks where outputs run apart.
        cone_wires: wires of each cone.
        block_wires: wires the task's block acts on.
        amplitudes: complex amplitudes of all states of the batch.
        bytes: estimated peak memory of forward and backward.
        operations: estimated floating-point operations of forward and backward.
        sizes: size of the cone after each gate that widens it, seen from the readout.
    """

    tasks: tuple[str, ...]
    n_cones: int
    cone_wires: int
    block_wires: int
    amplitudes: int
    bytes: int
    operations: int
    sizes: tuple[int, ...]


def _group_bytes(group: Group, batch_size: int, itemsize: int, compiled: bool) -> int:
    if compiled and not len(group.block_slots.feature_slots):
        return working_bytes(group, batch_size, itemsize)
    # Autograd keeps about two states per operation for the backward pass.
    return 2 * itemsize * group.amplitudes * batch_size * (2 * group.steps + 4)


def _group_cost(group: Group, batch_size: int, itemsize: int, compiled: bool) -> GroupCost:
    amplitudes = group.amplitudes * batch_size
    return GroupCost(
        tasks=tuple(dict.fromkeys(group.tasks)),
        n_cones=group.n_cones,
        cone_wires=group.n_wires,
        block_wires=group.n_inner,
        amplitudes=amplitudes,
        bytes=_group_bytes(group, batch_size, itemsize, compiled),
        operations=amplitudes * (group.steps + 2) * 14 * 3,
        sizes=group.sizes,
    )


@dataclass(frozen=True)
class Explanation:
    """How a head circuit will be simulated, as facts and (by ``print``) as text."""

    n_tasks: int
    n_wires: int
    batch_size: int
    dtype: torch.dtype
    limit: int
    groups: tuple[GroupCost, ...]

    @classmethod
    def of(
        cls,
        circuit: HeadCircuit,
        plan: Plan,
        batch_size: int,
        dtype: torch.dtype,
        max_memory: int | None,
        *,
        compiled: bool = True,
    ) -> "Explanation":
        """The explanation of a plan at a batch size, for the compiled kernel or for torch."""
        costs = [_group_cost(group, batch_size, dtype.itemsize, compiled) for group in plan.groups]
        limit = memory_limit(torch.device("cpu"), max_memory)
        return cls(len(plan.tasks), circuit.n_wires, batch_size, dtype, limit, tuple(costs))

    @property
    def amplitudes(self) -> int:
        """Complex amplitudes of all groups."""
        return sum(group.amplitudes for group in self.groups)

    @property
    def bytes(self) -> int:
        """Estimated peak memory of a training step."""
        return sum(group.bytes for group in self.groups)

    @property
    def operations(self) -> int:
        """Estimated floating-point operations of a training step."""
        return sum(group.operations for group in self.groups)

    @property
    def fits(self) -> bool:
        """Whether the estimate is within the memory limit."""
        return self.bytes <= self.limit

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        lines = [
            f"{self.n_tasks} tasks on {self.n_wires} wires, batch {self.batch_size}, {kind}: "
            f"{_plural(len(self.groups), 'group')} of equal cones"
        ]
        for group in self.groups:
            names = ", ".join(group.tasks[:3]) + (", …" if len(group.tasks) > 3 else "")
            grows = " → ".join(map(str, group.sizes[:12])) + (
                " → …" if len(group.sizes) > 12 else ""
            )
            lines.append(
                f"  {_plural(len(group.tasks), 'task')} ({names}): cone {group.cone_wires} wires, "
                f"block {group.block_wires}, {_plural(group.n_cones, 'state')} of "
                f"2^{group.cone_wires} amplitudes per sample"
            )
            if grows:
                lines.append(f"    the cone grows, from the readout back: {grows} wires")
        lines.append(
            f"  {self.amplitudes:,} amplitudes; a training step takes about "
            f"{_bytes(self.bytes)} and {self.operations / 1e9:.3g} GFLOP "
            f"(limit {_bytes(self.limit)}{'' if self.fits else ': does not fit'})"
        )
        return "\n".join(lines)


def memory_limit(device: torch.device, max_memory: int | None) -> int:
    """Bytes that a step may take on `device`."""
    if max_memory is not None:
        return max_memory
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1] * 0.75)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.75)


def check_memory(
    circuit: HeadCircuit, plan: Plan, angles: Tensor, max_memory: int | None, *, compiled: bool
) -> None:
    """Raise `CircuitTooLargeError`, naming the cause, if a step would not fit."""
    limit = memory_limit(angles.device, max_memory)
    itemsize, batch = angles.dtype.itemsize, angles.shape[0]
    # This runs before every step: no costs are made unless they are needed.
    total = sum(_group_bytes(group, batch, itemsize, compiled) for group in plan.groups)
    if total <= limit:
        return
    costs = [_group_cost(group, batch, itemsize, compiled) for group in plan.groups]
    worst = max(costs, key=lambda cost: cost.bytes)
    raise CircuitTooLargeError(
        f"task {worst.tasks[0]!r}: its light cone has {worst.cone_wires} of {circuit.n_wires} "
        f"wires; a step of batch {batch} would take about {_bytes(total)}, the limit is "
        f"{_bytes(limit)}. "
        f"{cause_of_size(circuit, worst.tasks[0], worst.cone_wires, worst.block_wires)}"
    )


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} EB"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
