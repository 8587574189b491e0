"""The light-cone plan: which tasks share a batch, or a state.

A plan is made once per circuit and set of tasks, from plain gates; running it needs no Python per
task. Cones with the same gates up to a renaming of wires form one group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.simulators.cones import Cone, cones_of, joint_cone
from qmtl.simulators.layers import Layer
from qmtl.simulators.slots import SlotTable, slot_table

__all__ = ["Group", "Plan", "Structure", "build_plan"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Structure:
    """What a group's cones have in common, without their wires and weights.

    Attributes:
        n_wires: wires of each cone.
        n_inner: how many of the first local wires the block acts on or the readout reads.
        encoding: layers of the encoding.
        block: layers of the task block.
        encoding_slots: the encoding's slots: those that depend on the sample, and the others.
        block_slots: those of the block.
        readout: outputs over the basis states of the wires read.
    """

    n_wires: int
    n_inner: int
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_slots: tuple[tuple[int, ...], tuple[int, ...]]
    block_slots: tuple[tuple[int, ...], tuple[int, ...]]
    readout: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Group:
    """Cones of the same structure; they run as one batch.

    Attributes:
        members: each cone's tasks, in the circuit's order: one, or several whose blocks are on one
            state. A task is in several cones if its outputs run apart.
        outputs: for each of `tasks`, which of its outputs are computed.
        wires: each cone's wires in local order, shape (cones, n_wires): those that are read, the
            others of the block, the rest.
        n_inner: how many of the first local wires the block acts on or the readout reads.
        encoding: layers of the encoding on the cone.
        block: layers of the task block on the first `n_inner` wires.
        encoding_slots: angles of the encoding; one row per cone, or a single one if all tasks
            share one cone.
        block_slots: angles of the block, one row per member.
        own_weights: how many weights each of `tasks` has.
        readout: outputs over the basis states of the wires read, shape (n_outputs, 2^n_read).
        sizes: size of the cone after each gate that widens it, seen from the readout.
        kept: what engines derive from the group once.
    """

    members: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    wires: IntArray
    n_inner: int
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_slots: SlotTable
    block_slots: SlotTable
    own_weights: tuple[int, ...]
    readout: NDArray[np.float64]
    sizes: tuple[int, ...]
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # Engines hold addresses, at which a copy has nothing.
        return {**self.__dict__, "kept": {}}

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The members' tasks, one after the other."""
        return tuple(task for member in self.members for task in member)

    @property
    def n_weights(self) -> int:
        """Weights of each member."""
        return sum(self.own_weights[: len(self.members[0])])

    @property
    def structure(self) -> Structure:
        """What the cones have in common; hashable."""
        encoding, block = (
            (tuple(slots.feature_slots.tolist()), tuple(slots.weight_slots.tolist()))
            for slots in (self.encoding_slots, self.block_slots)
        )
        readout = tuple(map(tuple, self.readout.tolist()))
        layers = (self.encoding, self.block)
        return Structure(self.n_wires, self.n_inner, *layers, encoding, block, readout)

    @property
    def n_wires(self) -> int:
        """Wires of each cone."""
        return int(self.wires.shape[1])

    @property
    def n_cones(self) -> int:
        """Encoded states per sample: one per member, or one if the members share it."""
        return int(self.wires.shape[0])

    @property
    def amplitudes(self) -> int:
        """Complex amplitudes per sample over all tasks of the group, at the widest point."""
        return max(self.n_cones, len(self.members) if self.n_cones == 1 else 0) << self.n_wires

    @cached_property
    def steps(self) -> int:
        """Operations on whole states: one per diagonal layer, one per wire of the other layers."""
        layers = (*self.encoding[1:], *self.block)
        return sum(1 if lay.diagonal else len({op.wires[0] for op in lay.ops}) for lay in layers)


@dataclass(frozen=True)
class Plan:
    """Groups that together compute the outputs of `tasks`, but for those in `chain`.

    The latter's cones are long chains, which run as matrix products (`qmtl.simulators.chain`).

    Attributes:
        tasks: all tasks, in the order asked for.
        groups: of those that run on cones.
        chain: of these, those that run as matrix products.
        sizes: outputs of each task.
        kept: engines by what they have to fit, see `qmtl.simulators.memory.fitted`.
    """

    tasks: tuple[str, ...]
    groups: tuple[Group, ...]
    chain: tuple[str, ...]
    sizes: tuple[int, ...]
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # Engines hold addresses, at which a copy has nothing.
        return {**self.__dict__, "kept": {}}

    @cached_property
    def is_joint(self) -> bool:
        """Whether several tasks run on one state."""
        return any(len(member) > 1 for group in self.groups for member in group.members)

    @cached_property
    def order(self) -> IntArray | None:
        """Where the tasks' outputs, in their order, are among those of the groups and the chain,
        one after the other; None if they are in this order already.
        """
        parts = [pair for g in self.groups for pair in zip(g.tasks, g.outputs, strict=True)]
        sizes = dict(zip(self.tasks, self.sizes, strict=True))
        parts += [(task, tuple(range(sizes[task]))) for task in self.chain]
        found = [(task, output) for task, outputs in parts for output in outputs]
        place = {output: i for i, output in enumerate(found)}
        wanted = [place[task, i] for task, size in sizes.items() for i in range(size)]
        return None if wanted == list(range(len(wanted))) else np.array(wanted, dtype=np.int64)


def build_plan(
    circuit: HeadCircuit, tasks: Sequence[str], chain: Sequence[str] = (), *, joint: bool = False
) -> Plan:
    """Group the cones of `tasks` by structure, but for those in `chain`; or make one of them all.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)])
        >>> plan = build_plan(circuit, list(circuit.registers))
        >>> len(plan.groups), plan.groups[0].wires.shape
        (1, (8, 6))
    """
    groups: dict[tuple[object, ...], list[Cone]] = {}
    chained = set(chain)
    rest = [task for task in tasks if task not in chained]
    for cone in [joint_cone(circuit, rest)] if joint else cones_of(circuit, rest):
        groups.setdefault(cone.structure, []).append(cone)
    found = tuple(_group(cones) for cones in groups.values())
    sizes = tuple(circuit.register(task).task.n_outputs for task in tasks)
    return Plan(tuple(tasks), found, tuple(chain), sizes)


def _group(cones: Sequence[Cone]) -> Group:
    first = cones[0]
    same = all(
        cone.wires == first.wires and cone.encoding_angles == first.encoding_angles
        for cone in cones
    )
    states = cones[:1] if same else cones
    return Group(
        members=tuple(cone.tasks for cone in cones),
        outputs=tuple(outputs for cone in cones for outputs in cone.outputs),
        wires=np.array([cone.wires for cone in states], dtype=np.int64),
        n_inner=first.n_inner,
        encoding=first.encoding,
        block=first.block,
        encoding_slots=slot_table([cone.encoding_angles for cone in states]),
        block_slots=slot_table([cone.block_angles for cone in cones]),
        own_weights=tuple(size for cone in cones for size in cone.n_weights),
        readout=np.array(first.readout, dtype=np.float64),
        sizes=first.sizes,
    )
