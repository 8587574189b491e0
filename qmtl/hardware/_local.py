"""Execution of prepared runs on this machine: for fake backends, and without noise on Aer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from qmtl.circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError, InvalidInputError, check_integer, check_type
from qmtl.hardware._backends import Backend, open_backend
from qmtl.hardware._decode import PubData
from qmtl.hardware._predict import read_native
from qmtl.hardware._prepared_run import Execution, PreparedRun, TaskReading, Values
from qmtl.hardware._qiskit import active_qubits, cone_circuit
from qmtl.hardware._transpile import scheduled
from qmtl.noise import DeviceNoise, NativeCircuit
from qmtl.simulators import native_size, native_values
from qmtl.tasks import Task

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

Bits = NDArray[np.uint8]
# A circuit is executed as a whole up to these sizes: numbers in the longest vector and measured
# bits with noise, wires without noise.
WHOLE_NUMBERS = 2**24
WHOLE_MEASURED = 16
WHOLE_WIRES_IDEAL = 22
# Larger circuits of a single task are not executed.
MOST_NUMBERS = 2**27
MOST_WIRES_IDEAL = 26
# Most probabilities to compute at a time.
BLOCK = 2**24


def execution(backend: Backend, circuits: Sequence["QuantumCircuit"]) -> Execution:
    """Return how a backend executes transpiled circuits: on a device, as a whole, or by task."""
    if not backend.is_local:
        return "device"
    fits = all(_fits_whole(circuit, backend) for circuit in circuits)
    return "whole circuit" if fits else "task by task"


def _fits_whole(circuit: "QuantumCircuit", backend: Backend) -> bool:
    if backend.kind == "ideal":
        return len(active_qubits(circuit)) <= WHOLE_WIRES_IDEAL
    if len(circuit.clbits) > WHOLE_MEASURED:
        return False
    registers = {"all": circuit.clbits}
    head, native = _native(circuit, registers, backend)
    return native_size(head, native, backend.noise) <= WHOLE_NUMBERS


def execute(prepared: PreparedRun, chunk: int, *, backend: Any = None) -> tuple[PubData, ...]:
    """Execute one chunk of a run on this machine, and return its raw results.

    For a fake backend, this function computes the probabilities of all outcomes exactly and draws
    shots from them. It uses the transpiled circuit, schedule and calibration of the device. If the
    whole circuit is too large, it draws the shots of each task from the light cone of the task.

    Args:
        prepared: a run for a fake backend, for a Qiskit backend of your own, or for ``"aer"``.
        chunk: index of the chunk.
        backend: the run's Qiskit backend; only needed for a backend of your own if the run comes
            from the ledger.

    Raises:
        CircuitTooLargeError: if the light cone of a task is too large.
        InvalidInputError: for a run or a mitigation that needs a real device.
    """
    from qiskit.primitives import BitArray

    check_type("prepared", prepared, PreparedRun)
    if check_integer("chunk", chunk, 0) >= len(prepared.chunks):
        raise InvalidInputError(f"the run has {len(prepared.chunks)} chunks, got chunk {chunk}")
    backend = _backend_of(prepared, backend)
    random = np.random.default_rng(_seed(prepared, chunk))
    found = []
    for pub in prepared.chunks[chunk].pubs:
        circuit = prepared.circuits[pub.circuit]
        values = prepared.values[pub.circuit][slice(*pub.samples)]
        readings = [task for task in prepared.decoding.tasks if task.circuit == pub.circuit]
        noise = backend.noise
        if prepared.primitive == "estimator":
            circuit = _measured(circuit, readings)
            if _level(prepared):
                noise = twirled(noise)
        whole = prepared.execution != "task by task"
        if backend.kind == "ideal":
            registers = _ideal_bits(circuit, values, pub.shots, whole, random)
        else:
            registers = _noisy_bits(circuit, values, pub.shots, backend, noise, whole, random)
        if prepared.primitive == "sampler":
            sizes = {register.name: register.size for register in circuit.cregs}
            packed = {
                name: BitArray.from_bool_array(bits.astype(bool), order="little").array
                for name, bits in registers.items()
            }
            found.append(PubData(packed, sizes))
        else:
            found.append(_expectations(prepared, pub.circuit, registers, readings, backend))
    return tuple(found)


def _backend_of(prepared: PreparedRun, given: Any) -> Backend:
    name = prepared.backend
    if given is None:
        given = name if prepared.device is None else prepared.device
        if given == name and name.partition("_")[0] not in ("aer", "fake", "ibm"):
            raise InvalidInputError(
                f"backend {name!r} cannot be opened by its name: pass backend=, the object that "
                f"the run was prepared for"
            )
    backend = open_backend(given)
    if not backend.is_local:
        raise InvalidInputError(f"backend must be simulated on this machine, got {name}")
    if backend.name != name:
        raise InvalidInputError(f"the run was prepared for {name}, got backend {backend.name}")
    if prepared.identity and backend.identity != prepared.identity:
        raise InvalidInputError(
            f"the run was prepared for a backend {name} of another calibration: pass backend=, the "
            f"object that the run was prepared for"
        )
    return backend


def _seed(prepared: PreparedRun, chunk: int) -> list[int] | None:
    seed = prepared.options.get("simulator", {}).get("seed_simulator")
    return None if seed is None else [int(seed), chunk]


def _noisy_bits(
    circuit: "QuantumCircuit",
    values: Values,
    shots: int,
    backend: Backend,
    noise: DeviceNoise,
    whole: bool,
    random: np.random.Generator,
) -> dict[str, Bits]:
    """Sample each classical register's bits under noise, (samples, shots, size)."""
    asked = {"all": circuit.clbits} if whole else {r.name: list(r) for r in circuit.cregs}
    found = {}
    for name, likely in _distributions(circuit, values, asked, backend, noise).items():
        counts = random.multinomial(shots, likely)
        outcomes = np.stack([np.repeat(np.arange(likely.shape[1]), row) for row in counts])
        shifts = np.arange(len(asked[name]))[::-1]
        drawn = random.permuted(outcomes, axis=1)
        found[name] = (drawn[..., None] >> shifts & 1).astype(np.uint8)
    return _cut(circuit, found["all"]) if whole else found


