"""Which engine runs noisy cones of one structure: Pauli strings one by one, or vectors of them."""

from collections.abc import Sequence

import numpy as np

from qmtl.circuit.gates import Angle
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.noise import Channel
from qmtl.simulators.cause_of_size import cause_of_size
from qmtl.simulators.engine import Engine
from qmtl.simulators.memory import bytes_text
from qmtl.simulators.noisy_cones import NoisyCone
from qmtl.simulators.noisy_program import noisy_program
from qmtl.simulators.noisy_vectors import VectorEngine
from qmtl.simulators.pauli import PauliEngine
from qmtl.simulators.pauli.polynomials import Polynomials
from qmtl.simulators.pauli.walk import SHIFT
from qmtl.simulators.plan import Group
from qmtl.simulators.slots import slot_table

__all__ = ["check_fits", "noisy_engine", "vector_engine"]

SINGLE = 4


def noisy_engine(
    circuit: HeadCircuit, cones: Sequence[NoisyCone], limit: int
) -> tuple[Group, Engine]:
    """What computes the outputs of cones of one structure, many times.

    Pauli strings one by one are five to ten times as quick as vectors, as long as they are few
    enough to be written down in seconds; vectors take the other cones.

    Args:
        circuit: whose tasks they are.
        cones: of one structure.
        limit: bytes that a step may take.

    Raises:
        CircuitTooLargeError: if not even one sample in single precision fits.
    """
    block_is_fixed = not any(angle.features for angle in cones[0].block_angles)
    found = noisy_program(cones[0].structure) if block_is_fixed else None
    if found is None:
        return vector_engine(circuit, cones, limit)
    program, encoding, block = found
    group = _group(
        circuit,
        cones,
        [[cone.encoding_angles[i] for i in encoding] for cone in cones],
        [[cone.block_angles[i] for i in block] for cone in cones],
    )
    constants = _constants(program.encoding, cones), _constants(program.block, cones)
    return group, PauliEngine(group, program, constants)


def vector_engine(
    circuit: HeadCircuit, cones: Sequence[NoisyCone], limit: int
) -> tuple[Group, VectorEngine]:
    """What computes the outputs of cones of one structure by vectors; quick to make.

    Arguments and errors are those of `noisy_engine`.
    """
    encoding = [cone.encoding_angles for cone in cones]
    group = _group(circuit, cones, encoding, [cone.block_angles for cone in cones])
    engine = VectorEngine(group, cones, limit // 2)
    check_fits(circuit, group, engine, SINGLE, limit)
    return group, engine


def check_fits(
    circuit: HeadCircuit, group: Group, engine: Engine, itemsize: int, limit: int
) -> None:
    """Raise `CircuitTooLargeError` if not even one sample of a group fits into `limit` bytes."""
    needed = engine.step_bytes(1, itemsize)
    if needed <= limit:
        return
    task, wires = group.tasks[0], group.n_wires
    # Numbers of n wires under noise are as many as the amplitudes of 2n wires without.
    cause = cause_of_size(circuit, task, 2 * wires, 2 * group.n_inner)
    raise CircuitTooLargeError(
        f"task {task!r}: under noise its outputs depend on {wires} of {circuit.n_wires} wires; a "
        f"step of one sample would take about {bytes_text(needed)}, the limit is "
        f"{bytes_text(limit)}. {cause}"
    )


def _group(
    circuit: HeadCircuit,
    cones: Sequence[NoisyCone],
    encoding: Sequence[Sequence[Angle]],
    block: Sequence[Sequence[Angle]],
) -> Group:
    first = cones[0]
    structure = first.structure
    n_outputs = len(structure.strings if structure.mixing is None else structure.mixing)
    return Group(
        members=tuple((cone.task,) for cone in cones),
        outputs=tuple(tuple(range(n_outputs)) for _ in cones),
        wires=np.array([cone.wires for cone in cones], np.int64),
        n_inner=len(circuit.register(first.task).wires),
        encoding=(),
        block=(),
        encoding_slots=slot_table(encoding),
        block_slots=slot_table(block),
        own_weights=(circuit.n_weights(first.task),) * len(cones),
        readout=np.zeros((n_outputs, 1)),
        sizes=(),
    )


def _constants(polynomials: Polynomials, cones: Sequence[NoisyCone]) -> np.ndarray:
    """The value of each constant for each cone."""

    def number(channel: Channel, which: int) -> float:
        return channel.shift if which == SHIFT else channel.factors[which]

    return np.array(
        [
            [
                np.prod([number(cone.channels[slot], which) for slot, which in factors])
                for factors in polynomials.constants
            ]
            for cone in cones
        ]
    ).reshape(len(cones), len(polynomials.constants))
