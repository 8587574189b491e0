"""Cones: what outputs depend on, on local wires, as layers, angles and a readout matrix.

Outputs that are Z-strings may run apart, each on a cone of its own, or together on the task's cone,
whichever has fewer amplitudes: fourteen labels on fourteen wires are fourteen small cones instead
of one of eighteen wires.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.light_cone import LightCone, backward_cone
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators.cause_of_size import cause_of_size
from qmtl.simulators.layers import Layer, sort_into_layers

__all__ = ["Cone", "cones_of", "joint_cone", "spanned_wires"]

# The readout is kept as a matrix over the basis states of the wires that are read together.
MAX_READ_WIRES = 20
# More amplitudes than any memory has; a plan for such cones would take minutes to build.
MAX_CONE_WIRES = 64


@dataclass(frozen=True)
class Cone:
    """A cone: its structure on local wires, and the indices that set it apart.

    Local wires are those that are read, then the others of the block, then the rest. It is one
    task's, or several tasks' whose blocks are on one state; `outputs` and `n_weights` are for each
    of them, and their weights follow one another.
    """

    tasks: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]
    wires: tuple[int, ...]
    n_inner: int
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_angles: tuple[Angle, ...]
    block_angles: tuple[Angle, ...]
    readout: tuple[tuple[float, ...], ...]
    n_weights: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def structure(self) -> tuple[object, ...]:
        """What two cones must have in common to run in one batch."""
        kinds = tuple(
            (len(a.features), a.weight is None) for a in self.encoding_angles + self.block_angles
        )
        sizes = (len(self.wires), self.n_inner, self.n_weights)
        return (sizes, self.encoding, self.block, kinds, self.readout)


@dataclass(frozen=True)
class _Part:
    """Outputs of a task that are read together, with their light cone."""

    task: str
    outputs: tuple[int, ...]
    read: tuple[int, ...]
    cone: LightCone

    @property
    def inner(self) -> set[int]:
        """Wires that the block's remaining gates touch or the readout reads."""
        return set(self.read).union(*(gate.wires for gate in self.cone.block))


def cones_of(circuit: HeadCircuit, tasks: Sequence[str]) -> list[Cone]:
    """The cones of `tasks`; in the shared layout they all have one encoded state."""
    parts = [part for task in tasks for part in _parts(circuit, task)]
    if circuit.layout == "partitioned":
        return [_cone(circuit, part, part.cone, list(part.read), part.inner) for part in parts]
    # One encoded state for all tasks: the cone of everything that any of them looks at.
    inner = set().union(*(part.inner for part in parts))
    read = sorted(set().union(*(part.read for part in parts)))
    joint = backward_cone(circuit.encoding_gates, [], inner, diagonal=False)
    return [
        _cone(
            circuit,
            part,
            LightCone(joint.wires, joint.encoding, part.cone.block, joint.growth),
            read,
            inner,
        )
        for part in parts
    ]


def _parts(circuit: HeadCircuit, task: str) -> list[_Part]:
    """The task's outputs together, or apart if that makes fewer amplitudes."""
    together = _together(circuit, task)
    strings = _z_strings(circuit, task)
    parts = [together]
    if strings is not None and len(strings) > 1 and circuit.layout == "partitioned":
        apart = [_part(circuit, task, (j,), wires) for j, wires in enumerate(strings)]
        if sum(1 << len(p.cone.wires) for p in apart) < 1 << len(together.cone.wires):
            parts = apart
    for part in parts:
        _check_size(circuit, part)
    return parts


def _together(circuit: HeadCircuit, task: str) -> _Part:
    """All outputs of a task."""
    register = circuit.register(task)
    readout = register.readout
    return _part(circuit, task, range(readout.n_outputs), readout.read_wires(len(register.wires)))


def _part(
    circuit: HeadCircuit, task: str, outputs: Sequence[int], positions: Sequence[int]
) -> _Part:
    read = tuple(circuit.register(task).wires[i] for i in positions)
    return _Part(task, tuple(outputs), read, circuit.light_cone(task, positions))


def _check_size(circuit: HeadCircuit, part: _Part) -> None:
    if len(part.cone.wires) > MAX_CONE_WIRES:
        raise CircuitTooLargeError(
            f"task {part.task!r}: its light cone has {len(part.cone.wires)} of {circuit.n_wires} "
            f"wires, more than the {MAX_CONE_WIRES} that any memory could hold. "
            f"{cause_of_size(circuit, part.task, len(part.cone.wires), len(part.inner))}"
        )
    if len(part.read) > MAX_READ_WIRES:
        raise CircuitTooLargeError(
            f"task {part.task!r}: {len(part.read)} of its wires are read together, at most "
            f"{MAX_READ_WIRES} can be simulated: use fewer wires for this task"
        )


