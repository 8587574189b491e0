"""Costs of a run: wires, gates, estimated success and time, and what to do about them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qmtl.hardware._backends import Backend
from qmtl.hardware._cut import active_qubits, cone_circuit
from qmtl.hardware._estimate import Estimate
from qmtl.hardware._layout import estimated_success
from qmtl.hardware._prepared import Chunk
from qmtl.hardware._qiskit import QiskitHeadCircuit
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._transpiled import Transpiled

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["SECONDS_PER_JOB", "make_estimate"]

# IBM: about 2 s for each job, and then (delay between executions + circuit) for each execution.
SECONDS_PER_JOB = 2.0
REPETITION_DELAY = 250e-6
# The estimator's level 2 measures at three strengths of noise.
EXTRAPOLATION = 3
FREE = frozenset({"rz", "barrier", "delay"})


def make_estimate(
    circuits: Sequence["QuantumCircuit"],
    native: Sequence[Transpiled],
    heads: Sequence[QiskitHeadCircuit],
    chunks: Sequence[Chunk],
    backend: Backend,
    settings: HardwareSettings,
) -> Estimate:
    """What a run needs; `circuits` are the measured ones, transpiled."""
    success: float | None = None
    task_success: dict[str, float] = {}
    if backend.target is not None:
        success = min(estimated_success(circuit, backend.target) for circuit in circuits)
        for head, circuit in zip(heads, circuits, strict=True):
            registers = {register.name: register for register in circuit.cregs}
            for task, name in head.registers.items():
                cone = cone_circuit(circuit, registers[name])
                task_success[task] = estimated_success(cone, backend.target)
    executions = sum(chunk.executions for chunk in chunks)
    worst = max(range(len(native)), key=lambda i: native[i].swaps)
    return Estimate(
        wires=len({qubit for circuit in circuits for qubit in active_qubits(circuit)}),
        depth=max(_depth(circuit) for circuit in circuits),
        two_qubit_depth=max(_depth(circuit, wires=2) for circuit in circuits),
        two_qubit_gates=max(_two_qubit_gates(circuit) for circuit in circuits),
        swaps=native[worst].swaps,
        success=success,
        task_success=task_success,
        circuits=len({pub.circuit for chunk in chunks for pub in chunk.pubs}),
        executions=executions,
        jobs=len(chunks),
        qpu_seconds=_seconds(circuits, executions, len(chunks), backend, settings),
        payload_bytes=0,
        layout=native[worst].layout,
        budget_seconds=settings.max_qpu_seconds,
        notes=_notes(heads[worst], native[worst], backend, settings),
    )


def _depth(circuit: "QuantumCircuit", wires: int = 1) -> int:
    return int(
        circuit.depth(
            lambda i: (
                i.operation.name not in FREE
                and i.operation.name != "measure"
                and len(i.qubits) >= wires
            )
        )
    )


def _two_qubit_gates(circuit: "QuantumCircuit") -> int:
    return sum(len(i.qubits) == 2 and i.operation.name != "barrier" for i in circuit.data)


def _seconds(
    circuits: Sequence["QuantumCircuit"],
    executions: int,
    n_jobs: int,
    backend: Backend,
    settings: HardwareSettings,
) -> float:
    """Time on the device; for a fake backend what its device would need; none without one."""
    if backend.target is None:
        return 0.0
    from qiskit.exceptions import QiskitError

    try:
        length = max(float(circuit.estimate_duration(backend.target, "s")) for circuit in circuits)
    except QiskitError:
        length = 0.0  # a calibration without durations
    delay = getattr(backend.device, "default_rep_delay", None) or REPETITION_DELAY
    extra = EXTRAPOLATION if settings.primitive == "estimator" and settings.resilience > 1 else 1
    return SECONDS_PER_JOB * n_jobs + extra * executions * (delay + length)


def _notes(
    head: QiskitHeadCircuit, native: Transpiled, backend: Backend, settings: HardwareSettings
) -> tuple[str, ...]:
    notes = []
    if native.swaps:
        before, after = _two_qubit_gates(head.circuit), _two_qubit_gates(native.circuit)
        notes.append(
            f"The coupling map of {backend.name} does not hold the circuit's entangler: "
            f"{native.swaps} swaps were added, {after} two-qubit gates instead of {before}. With "
            f"entangler='cz_line' in encoding and ansatz the circuit follows the couplings "
            f"without swaps."
        )
    if backend.is_local and (settings.twirl_gates or settings.twirl_readout or settings.decoupling):
        notes.append(f"Twirling and decoupling have no effect on {backend.name}.")
    return tuple(notes)
