"""prepare: make a run that is ready to be sent from a trained head and a batch of inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qmtl._io import cache_folder
from qmtl.errors import CircuitTooLargeError, HardwareBudgetError
from qmtl.hardware._backends import Backend, open_backend
from qmtl.hardware._local import execution, twirled
from qmtl.hardware._payload import (
    HeadRun,
    check_run,
    head_circuits,
    head_run,
    make_chunks,
    make_payload,
    read_wires,
    request_hash,
)
from qmtl.hardware._predict import predict_transpiled
from qmtl.hardware._prepared_run import Chunk, Estimate, PreparedRun, Values
from qmtl.hardware._qiskit import QiskitHeadCircuit, active_qubits, cone_circuit
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._transpile import Transpiled, estimated_success, scheduled, transpiled
from qmtl.simulators import LightConeSimulator

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

# IBM's estimate: about 2 s per job, plus (delay between executions + circuit) per execution.
SECONDS_PER_JOB = 2.0
REPETITION_DELAY = 250e-6
FREE = frozenset({"rz", "barrier", "delay", "measure"})
NOT_CORRELATED = (
    "The circuit is too large to execute here as a whole. Each task is executed on its noisy light "
    "cone, so shots of different tasks are not correlated."
)


def prepare(
    model: nn.Module,
    inputs: Any,
    backend: Any = "fake_fez",
    *,
    tasks: str | Sequence[str] | None = None,
    settings: HardwareSettings | None = None,
    service: Any = None,
    **options: Any,
) -> PreparedRun:
    """Prepare a run of a trained model's quantum head on a backend, without sending it.

    Args:
        model: a `MultiTaskModel` with a quantum head, or a `QuantumHead`.
        inputs: the model's inputs, or the head's features; the first dimension is the batch.
        backend: a name or a Qiskit backend, see `open_backend`.
        tasks: the tasks to measure; None for all.
        settings: shots, mitigation, budgets; None for the defaults.
        service: an open `QiskitRuntimeService`; None for the account's.
        **options: fields of `HardwareSettings` to use instead of `settings`, such as
            ``shots=4096``.

    Raises:
        InvalidInputError: if the model has no quantum head, or the circuit does not fit the
            backend.
        HardwareBudgetError: if the run is estimated to cost more than its budget.

    Example:
        >>> import torch
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        >>> run = prepare(head, torch.zeros(3, 4), "aer", shots=100)
        >>> len(run.circuits), run.estimate.executions
        (1, 300)
    """
    settings = HardwareSettings.of(options, settings)
    run = head_run(model, inputs, tasks)
    return prepare_head(run, open_backend(backend, service=service), settings)


def prepare_head(run: HeadRun, backend: Backend, settings: HardwareSettings) -> PreparedRun:
    """Prepare a run of a head circuit with its weights and angles; see `prepare`."""
    check_run(run, backend, settings)
    heads = head_circuits(run)
    layout, cache = settings.layout, cache_folder("transpiled") if settings.cache else None
    native = [transpiled(h.circuit, backend, read_wires(run, h), layout, cache) for h in heads]
    measured = [found.circuit for found in native]
    circuits, values, decoding = make_payload(run, heads, measured, backend, settings)
    options = settings.runtime_options(is_local=backend.is_local)
    chunks, size = make_chunks(backend.name, circuits, values, decoding, settings, options)
    estimate = _estimate(heads, native, chunks, backend, settings)
    _check_budget(estimate, settings)
    how = execution(backend, measured)
    predicted, exact, notes = _expected(run, heads, measured, backend, settings)
    if how == "task by task":
        notes.insert(0, NOT_CORRELATED)
    return PreparedRun(
        backend=backend.name,
        primitive=settings.primitive,
        mode=settings.mode or ("batch" if len(chunks) > 1 else "job"),
        circuits=circuits,
        values=values,
        chunks=chunks,
        decoding=decoding,
        options=options,
        estimate=replace(estimate, payload_bytes=size, notes=(*estimate.notes, *notes)),
        predicted=predicted,
        exact=exact,
        execution=how,
        context={"settings": settings.to_dict()},
        request=request_hash(run, backend.identity, settings),
        identity=backend.identity,
        device=backend if backend.kind == "fake" else None,
    )


def _estimate(
    heads: Sequence[QiskitHeadCircuit],
    native: Sequence[Transpiled],
    chunks: Sequence[Chunk],
    backend: Backend,
    settings: HardwareSettings,
) -> Estimate:
    """Estimate the resources that a run needs, except for the bytes of its largest job."""
    circuits = [found.circuit for found in native]
    target = backend.target
    success, task_success = None, {}
    if target is not None:
        success = min(estimated_success(circuit, target) for circuit in circuits)
        for head, circuit in zip(heads, circuits, strict=True):
            cones = {register.name: cone_circuit(circuit, register) for register in circuit.cregs}
            for task, name in head.registers.items():
                task_success[task] = estimated_success(cones[name], target)
    executions = sum(chunk.executions for chunk in chunks)
    worst = max(range(len(native)), key=lambda i: native[i].swaps)
    return Estimate(
        wires=len({qubit for circuit in circuits for qubit in active_qubits(circuit)}),
        depth=max(_depth(circuit, 1) for circuit in circuits),
        two_qubit_depth=max(_depth(circuit, 2) for circuit in circuits),
        two_qubit_gates=max(circuit.num_nonlocal_gates() for circuit in circuits),
        swaps=native[worst].swaps,
        success=success,
        task_success=task_success,
        circuits=len({pub.circuit for chunk in chunks for pub in chunk.pubs}),
        executions=executions,
        jobs=len(chunks),
        qpu_seconds=_seconds(circuits, executions, len(chunks), backend),
        payload_bytes=0,
        layout=native[worst].layout,
        budget_seconds=settings.max_qpu_seconds,
        notes=_notes(heads[worst], native[worst], backend, settings),
    )


def _depth(circuit: "QuantumCircuit", wires: int) -> int:
    """Return the number of layers of gates on at least `wires` wires."""
    return int(circuit.depth(lambda i: i.operation.name not in FREE and len(i.qubits) >= wires))


def _seconds(
    circuits: Sequence["QuantumCircuit"], executions: int, n_jobs: int, backend: Backend
) -> float:
    """Estimate the seconds on the real or fake device; 0 for the ideal simulator."""
    if backend.target is None:
        return 0.0
    from qiskit.exceptions import QiskitError

    try:
        length = max(float(circuit.estimate_duration(backend.target, "s")) for circuit in circuits)
    except QiskitError:
        length = 0.0  # the calibration has no durations
    delay = getattr(backend.device, "default_rep_delay", None) or REPETITION_DELAY
    return SECONDS_PER_JOB * n_jobs + executions * (delay + length)


def _notes(
    head: QiskitHeadCircuit, native: Transpiled, backend: Backend, settings: HardwareSettings
) -> tuple[str, ...]:
    notes = []
    if native.swaps:
        before = head.circuit.num_nonlocal_gates()
        after = native.circuit.num_nonlocal_gates()
        notes.append(
            f"The coupling map of {backend.name} does not hold the circuit's entangler: "
            f"{native.swaps} swaps were added, {after} two-qubit gates instead of {before}. With "
            f"entangler='cz_line' in encoding and ansatz the circuit follows the couplings "
            f"without swaps."
        )
    if backend.is_local and (settings.twirl_gates or settings.twirl_readout or settings.decoupling):
        notes.append(f"Twirling and decoupling have no effect on {backend.name}.")
    return tuple(notes)


def _check_budget(estimate: Estimate, settings: HardwareSettings) -> None:
    most, seconds = settings.max_shots, settings.max_qpu_seconds
    if most is not None and estimate.executions > most:
        raise HardwareBudgetError(
            f"the run needs {estimate.executions} executions, more than max_shots ({most}); "
            f"nothing was sent: use fewer samples or shots"
        )
    if seconds is not None and estimate.qpu_seconds > seconds:
        raise HardwareBudgetError(
            f"the run needs about {estimate.qpu_seconds:.1f} s on the device, more than "
            f"max_qpu_seconds ({seconds:g}); nothing was sent: use fewer samples or shots"
        )


def _expected(
    run: HeadRun,
    heads: Sequence[QiskitHeadCircuit],
    circuits: Sequence["QuantumCircuit"],
    backend: Backend,
    settings: HardwareSettings,
) -> tuple[dict[str, Values], dict[str, Values], list[str]]:
    """Return the outputs under the calibration and without noise, and notes on unknown outputs."""
    exact: dict[str, Tensor] = {}
    predicted: dict[str, Tensor] = {}
    notes: list[str] = []
    if not settings.predict:
        return {}, {}, notes
    angles = run.angles.detach().cpu().double()
    weights = {name: value.detach().cpu().double() for name, value in run.weights.items()}
    try:
        simulator = LightConeSimulator()
        exact = simulator.expectation_values(run.circuit, angles, weights, run.tasks)
    except CircuitTooLargeError as error:
        notes.append(f"Exact values are not known: {error}.")
    if backend.target is None:
        return _arrays(exact), _arrays(exact), notes
    noise = backend.noise
    if settings.mitigation != "none" or (
        settings.primitive == "estimator" and settings.resilience > 0
    ):
        noise = replace(noise, readout=(0.0, 0.0), readouts={})
    elif settings.twirl_readout and not backend.is_local:
        noise = twirled(noise)
    dt = backend.target.dt
    try:
        for head, circuit in zip(heads, circuits, strict=True):
            timed = scheduled(circuit, backend.target)
            predicted |= predict_transpiled(run.circuit, head, timed, angles, noise, dt=dt)
    except CircuitTooLargeError as error:
        predicted = {}
        notes.append(f"The noisy prediction is not known: {error}.")
    return _arrays(predicted), _arrays(exact), notes


def _arrays(values: Mapping[str, Tensor]) -> dict[str, Values]:
    return {name: value.numpy() for name, value in values.items()}