def _cut(circuit: "QuantumCircuit", bits: Bits) -> dict[str, Bits]:
    """Divide the circuit's bits into those of its classical registers."""
    place = {bit: i for i, bit in enumerate(circuit.clbits)}
    return {r.name: bits[..., [place[bit] for bit in r]] for r in circuit.cregs}


def _distributions(
    circuit: "QuantumCircuit",
    values: Values,
    registers: Mapping[str, Sequence[Any]],
    backend: Backend,
    noise: DeviceNoise,
) -> dict[str, Values]:
    """Return the probabilities of each register's outcomes, (samples, 2^bits).

    The first bit of a register is the most significant bit of an outcome.
    """
    head, native = _native(circuit, registers, backend)
    size = native_size(head, native, noise)
    if size > MOST_NUMBERS:
        raise CircuitTooLargeError(
            f"to execute the circuit of {circuit.name!r} under noise here takes a vector of "
            f"{size:.1e} numbers: use fewer layers, smaller registers or a line ('cz_line'), or "
            f"'aer' without noise"
        )
    block = max(1, BLOCK // sum(2 ** len(bits) for bits in registers.values()))
    parts = []
    for first in range(0, len(values), block):
        angles = torch.from_numpy(values[first : first + block]).float()
        with torch.no_grad():
            parts.append(native_values(head, native, angles, noise))
    return {
        name: _probabilities(np.concatenate([part[name].double().numpy() for part in parts]))
        for name in registers
    }


@dataclass(frozen=True)
class _AllStrings:
    """A readout of all Z-strings: output m is on the wires i whose bit 2^i is set in m."""

    min_wires: int
    is_probability: bool = False

    @property
    def n_outputs(self) -> int:
        return 1 << self.min_wires

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        return tuple(range(n_wires))

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]]:
        return [tuple(i for i in range(n_wires) if m >> i & 1) for m in range(1 << n_wires)]

    def matrix(self, n_wires: int) -> list[list[float]]:
        from scipy.linalg import hadamard

        matrix: list[list[float]] = hadamard(1 << n_wires, float).tolist()
        return matrix


