"""Cones: each task's light cone on local wires, as layers, angles and a readout matrix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qmtl.circuit.gates import Angle
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.light_cone import LightCone, backward_cone
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators.cause_of_size import cause_of_size
from qmtl.simulators.layers import Layer, sort_into_layers

__all__ = ["Cone", "cones_of"]

# The readout is kept as a matrix over the basis states of the inner wires, and is first written
# over those of the register.
MAX_INNER_WIRES = 16
MAX_READOUT_WIRES = 20
# More amplitudes than any memory has; a plan for such cones would take minutes to build.
MAX_CONE_WIRES = 64


@dataclass(frozen=True)
class Cone:
    """A task's cone: its structure on local wires, and the indices that set it apart."""

    task: str
    wires: tuple[int, ...]
    inner: tuple[int, ...]
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_angles: tuple[Angle, ...]
    block_angles: tuple[Angle, ...]
    readout: tuple[tuple[float, ...], ...]
    n_weights: int

    @property
    def structure(self) -> tuple[object, ...]:
        """What two cones must have in common to run in one batch."""
        kinds = tuple(
            (len(a.features), a.weight is None) for a in self.encoding_angles + self.block_angles
        )
        sizes = (len(self.wires), len(self.inner), self.n_weights)
        return (sizes, self.encoding, self.block, kinds, self.readout)


def cones_of(circuit: HeadCircuit, tasks: Sequence[str]) -> list[Cone]:
    """The cones of `tasks`; in the shared layout they all have one encoded state."""
    cones, inner = {}, {}
    for task in tasks:
        cones[task], inner[task] = _checked_cone(circuit, task)
    if circuit.layout == "shared":
        # One encoded state for all tasks: the cone of everything that any of them looks at.
        union = sorted(set().union(*inner.values()))
        joint = backward_cone(circuit.encoding_gates, [], union, diagonal=False)
        cones = {
            task: LightCone(joint.wires, joint.encoding, cone.block, joint.growth)
            for task, cone in cones.items()
        }
        inner = dict.fromkeys(tasks, union)
    return [_cone(circuit, task, cones[task], inner[task]) for task in tasks]


def _checked_cone(circuit: HeadCircuit, task: str) -> tuple[LightCone, list[int]]:
    cone = circuit.light_cone(task)
    inner = _inner_wires(circuit, task, cone)
    if len(cone.wires) > MAX_CONE_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its light cone has {len(cone.wires)} of {circuit.n_wires} wires, "
            f"more than the {MAX_CONE_WIRES} that any memory could hold. "
            f"{cause_of_size(circuit, task, len(cone.wires), len(inner))}"
        )
    return cone, inner


def _inner_wires(circuit: HeadCircuit, task: str, cone: LightCone) -> list[int]:
    """Wires that the block's remaining gates touch or the readout reads, in register order."""
    register = circuit.register(task)
    read = {register.wires[i] for i in register.readout.read_wires(len(register.wires))}
    touched = read.union(*(gate.wires for gate in cone.block))
    inner = [wire for wire in register.wires if wire in touched]
    if len(inner) > MAX_INNER_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its block acts on {len(inner)} wires, at most {MAX_INNER_WIRES} can "
            f"be simulated: use fewer wires for this task"
        )
    return inner


def _cone(circuit: HeadCircuit, task: str, cone: LightCone, inner: Sequence[int]) -> Cone:
    order = _local_order(circuit, cone.wires, inner)
    local = {wire: i for i, wire in enumerate(order)}
    encoding, encoding_angles = sort_into_layers(cone.encoding, local)
    block, block_angles = sort_into_layers(cone.block, local)
    return Cone(
        task,
        tuple(order),
        tuple(inner),
        tuple(encoding),
        tuple(block),
        tuple(encoding_angles),
        tuple(block_angles),
        tuple(map(tuple, _inner_readout(circuit, task, inner))),
        circuit.n_weights(task),
    )


def _local_order(circuit: HeadCircuit, cone: Iterable[int], inner: Sequence[int]) -> list[int]:
    """Inner wires first, then the others by their place around the ring, seen from the register."""
    n = circuit.n_wires
    others = set(cone) - set(inner)

    def offset(wire: int) -> int:
        steps = (wire - inner[0]) % n
        return steps - n if steps > n // 2 else steps

    return [*inner, *sorted(others, key=offset)]


def _inner_readout(circuit: HeadCircuit, task: str, inner: Sequence[int]) -> list[list[float]]:
    """The readout's matrix over the basis states of the inner wires.

    A wire of the register that is not inner is not read: its bit does not change the outputs.
    """
    register = circuit.register(task)
    readout, k = register.readout, len(register.wires)
    # A matrix over a wide register is huge: leave its last wires out if the readout does.
    read = readout.read_wires(k)
    least = max(readout.min_wires, max(read) + 1)
    if least < k and tuple(readout.read_wires(least)) == tuple(read):
        k = least
    if k > MAX_READOUT_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its readout {readout} spans {k} wires of the register, at most "
            f"{MAX_READOUT_WIRES} can be simulated: use fewer wires for this task"
        )
    matrix = readout.matrix(k)
    columns = []
    for state in range(2 ** len(inner)):
        bits = {wire: state >> (len(inner) - 1 - i) & 1 for i, wire in enumerate(inner)}
        column = sum(bits.get(wire, 0) << (k - 1 - i) for i, wire in enumerate(register.wires[:k]))
        columns.append(column)
    return [[row[column] for column in columns] for row in matrix]
