"""Execution of prepared runs on this machine: on fake backends, and without noise on Aer.

A fake backend executes the same transpiled circuit that its device would, cut to the qubits in
use, scheduled, and under the device's calibration: outcome probabilities are computed exactly and
shots drawn from them. Where the circuit as a whole is too large, every task's shots are drawn from
a circuit of their own, which holds what the task's result can depend on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.hardware._backends import Backend, open_backend
from qmtl.hardware._contraction import Plan, best_plan, outcome_probabilities
from qmtl.hardware._cut import active_qubits, cone_circuit, cut_circuit, scheduled
from qmtl.hardware._decoding import TaskReading
from qmtl.hardware._prepared import Execution, PreparedRun
from qmtl.hardware._raw import PubData
from qmtl.hardware._transfer import operations

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["execute", "execution"]

Bits = NDArray[np.uint8]
# Sizes up to which a circuit is executed as a whole: bits of the state, bits measured, wires.
WHOLE_BITS = 23
WHOLE_MEASURED = 16
WHOLE_WIRES_IDEAL = 22
# Sizes of one task beyond which there is no execution here.
MOST_BITS = 27
MOST_WIRES_IDEAL = 26


def execution(backend: Backend, circuits: Sequence["QuantumCircuit"]) -> Execution:
    """How transpiled, measured circuits are executed on a backend."""
    if not backend.is_local:
        return "device"
    fits = all(_fits_whole(circuit, backend) for circuit in circuits)
    return "whole circuit on the cut" if fits else "task by task"


def _fits_whole(circuit: "QuantumCircuit", backend: Backend) -> bool:
    if backend.kind == "ideal":
        return len(active_qubits(circuit)) <= WHOLE_WIRES_IDEAL
    if len(circuit.clbits) > WHOLE_MEASURED:
        return False
    return _plan(circuit, np.zeros((1, circuit.num_parameters)), backend)[1].peak <= WHOLE_BITS


def execute(
    prepared: PreparedRun, chunk: int, *, backend: Backend | None = None
) -> tuple[PubData, ...]:
    """The raw results of one chunk, executed here.

    Args:
        prepared: a run for a fake backend or ``"aer"``.
        chunk: index of the chunk.
        backend: the run's, where its name alone does not tell.

    Raises:
        CircuitTooLargeError: if what one task's result depends on is too large.
        InvalidInputError: for a run that needs a device, or mitigation that only a device has.
    """
    backend = open_backend(prepared.backend) if backend is None else backend
    if not backend.is_local:
        raise InvalidInputError(f"{prepared.backend} is not a backend of this machine")
    random = np.random.default_rng(_seed(prepared, chunk))
    found = []
    for pub in prepared.chunks[chunk].pubs:
        circuit = prepared.circuits[pub.circuit]
        values = prepared.values[pub.circuit][pub.samples[0] : pub.samples[1]]
        readings = [task for task in prepared.decoding.tasks if task.circuit == pub.circuit]
        twirled = False
        if prepared.primitive == "estimator":
            circuit = _measured(circuit, readings)
            twirled = _level(prepared) > 0
        registers = _sample(
            circuit, values, pub.shots, backend, prepared.execution, random, twirled=twirled
        )
        if prepared.primitive == "sampler":
            sizes = {register.name: register.size for register in circuit.cregs}
            found.append(PubData({n: _packed(bits) for n, bits in registers.items()}, sizes))
        else:
            found.append(_expectations(prepared, pub.circuit, registers, readings, backend))
    return tuple(found)


def _seed(prepared: PreparedRun, chunk: int) -> list[int] | None:
    seed = prepared.options.get("simulator", {}).get("seed_simulator")
    return None if seed is None else [int(seed), chunk]


def _sample(
    circuit: "QuantumCircuit",
    values: NDArray[np.float64],
    shots: int,
    backend: Backend,
    how: Execution,
    random: np.random.Generator,
    *,
    twirled: bool,
) -> dict[str, Bits]:
    """Bits of each classical register, (samples, shots, size)."""
    target = backend.target
    if target is not None:
        circuit = scheduled(circuit, target)
    if how == "whole circuit on the cut":
        bits = _outcomes(circuit, values, shots, backend, random, twirled=twirled)
        place = {bit: i for i, bit in enumerate(circuit.clbits)}
        return {r.name: bits[..., [place[bit] for bit in r]] for r in circuit.cregs}
    columns = {parameter: i for i, parameter in enumerate(circuit.parameters)}
    found = {}
    for register in circuit.cregs:
        own = cone_circuit(circuit, register)
        mine = values[:, [columns[parameter] for parameter in own.parameters]]
        found[register.name] = _outcomes(own, mine, shots, backend, random, twirled=twirled)
    return found


def _outcomes(
    circuit: "QuantumCircuit",
    values: NDArray[np.float64],
    shots: int,
    backend: Backend,
    random: np.random.Generator,
    *,
    twirled: bool,
) -> Bits:
    """Bits of all classical bits in their order, (samples, shots, bits)."""
    if backend.kind == "ideal":
        return _ideal_outcomes(circuit, values, shots, random)
    made, plan, measured = _plan(circuit, values, backend)
    if plan.peak > MOST_BITS:
        raise CircuitTooLargeError(
            f"to execute the circuit of {circuit.name!r} under noise here takes a state of "
            f"2^{plan.peak} numbers: use fewer layers, smaller registers or a line ('cz_line'), or "
            f"'aer' without noise"
        )
    noise = backend.noise
    readouts = {
        wire: noise.readouts.get(qubit, noise.readout)
        for wire, qubit in enumerate(active_qubits(circuit))
    }
    if twirled:
        # A bit is flipped as often from 0 as from 1.
        readouts = {w: ((up + down) / 2,) * 2 for w, (up, down) in readouts.items()}
    likely = outcome_probabilities(made, measured, readouts, len(values), plan)
    likely = np.clip(likely, 0, None)
    likely /= likely.sum(axis=1, keepdims=True)
    counts = random.multinomial(shots, likely)
    outcomes = np.stack([np.repeat(np.arange(likely.shape[1]), row) for row in counts])
    outcomes = random.permuted(outcomes, axis=1)
    shifts = np.arange(len(measured))[::-1]
    return (outcomes[..., None] >> shifts & 1).astype(np.uint8)


def _plan(
    circuit: "QuantumCircuit", values: NDArray[np.float64], backend: Backend
) -> tuple[list[Any], Plan, list[int]]:
    """Operations on the cut, their order, and the wire of each classical bit."""
    qubits = active_qubits(circuit)
    cut = cut_circuit(circuit, qubits)
    dt = None if backend.target is None else backend.target.dt
    made = operations(cut, values, backend.noise, dt, qubits)
    wires = _wires_of_bits(cut)
    return made, best_plan(made, wires), wires


def _wires_of_bits(circuit: "QuantumCircuit") -> list[int]:
    wires = {
        circuit.find_bit(instruction.clbits[0]).index: circuit.find_bit(instruction.qubits[0]).index
        for instruction in circuit.data
        if instruction.operation.name == "measure"
    }
    return [wires[i] for i in range(len(circuit.clbits))]


def _ideal_outcomes(
    circuit: "QuantumCircuit",
    values: NDArray[np.float64],
    shots: int,
    random: np.random.Generator,
) -> Bits:
    from qiskit_aer import AerSimulator

    qubits = active_qubits(circuit)
    if len(qubits) > MOST_WIRES_IDEAL:
        raise CircuitTooLargeError(
            f"to execute the circuit of {circuit.name!r} here takes {len(qubits)} wires at once, "
            f"the limit is {MOST_WIRES_IDEAL}: use fewer layers or a line ('cz_line')"
        )
    cut = cut_circuit(circuit, qubits)
    simulator = AerSimulator(method="statevector")
    bound = [cut.assign_parameters(row) for row in values]
    seed = int(random.integers(2**31))
    result = simulator.run(bound, shots=shots, memory=True, seed_simulator=seed).result()
    if not result.success:
        raise InvalidInputError(f"Aer could not run the circuit: {result.status}")
    n = len(cut.clbits)
    texts = [[text.replace(" ", "") for text in result.get_memory(i)] for i in range(len(bound))]
    array = np.array(texts, dtype=f"S{n}").view(np.uint8).reshape(len(bound), shots, n)
    return array[..., ::-1] - ord("0")  # Qiskit prints bit 0 last


def _packed(bits: Bits) -> NDArray[np.uint8]:
    """Bits as Qiskit's `BitArray` packs them: big-endian, bit 0 the lowest."""
    n_bytes = -(-bits.shape[-1] // 8)
    padded = np.zeros((*bits.shape[:-1], 8 * n_bytes), np.uint8)
    padded[..., 8 * n_bytes - bits.shape[-1] :] = bits[..., ::-1]
    return np.packbits(padded, axis=-1)


def _measured(circuit: "QuantumCircuit", readings: Sequence[TaskReading]) -> "QuantumCircuit":
    from qiskit import ClassicalRegister

    found = circuit.copy()
    for task in readings:
        register = ClassicalRegister(len(task.qubits), task.register)
        found.add_register(register)
        found.measure(task.qubits, register)
    return found


def _level(prepared: PreparedRun) -> int:
    return int(prepared.options.get("resilience_level", 1))


def _expectations(
    prepared: PreparedRun,
    circuit: int,
    registers: dict[str, Bits],
    readings: Sequence[TaskReading],
    backend: Backend,
) -> PubData:
    """Values of the Z strings; the estimator's level 1 undoes read-out errors by twirling them."""
    level = _level(prepared)
    if level > 1:
        raise InvalidInputError(
            "extrapolation to zero noise (resilience 2) needs a device; here use resilience 0 or 1"
        )
    noise = backend.noise
    columns = {}
    for task in readings:
        for i, qubit in enumerate(task.qubits):
            columns[qubit] = 1.0 - 2.0 * registers[task.register][..., i]
    means, errors = [], []
    for string in prepared.decoding.strings[circuit]:
        shots = np.prod([columns[qubit] for qubit in string], axis=0)
        n = shots.shape[1]
        spread = shots.std(axis=1, ddof=1) if n > 1 else np.full(len(shots), np.nan)
        error = np.maximum(spread / np.sqrt(n), 2 / n)  # as on the sampler's path
        shrunk = np.prod([1 - sum(noise.readouts.get(q, noise.readout)) for q in string])
        scale = 1 / float(shrunk) if level and backend.kind == "fake" else 1.0
        means.append(scale * shots.mean(axis=1))
        errors.append(scale * error)
    return PubData({"evs": np.stack(means, axis=1), "stds": np.stack(errors, axis=1)})
