"""The plan of the matrix-product path: a circuit as a chain of sites with bonds between them.

Where the encoding's two-wire gates join neighbours on a line or a ring only, every gate adds one
bond of dimension 2 to the edge it acts on, and the encoded state is a matrix product state with one
site per wire. A plan groups the registers whose sites and blocks have the same structure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.simulators.chain_parts import PartGates, Step, step_of, task_parts
from qmtl.simulators.slots import SlotTable, slot_table

__all__ = [
    "ChainPlan",
    "Part",
    "RegisterGroup",
    "Site",
    "Step",
    "bonds_of",
    "chain_plan",
    "task_parts",
]

IntArray = NDArray[np.int64]

# Bonds of an edge: four make environments of 256 x 256 numbers per register and sample.
MAX_BONDS = 4
# A CNOT or CZ is a projector on its first wire and a Pauli on its second, joined by a bond.
HALVES = {"CNOT": ("control", "X"), "CZ": ("control", "Z")}


@dataclass(frozen=True)
class Site:
    """One position of the registers of a group: its gates, and their angles, a row per register."""

    steps: tuple[Step, ...]
    slots: SlotTable


@dataclass(frozen=True)
class Part:
    """Outputs of the tasks of a group that are read together.

    Attributes:
        outputs: which of a task's outputs.
        wires: positions in the register that they depend on after the encoding.
        steps: gates of the block that matter; their wires count within `wires`.
        slots: angles of the block, one row per task.
        readout: coefficients of the observables over Pauli strings, shape (n_outputs, 4, …, 4).
    """

    outputs: tuple[int, ...]
    wires: tuple[int, ...]
    steps: tuple[Step, ...]
    slots: SlotTable
    readout: NDArray[np.float64]


@dataclass(frozen=True)
class RegisterGroup:
    """Registers of equal structure, which run as one batch.

    Attributes:
        tasks: their names.
        places: the registers' places along the chain.
        sites: one per wire of the register.
        parts: what is read; empty for tasks that are not asked for.
    """

    tasks: tuple[str, ...]
    places: IntArray
    sites: tuple[Site, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ChainPlan:
    """A circuit as a chain.

    Attributes:
        tasks: the tasks that are asked for.
        n_outputs: how many outputs each of them has.
        bonds: bonds of the edge that has most; all are padded to it.
        closing: bonds of the edge from the last wire to the first, 0 on a line.
        groups: all registers of the circuit.
    """

    tasks: tuple[str, ...]
    n_outputs: tuple[int, ...]
    bonds: int
    closing: int
    groups: tuple[RegisterGroup, ...]

    @property
    def width(self) -> int:
        """Size of an environment along one edge, in real numbers: the bond dimension squared."""
        return 1 << 2 * self.bonds


@lru_cache(maxsize=64)
def bonds_of(circuit: HeadCircuit) -> tuple[int, ...] | None:
    """Bonds of the edges (0, 1), (1, 2), … (n-1, 0); None where the circuit is no chain.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> tasks = [Task.binary(f"t{i}") for i in range(2)]
        >>> bonds_of(HeadCircuit(tasks, AngleEncoding(n_layers=3, entangler="cnot_line")))
        (3, 3, 3, 0)
    """
    if circuit.layout != "partitioned" and len(circuit.tasks) > 1:
        return None
    wires = [wire for register in circuit.registers.values() for wire in register.wires]
    if wires != list(range(circuit.n_wires)):
        return None
    counts = [0] * circuit.n_wires
    for gate in circuit.encoding_gates:
        if len(gate.wires) == 2:
            edge = _edge(gate, circuit.n_wires)
            if edge is None or gate.name not in HALVES:
                return None
            counts[edge] += 1
    return tuple(counts) if max(counts) <= MAX_BONDS else None


def _edge(gate: Gate, n_wires: int) -> int | None:
    """The edge's first wire; None for wires that are no neighbours. Two wires have one edge."""
    low, high = sorted(gate.wires)
    if high == low + 1:
        return low
    return high if (low, high) == (0, n_wires - 1) else None


