"""The plan: groups of cones that run as one batch, and the rows of their angles in the table.

A plan is made once per circuit and set of tasks, and runs without a Python loop over tasks. Cones
with the same gates up to a renaming of wires form one group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit import HeadCircuit
from qmtl.simulators._angles import (
    AngleRows,
    AngleTable,
    Columns,
    Slots,
    TableBuilder,
    angle_columns,
    split_slots,
)
from qmtl.simulators._cones import Cone, Layer, joint_cone, moved_tasks, wire_table

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Structure:
    """The common structure of a group's cones, without wires and weights; hashable.

    Attributes:
        n_wires: number of wires of each cone.
        n_inner: number of local wires, from the first, that the block acts on or the readout reads.
        encoding: layers of the encoding.
        block: layers of the task block.
        encoding_slots: the encoding's slots whose angles depend on the sample, and the others.
        block_slots: the block's slots, in the same form.
        readout: outputs as rows over the basis states of the wires that are read.
        alias: for each slot of the encoding, the first slot that always has the same angle; may be
            empty, which means that equal angles are unknown.
    """

    n_wires: int
    n_inner: int
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_slots: Slots
    block_slots: Slots
    readout: tuple[tuple[float, ...], ...]
    alias: tuple[int, ...] = ()

    @property
    def distinct_slots(self) -> Slots:
        """The encoding's slots without those that repeat another slot's angle."""
        kept = [i for i, first in enumerate(self.alias) if first == i]
        sampled, fixed = (tuple(i for i in slots if i in kept) for slots in self.encoding_slots)
        return (sampled, fixed) if self.alias else self.encoding_slots

    @property
    def steps(self) -> int:
        """Number of operations on states: one per diagonal layer, one per wire of other layers."""
        layers = (*self.encoding[1:], *self.block)
        return sum(1 if lay.diagonal else len({op.wires[0] for op in lay.ops}) for lay in layers)


@dataclass(frozen=True, eq=False)
class Group:
    """Cones of the same structure, which run as one batch.

    A member is a task, or several tasks whose blocks share one state. A task whose outputs run
    separately may be a member of several groups.

    Attributes:
        structure: the cones' common structure.
        tasks: the members' tasks, in order.
        columns: columns of the members' outputs among the plan's, shape (members, n_outputs).
        wires: each cone's wires in local order, shape (cones, n_wires); a cone that all members
            share is listed once.
        encoding: angles of the encoding, a row per cone.
        block: angles of the block, a row per member.
        sizes: size of the cone after each gate that widens it, backwards from the readout.
        joint: (several tasks on one state) the task of each output and of each fixed angle of the
            block.
    """

    structure: Structure
    tasks: tuple[str, ...]
    columns: IntArray
    wires: IntArray
    encoding: AngleRows
    block: AngleRows
    sizes: tuple[int, ...]
    joint: tuple[IntArray, IntArray] | None = None

    @property
    def n_members(self) -> int:
        """Number of members: tasks, or 1 if several tasks share one state."""
        return len(self.columns)

    @property
    def n_cones(self) -> int:
        """Number of encoded states per sample: one per member, or one that all members share."""
        return len(self.wires)

    @property
    def amplitudes(self) -> int:
        """Complex amplitudes per sample over all tasks of the group, at the widest point."""
        states = max(self.n_cones, self.n_members if self.n_cones == 1 else 0)
        return states << self.structure.n_wires


class Plan(NamedTuple):
    """The groups that compute the outputs of `tasks`, except for the tasks in `chain`.

    The light cones of tasks in `chain` are long chains, which run as matrix products.

    Attributes:
        tasks: all requested tasks, in their order.
        groups: groups of the tasks that run on cones.
        chain: the tasks that run as matrix products.
        table: table of all angles.
        n_outputs: number of output columns.
    """

    tasks: tuple[str, ...]
    groups: tuple[Group, ...]
    chain: tuple[str, ...]
    table: AngleTable
    n_outputs: int


def output_columns(circuit: HeadCircuit, tasks: Sequence[str]) -> IntArray:
    """Return the first column of each task's outputs, and the number of columns at the end."""
    sizes = [circuit.registers[task].readout.n_outputs for task in tasks]
    return np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))])


def build_plan(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    chain: Sequence[str] = (),
    *,
    joint: bool = False,
    builder: TableBuilder | None = None,
) -> Plan:
    """Group the cones of `tasks`, except those in `chain`, by structure; or join them into one.

    Args:
        circuit: the head circuit.
        tasks: names of the tasks.
        chain: the tasks that run as matrix products.
        joint: whether all tasks share one state.
        builder: table builder that already holds other angles of the plan.
    """
    builder = builder or TableBuilder()
    columns = output_columns(circuit, tasks)
    chained = set(chain)
    rest = [i for i, task in enumerate(tasks) if task not in chained]
    if joint:
        groups = [_joint_group(circuit, tasks, rest, columns, builder)]
    else:
        groups = _groups(circuit, tasks, rest, columns, builder)
    table = builder.finish()
    return Plan(tuple(tasks), tuple(groups), tuple(chain), table, int(columns[-1]))