def _cone(
    circuit: HeadCircuit, part: _Part, cone: LightCone, read: list[int], inner: set[int]
) -> Cone:
    order = _local_order(circuit, cone, read, inner)
    local = {wire: i for i, wire in enumerate(order)}
    encoding, encoding_angles = sort_into_layers(cone.encoding, local)
    block, block_angles = sort_into_layers(cone.block, local)
    return Cone(
        (part.task,),
        (part.outputs,),
        tuple(order),
        len(inner),
        tuple(encoding),
        tuple(block),
        tuple(encoding_angles),
        tuple(block_angles),
        tuple(map(tuple, _readout(circuit, part, read).tolist())),
        (circuit.n_weights(part.task),),
        tuple(size for _, size in cone.growth),
    )


def joint_cone(circuit: HeadCircuit, tasks: Sequence[str]) -> Cone:
    """All tasks' cones as one: for tasks that look at nearly the same wires.

    Blocks are on wires of their own, so that one after another they are one block.
    """
    parts = [_together(circuit, task) for task in tasks]
    sizes = tuple(circuit.n_weights(task) for task in tasks)
    blocks = [
        _renumbered(gate, sum(sizes[:i]))
        for i, task in enumerate(tasks)
        for gate in circuit.block_gates(task)
    ]
    read = [wire for part in parts for wire in part.read]
    cone = backward_cone(circuit.encoding_gates, blocks, read)
    inner = set().union(*(part.inner for part in parts))
    whole = [_cone(circuit, replace(part, cone=cone), cone, read, inner) for part in parts]
    return replace(
        whole[0],
        tasks=tuple(tasks),
        outputs=tuple(part.outputs for part in parts),
        readout=tuple(row for one in whole for row in one.readout),
        n_weights=sizes,
    )


def _renumbered(gate: Gate, first_weight: int) -> Gate:
    """The gate, its weight counted from another one."""
    angle = gate.angle
    if angle is None or angle.weight is None:
        return gate
    return replace(gate, angle=replace(angle, weight=angle.weight + first_weight))


def _local_order(
    circuit: HeadCircuit, cone: LightCone, read: list[int], inner: set[int]
) -> list[int]:
    """Wires that are read, others of the block, then the rest by their place around the ring.

    Places are counted from the first wire read, so that equal cones look equal along a ring.
    """
    n = circuit.n_wires

    def offset(wire: int) -> int:
        steps = (wire - read[0]) % n
        return steps - n if steps > n // 2 else steps

    block = sorted(inner - set(read), key=offset)
    return [*read, *block, *sorted(set(cone.wires) - inner, key=offset)]


def _readout(circuit: HeadCircuit, part: _Part, read: list[int]) -> NDArray[np.float64]:
    """The part's outputs over the basis states of the wires `read`, first wire most significant."""
    register = circuit.register(part.task)
    states = np.arange(1 << len(read))
    bits = {wire: states >> (len(read) - 1 - i) & 1 for i, wire in enumerate(read)}
    strings = _z_strings(circuit, part.task)
    if strings is None:
        n = spanned_wires(circuit, part.task)
        matrix = np.array(register.readout.matrix(n), dtype=np.float64)
        zero = np.zeros_like(states)
        columns = sum(bits.get(w, zero) << (n - 1 - i) for i, w in enumerate(register.wires[:n]))
        return matrix[list(part.outputs)][:, columns]
    rows = [sum(bits[register.wires[i]] for i in strings[j]) % 2 for j in part.outputs]
    return 1.0 - 2.0 * np.array(rows)


def _z_strings(circuit: HeadCircuit, task: str) -> list[tuple[int, ...]] | None:
    """Positions of the Zs of each output; None if the readout is not made of Z-strings."""
    register = circuit.register(task)
    strings = getattr(register.readout, "z_strings", None)
    return None if strings is None else strings(len(register.wires))


def spanned_wires(circuit: HeadCircuit, task: str) -> int:
    """How many of a register's first wires a readout's matrix has to be written over.

    A matrix over a wide register is huge: its last wires are left out if the readout does.
    """
    register = circuit.register(task)
    readout, n = register.readout, len(register.wires)
    read = tuple(readout.read_wires(n))
    least = max(readout.min_wires, max(read) + 1)
    if least < n and tuple(readout.read_wires(least)) == read:
        n = least
    if n > MAX_READ_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its readout {readout} spans {n} wires of the register, at most "
            f"{MAX_READ_WIRES} can be simulated: use fewer wires for this task"
        )
    return n