@lru_cache(maxsize=64)
def chain_plan(circuit: HeadCircuit, tasks: tuple[str, ...]) -> ChainPlan:
    """The plan that gives the outputs of `tasks`.

    Raises:
        InvalidInputError: if the encoding is no chain, or a task's block is too wide.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> tasks = [Task.binary(f"t{i}") for i in range(100)]
        >>> circuit = HeadCircuit(tasks, AngleEncoding(entangler="cnot_ring"))
        >>> [len(group.tasks) for group in chain_plan(circuit, ("t0", "t50", "t99")).groups]
        [1, 97, 2]
    """
    bonds = bonds_of(circuit)
    if bonds is None:
        raise InvalidInputError(
            f"the matrix-product path needs the partitioned layout and an encoding of one-wire "
            f"gates and at most {MAX_BONDS} CNOT or CZ per pair of neighbours, got {circuit!r}"
        )
    sites = _site_gates(circuit)
    asked = set(tasks)
    members: dict[tuple[object, ...], list[_Register]] = {}
    for place, name in enumerate(circuit.registers):
        parts = task_parts(circuit, name) if name in asked else ()
        wires = circuit.register(name).wires
        register = _Register(name, place, [sites[wire] for wire in wires], parts)
        members.setdefault(register.structure(circuit), []).append(register)
    return ChainPlan(
        tasks=tasks,
        n_outputs=tuple(circuit.register(name).readout.n_outputs for name in tasks),
        bonds=max(bonds),
        closing=bonds[-1],
        groups=tuple(_group(registers) for registers in members.values()),
    )


@dataclass(frozen=True)
class _Register:
    """One register, before it is grouped: a list of steps and angles per site, and its parts."""

    task: str
    place: int
    sites: list[tuple[tuple[Step, ...], tuple[Angle, ...]]]
    parts: tuple[PartGates, ...]

    def structure(self, circuit: HeadCircuit) -> tuple[object, ...]:
        """What two registers must have in common to run in one batch."""
        sites = tuple((steps, _kinds(angles)) for steps, angles in self.sites)
        parts = tuple(
            (p.outputs, p.wires, p.steps, _kinds(p.angles), p.readout.tobytes()) for p in self.parts
        )
        return (sites, parts, circuit.n_weights(self.task) if parts else 0)


def _kinds(angles: Iterable[Angle]) -> tuple[tuple[int, bool], ...]:
    return tuple((len(angle.features), angle.weight is None) for angle in angles)


def _group(registers: Sequence[_Register]) -> RegisterGroup:
    first = registers[0]
    sites = [
        Site(steps, slot_table([register.sites[i][1] for register in registers]))
        for i, (steps, _) in enumerate(first.sites)
    ]
    parts = [
        Part(
            part.outputs,
            part.wires,
            part.steps,
            slot_table([register.parts[i].angles for register in registers]),
            part.readout,
        )
        for i, part in enumerate(first.parts)
    ]
    places = np.array([register.place for register in registers], dtype=np.int64)
    names = tuple(register.task for register in registers)
    return RegisterGroup(names, places, tuple(sites), tuple(parts))


@lru_cache(maxsize=16)
def _site_gates(circuit: HeadCircuit) -> list[tuple[tuple[Step, ...], tuple[Angle, ...]]]:
    """Each wire's gates in the order of application, and their angles."""
    steps: list[list[Step]] = [[] for _ in range(circuit.n_wires)]
    angles: list[list[Angle]] = [[] for _ in range(circuit.n_wires)]
    for gate in circuit.encoding_gates:
        if len(gate.wires) == 1:
            wire = gate.wires[0]
            steps[wire].append(step_of(gate.name, (), gate.angle, angles[wire]))
            continue
        edge = _edge(gate, circuit.n_wires)
        for wire, half in zip(gate.wires, HALVES[gate.name], strict=True):
            steps[wire].append(Step(half, side=1 if wire == edge else 0))
    return [(tuple(s), tuple(a)) for s, a in zip(steps, angles, strict=True)]