class _Members(NamedTuple):
    """Some members of a group: their cone, and its positions in the circuit."""

    cone: Cone
    tasks: IntArray
    shifts: IntArray


def _groups(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    chosen: Sequence[int],
    columns: IntArray,
    builder: TableBuilder,
) -> list[Group]:
    places = np.array(chosen, np.int64)
    alike: dict[Structure, list[_Members]] = {}
    for moved in moved_tasks(circuit, [tasks[i] for i in chosen]):
        for cone in moved.cones:
            members = _Members(cone, places[moved.tasks], moved.shifts)
            alike.setdefault(_structure(circuit, cone), []).append(members)
    return [
        _group(circuit, tasks, structure, parts, columns, builder)
        for structure, parts in alike.items()
    ]


def _structure(circuit: HeadCircuit, cone: Cone) -> Structure:
    features = wire_table(circuit).angles.features
    sampled = [bool((features[gate] >= 0).any()) for gate in cone.encoding_gates]
    of_block = [bool(angle.features) for angle in cone.block_angles]
    slots = (split_slots(sampled), split_slots(of_block))
    return Structure(len(cone.wires), cone.n_inner, cone.encoding, cone.block, *slots, cone.readout)


def _group(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    structure: Structure,
    parts: Sequence[_Members],
    columns: IntArray,
    builder: TableBuilder,
) -> Group:
    table, n = wire_table(circuit), circuit.n_wires
    starts = np.array(
        [circuit.weight_slices[tasks[i]].start for part in parts for i in part.tasks.tolist()]
    )
    order = np.argsort(np.concatenate([part.tasks for part in parts]), kind="stable")
    own = np.concatenate([np.full(len(part.tasks), i) for i, part in enumerate(parts)])[order]
    index = np.concatenate([part.tasks for part in parts])[order]
    gates = np.concatenate([table.moved(p.cone.encoding_gates, p.shifts) for p in parts])[order]
    wires = np.concatenate(
        [(np.array(p.cone.wires) + p.shifts[:, None]) % n for p in parts]
    )[order]  # fmt: skip
    if len(wires) > 1 and (wires == wires[0]).all() and (gates == gates[0]).all():
        wires, gates = wires[:1], gates[:1]
    blocks = Columns.stacked([angle_columns(part.cone.block_angles) for part in parts])
    outputs = np.array([part.cone.outputs for part in parts])[own]
    encoding = builder.add(table.angles.at(gates))
    return Group(
        structure=replace(structure, alias=_alias(encoding)),
        tasks=tuple(tasks[i] for i in index.tolist()),
        columns=columns[index][:, None] + outputs,
        wires=wires,
        encoding=encoding,
        block=builder.add(blocks.at(own).moved(starts[order][:, None])),
        sizes=parts[0].cone.sizes,
    )


def _alias(angles: AngleRows) -> tuple[int, ...]:
    """Return, for each slot, the first slot that has the same angles in all places."""
    features, weights, constants = angles.columns
    others = np.stack([weights, constants.view(np.int64)], axis=2)
    keys = np.concatenate([features, others], axis=2)
    seen: dict[bytes, int] = {}
    return tuple(seen.setdefault(keys[:, i].tobytes(), i) for i in range(keys.shape[1]))


def _joint_group(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    chosen: Sequence[int],
    columns: IntArray,
    builder: TableBuilder,
) -> Group:
    names = [tasks[i] for i in chosen]
    table, cone = wire_table(circuit), joint_cone(circuit, names)
    gates = np.array([cone.encoding_gates], np.int64)
    place = {name: i for i, name in enumerate(names)}
    owners = [place.get(angle.owner, 0) for angle in cone.block_angles]
    sizes = [int(columns[i + 1] - columns[i]) for i in chosen]
    return Group(
        structure=_structure(circuit, cone),
        tasks=tuple(names),
        columns=np.concatenate([np.arange(columns[i], columns[i + 1]) for i in chosen])[None],
        wires=np.array([cone.wires]),
        encoding=builder.add(table.angles.at(gates)),
        block=builder.add(angle_columns(cone.block_angles, circuit.weight_slices).at(None)),
        sizes=cone.sizes,
        joint=(np.repeat(np.arange(len(names)), sizes), np.array(owners, np.int64)),
    )