def _native(
    circuit: "QuantumCircuit", registers: Mapping[str, Sequence[Any]], backend: Backend
) -> tuple[HeadCircuit, NativeCircuit]:
    """Return the circuit with the device's schedule; `registers` are bits to read together."""
    assert backend.target is not None
    timed = scheduled(circuit, backend.target)
    features = {parameter: i for i, parameter in enumerate(circuit.parameters)}
    native = read_native(timed, features, registers, dt=backend.target.dt)
    readouts = {name: _AllStrings(len(bits)) for name, bits in registers.items()}
    tasks = [Task.regression(name, readout.n_outputs) for name, readout in readouts.items()]
    sizes = {name: len(bits) for name, bits in registers.items()}
    return HeadCircuit(tasks, wires_per_task=sizes, readouts=readouts), native


def _probabilities(strings: Values) -> Values:
    """Return outcomes' probabilities, first bit most significant, from all Z-strings' values."""
    n = strings.shape[1].bit_length() - 1
    found = strings.reshape(-1, *(2,) * n)
    for axis in range(1, n + 1):
        one, z = np.take(found, 0, axis), np.take(found, 1, axis)
        found = np.stack([(one + z) / 2, (one - z) / 2], axis)
    likely = np.clip(found.transpose(0, *range(n, 0, -1)).reshape(len(strings), -1), 0, None)
    normalised: Values = likely / likely.sum(axis=1, keepdims=True)
    return normalised


def twirled(noise: DeviceNoise) -> DeviceNoise:
    """Return the noise under twirled measurements: both read-out errors get their mean."""

    def mean(pair: tuple[float, float]) -> tuple[float, float]:
        return (sum(pair) / 2, sum(pair) / 2)

    readouts = {wire: mean(pair) for wire, pair in noise.readouts.items()}
    return replace(noise, readout=mean(noise.readout), readouts=readouts)


def _ideal_bits(
    circuit: "QuantumCircuit", values: Values, shots: int, whole: bool, random: np.random.Generator
) -> dict[str, Bits]:
    """Sample each classical register's bits without noise, (samples, shots, size)."""
    if whole:
        return _cut(circuit, _aer_bits(circuit, values, shots, random))
    columns = {parameter: i for i, parameter in enumerate(circuit.parameters)}
    found = {}
    for register in circuit.cregs:
        own = cone_circuit(circuit, register)
        mine = values[:, [columns[parameter] for parameter in own.parameters]]
        found[register.name] = _aer_bits(own, mine, shots, random)
    return found


def _aer_bits(
    circuit: "QuantumCircuit", values: Values, shots: int, random: np.random.Generator
) -> Bits:
    """Sample all classical bits with Aer, in their order, (samples, shots, bits)."""
    from qiskit import QuantumCircuit, QuantumRegister
    from qiskit_aer import AerSimulator

    qubits = active_qubits(circuit)
    if len(qubits) > MOST_WIRES_IDEAL:
        raise CircuitTooLargeError(
            f"to execute the circuit of {circuit.name!r} here takes {len(qubits)} wires at once, "
            f"the limit is {MOST_WIRES_IDEAL}: use fewer layers or a line ('cz_line')"
        )
    # Idle qubits of the device would need too much memory.
    place = {qubit: i for i, qubit in enumerate(qubits)}
    cut = QuantumCircuit(QuantumRegister(len(place), "q"), *circuit.cregs)
    for instruction in circuit.data:
        if instruction.operation.name != "barrier":
            on = [place[circuit.find_bit(qubit).index] for qubit in instruction.qubits]
            cut.append(instruction.operation, on, instruction.clbits)
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
    registers: Mapping[str, Bits],
    readings: Sequence[TaskReading],
    backend: Backend,
) -> PubData:
    """Return the means and standard errors of the Z-strings; level 1 corrects read-out errors."""
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
        error = np.maximum(spread / np.sqrt(n), 2 / n)  # as for the sampler
        shrunk = np.prod([1 - sum(noise.readouts.get(q, noise.readout)) for q in string])
        scale = 1 / float(shrunk) if level and backend.kind == "fake" else 1.0
        means.append(scale * shots.mean(axis=1))
        errors.append(scale * error)
    return PubData({"evs": np.stack(means, axis=1), "stds": np.stack(errors, axis=1)})
