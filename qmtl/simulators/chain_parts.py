"""What a task reads of a chain: which wires of its register, through which gates of its block."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.light_cone import backward_cone
from qmtl.errors import InvalidInputError
from qmtl.simulators.cones import spanned_wires
from qmtl.simulators.pauli_basis import z_coefficients

__all__ = ["PartGates", "Step", "step_of", "task_parts"]

# Wires whose joint density matrix is made: 4^8 numbers per register and sample.
MAX_BLOCK_WIRES = 8


@dataclass(frozen=True)
class Step:
    """A gate on a site or a register.

    Attributes:
        name: a gate's name; on a site also ``"control"``, ``"X"`` or ``"Z"``, half a two-wire gate.
        wires: positions in the register that a gate of a block acts on.
        side: 0 if half a gate's bond goes to the left neighbour, 1 if to the right, else -1.
        slot: column of its angle in the slot table; None if it has none.
    """

    name: str
    wires: tuple[int, ...] = ()
    side: int = -1
    slot: int | None = None


@dataclass(frozen=True)
class PartGates:
    """Outputs of a task that are read together, before tasks are grouped.

    The attributes are those of `qmtl.simulators.chain_plan.Part`, with one task's angles.
    """

    outputs: tuple[int, ...]
    wires: tuple[int, ...]
    steps: tuple[Step, ...]
    angles: tuple[Angle, ...]
    readout: NDArray[np.float64]


def step_of(name: str, wires: tuple[int, ...], angle: Angle | None, angles: list[Angle]) -> Step:
    """The step of a gate, its angle added to `angles`."""
    if angle is None:
        return Step(name, wires)
    angles.append(angle)
    return Step(name, wires, slot=len(angles) - 1)


# Steps may ask for many different subsets of the tasks; only their grouping is made anew.
@lru_cache(maxsize=2**14)
def task_parts(circuit: HeadCircuit, task: str) -> tuple[PartGates, ...]:
    """A task's outputs together, or apart where that takes fewer Pauli strings.

    Fourteen labels on fourteen wires are fourteen density matrices of a few wires each.
    """
    register = circuit.register(task)
    size = len(register.wires)
    strings = getattr(register.readout, "z_strings", lambda _: None)(size)
    block = circuit.block_gates(task)
    first = register.wires[0]

    def part(outputs: Sequence[int], read: Iterable[int]) -> PartGates:
        cone = backward_cone((), block, [first + i for i in read])
        wires = tuple(wire - first for wire in cone.wires)
        if len(wires) > MAX_BLOCK_WIRES:
            raise InvalidInputError(
                f"task {task!r}: outputs depend on {len(wires)} wires of its register together, "
                f"the matrix-product path takes at most {MAX_BLOCK_WIRES}"
            )
        local = {wire: i for i, wire in enumerate(cone.wires)}
        angles: list[Angle] = []
        steps = _block_steps(cone.block, local, angles)
        return PartGates(
            tuple(outputs), wires, tuple(steps), tuple(angles), readout(outputs, wires)
        )

    def readout(outputs: Sequence[int], wires: Sequence[int]) -> NDArray[np.float64]:
        full = np.zeros((len(outputs), *[4] * len(wires)))
        if strings is not None:
            for row, output in enumerate(outputs):
                full[(row, *(3 * (wire in strings[output]) for wire in wires))] = 1.0
            return full
        n = spanned_wires(circuit, task)
        values = z_coefficients(np.array(register.readout.matrix(n), dtype=np.float64))
        values = values[(slice(None), *(slice(None) if i in wires else 0 for i in range(n)))]
        read = (slice(None, None, 3) if wire < n else 0 for wire in wires)
        full[(slice(None), *read)] = values
        return full

    n_outputs = register.readout.n_outputs
    apart = [] if strings is None else [part([j], strings[j]) for j in range(n_outputs)]
    try:
        together = part(range(n_outputs), register.readout.read_wires(size))
    except InvalidInputError:
        if not apart:
            raise
        return tuple(apart)
    cheaper = 0 < sum(4 ** len(p.wires) for p in apart) < 4 ** len(together.wires)
    return tuple(apart) if cheaper else (together,)


def _block_steps(gates: Iterable[Gate], local: dict[int, int], angles: list[Angle]) -> list[Step]:
    """A block's gates on local wires; IsingZZ is an RZ between two CNOTs."""
    steps = []
    for gate in gates:
        wires = tuple(local[wire] for wire in gate.wires)
        if gate.name == "IsingZZ":
            flip = Step("CNOT", wires)
            steps += [flip, step_of("RZ", wires[1:], gate.angle, angles), flip]
        else:
            steps.append(step_of(gate.name, wires, gate.angle, angles))
    return steps
