"""prepare: a trained head and a batch of inputs become a run that is ready to be sent.

Nothing is sent, and the network is asked for one thing only: the calibration of a real device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import HardwareBudgetError, InvalidInputError, unknown_name
from qmtl.hardware.backends import Backend, open_backend
from qmtl.hardware.chunks import make_chunks, payload_bytes
from qmtl.hardware.costs import make_estimate
from qmtl.hardware.decoding import Decoding, TaskReading
from qmtl.hardware.expected import exact_values, predicted_values
from qmtl.hardware.local import execution
from qmtl.hardware.prepared import Mode, PreparedRun, Values
from qmtl.hardware.qiskit import QiskitHeadCircuit, to_qiskit
from qmtl.hardware.reading import (
    calibration_circuits,
    measured_qubits,
    task_reading,
    z_strings,
)
from qmtl.hardware.settings import HardwareSettings
from qmtl.hardware.transpiled import Transpiled, cache_folder, transpiled
from qmtl.heads import QuantumHead
from qmtl.heads.quantum import ANGLE_MAPS

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["HeadRun", "head_run", "prepare", "prepare_head"]


@dataclass(frozen=True, eq=False)
class HeadRun:
    """A head circuit to be measured, with all its numbers.

    Attributes:
        circuit: what runs on the wires.
        weights: ``"encoding"`` and the tasks' names to flat vectors in gate order.
        angles: encoding angles in radians, (samples, n_features).
        tasks: the tasks to measure.
        scales: each task's factor between outputs and logits.
        heads: circuits in Qiskit to run instead of the head circuit's own, whose "features" are the
            columns of `angles`; None for its own.
    """

    circuit: HeadCircuit
    weights: Mapping[str, Tensor]
    angles: Tensor
    tasks: tuple[str, ...]
    scales: Mapping[str, float]
    heads: tuple[QiskitHeadCircuit, ...] | None = None


def prepare(
    model: nn.Module,
    inputs: Any,
    backend: Any = "fake_fez",
    *,
    tasks: Sequence[str] | None = None,
    settings: HardwareSettings | None = None,
    service: Any = None,
    **options: Any,
) -> PreparedRun:
    """A run of a trained model's quantum head on a backend, ready to be sent.

    Args:
        model: a `MultiTaskModel` with a quantum head, or a `QuantumHead`.
        inputs: the model's inputs, or the head's features; samples in the first dimension.
        backend: a name or a backend, see `open_backend`.
        tasks: the tasks to measure; None for all.
        settings: shots, mitigation, budgets; None for the defaults.
        service: for IBM's devices; None for the saved account.
        **options: fields of `HardwareSettings` instead.

    Raises:
        InvalidInputError: if the model has no quantum head, inputs, tasks or settings do not fit,
            or the circuit does not fit the backend.
        HardwareBudgetError: if the run is estimated to cost more than its budget.
        MissingDependencyError: if Qiskit's packages are not installed.

    Example:
        >>> import torch
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        >>> run = prepare(head, torch.zeros(3, 4), "aer", shots=100)
        >>> len(run.circuits), run.estimate.executions
        (1, 300)
    """
    if settings is not None and options:
        raise InvalidInputError(f"pass settings or {sorted(options)}, not both")
    settings = HardwareSettings.of(options) if settings is None else settings
    run = head_run(model, inputs, tasks)
    return prepare_head(run, open_backend(backend, service=service), settings)


def head_run(model: nn.Module, inputs: Any, tasks: Sequence[str] | None = None) -> HeadRun:
    """What `prepare` measures of a model: its head's circuit, weights, angles and scales."""
    head, features = _features(model, inputs)
    chosen = tuple(head.circuit.registers) if tasks is None else tuple(tasks)
    with torch.no_grad():
        return HeadRun(
            head.circuit,
            {name: weights.detach() for name, weights in head.weights().items()},
            ANGLE_MAPS[head.angle_map](features),
            chosen,
            head_scales(head),
        )


def head_scales(head: QuantumHead) -> dict[str, float]:
    """Each task's factor between outputs and logits."""
    from qmtl.heads.features import task_key

    return {name: float(head.scales[task_key(name)].detach()) for name in head.circuit.registers}


def prepare_head(run: HeadRun, backend: Backend, settings: HardwareSettings) -> PreparedRun:
    """`prepare` for a head circuit with its weights and angles."""
    _check(run, settings, backend)
    heads = _circuits(run)
    cache = cache_folder() if settings.cache else None
    native = [
        transpiled(head.circuit, backend, _read(run, head), layout=settings.layout, cache=cache)
        for head in heads
    ]
    tasks = tuple(
        task_reading(
            run.circuit.register(task),
            name,
            i,
            measured_qubits(native[i].circuit)[name],
            run.scales[task],
        )
        for i, head in enumerate(heads)
        for task, name in head.registers.items()
    )
    circuits, values, columns = _parameters(run, heads, native)
    calibration = None
    measured = list(circuits)
    if settings.mitigation == "circuits":
        calibration = (len(circuits), len(circuits) + 1)
        qubits = sorted({qubit for task in tasks for qubit in task.qubits})
        flip = "x" if backend.target is None or "x" in backend.target.operation_names else "sx"
        circuits += calibration_circuits(circuits[0].num_qubits, qubits, flip)
        values += [np.empty((1, 0))] * 2
    strings: tuple[tuple[tuple[int, ...], ...], ...] = ()
    if settings.primitive == "estimator":
        strings = tuple(z_strings(t for t in tasks if t.circuit == i) for i in range(len(circuits)))
        circuits = [_unmeasured(circuit) for circuit in circuits]
    decoding = Decoding(
        tasks=tasks,
        n_samples=len(run.angles),
        columns=columns,
        mitigation=settings.mitigation,
        confusion=_confusion(tasks, backend, settings),
        calibration_circuits=calibration,
        strings=strings,
    )
    options = settings.runtime_options(is_local=backend.is_local)
    content = [settings.primitive, options, decoding.to_dict()["strings"]]
    chunks = make_chunks(backend.name, circuits, values, calibration, settings, content)
    estimate = make_estimate(measured, native, heads, chunks, backend, settings)
    estimate = replace(estimate, payload_bytes=payload_bytes(circuits, values, chunks))
    _check_budget(estimate.executions, estimate.qpu_seconds, settings)
    how = execution(backend, measured)
    predicted, exact, notes = _expected(run, heads, measured, backend, settings)
    return PreparedRun(
        backend=backend.name,
        primitive=settings.primitive,
        mode=_mode(settings, len(chunks)),
        circuits=tuple(circuits),
        values=tuple(values),
        chunks=chunks,
        decoding=decoding,
        options=options,
        estimate=replace(estimate, notes=(*estimate.notes, *_local_notes(how), *notes)),
        predicted=predicted,
        exact=exact,
        execution=how,
        context={"settings": settings.to_dict()},
    )


def _features(model: nn.Module, inputs: Any) -> tuple[QuantumHead, Tensor]:
    head = getattr(model, "head", model)
    if not isinstance(head, QuantumHead):
        raise InvalidInputError(
            f"only quantum heads run on hardware, got a {type(head).__name__}; pass a model with "
            f"a QuantumHead, or one"
        )
    samples = torch.as_tensor(inputs)
    if model is head:
        features = samples.to(head.encoding)
    else:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            features = model.encoder(model._as_samples(samples))  # type: ignore[operator]
        model.train(was_training)
    if features.ndim != 2 or features.shape[1] != head.n_features:
        raise InvalidInputError(
            f"features must have shape (samples, {head.n_features}), got {tuple(features.shape)}"
        )
    return head, features


def _check(run: HeadRun, settings: HardwareSettings, backend: Backend) -> None:
    if not len(run.angles):
        raise InvalidInputError("inputs must have at least one sample, got none")
    if not torch.isfinite(run.angles).all():
        raise InvalidInputError("inputs must be finite, some of their angles are not")
    for name in run.tasks:
        if name not in run.circuit.registers:
            raise unknown_name("task", name, run.circuit.registers)
    if not run.tasks or len(set(run.tasks)) < len(run.tasks):
        raise InvalidInputError(f"tasks must be distinct, at least one, got {list(run.tasks)}")
    if settings.primitive == "estimator" and backend.is_local and settings.resilience > 1:
        raise InvalidInputError(
            f"resilience 2 (extrapolation to zero noise) needs a device, {backend.name} is "
            f"simulated: use resilience 0 or 1"
        )
    if settings.mode is not None and settings.mode != "job" and backend.is_local:
        raise InvalidInputError(f"{backend.name} is simulated here and knows no {settings.mode}")


def _circuits(run: HeadRun) -> list[QiskitHeadCircuit]:
    """One circuit for all tasks; in the shared layout one for each."""
    if run.heads is not None:
        return list(run.heads)
    if run.circuit.layout == "partitioned":
        return [to_qiskit(run.circuit, run.weights, run.tasks)]
    return [to_qiskit(run.circuit, run.weights, task) for task in run.tasks]


def _read(run: HeadRun, head: QiskitHeadCircuit) -> list[int]:
    """Wires whose read-out enters some output."""
    registers = [run.circuit.register(task) for task in head.registers]
    return [
        register.wires[i]
        for register in registers
        for i in register.readout.read_wires(len(register.wires))
    ]


def _parameters(
    run: HeadRun, heads: Sequence[QiskitHeadCircuit], native: Sequence[Transpiled]
) -> tuple[list["QuantumCircuit"], list[Values], tuple[tuple[int, ...], ...]]:
    """Circuits, their parameters' values, and the feature of each parameter.

    Transpilation may leave parameters out that change nothing.
    """
    angles = run.angles.detach().cpu().double().numpy()
    circuits, values, columns = [], [], []
    for head, found in zip(heads, native, strict=True):
        feature = dict(zip(head.circuit.parameters, head.features, strict=True))
        own = tuple(int(feature[p] or 0) for p in found.circuit.parameters)
        circuits.append(found.circuit)
        values.append(np.ascontiguousarray(angles[:, own]))
        columns.append(own)
    return circuits, values, tuple(columns)


def _unmeasured(circuit: "QuantumCircuit") -> "QuantumCircuit":
    return circuit.remove_final_measurements(inplace=False)


def _confusion(
    tasks: Sequence[TaskReading], backend: Backend, settings: HardwareSettings
) -> dict[int, tuple[float, float]]:
    if settings.mitigation != "calibration":
        return {}
    noise = backend.noise
    found = {}
    for qubit in sorted({qubit for task in tasks for qubit in task.qubits}):
        up, down = noise.readouts.get(qubit, noise.readout)
        if settings.twirl_readout and not backend.is_local:
            up = down = (up + down) / 2  # twirled, either error is as likely
        if up + down >= 1:
            raise InvalidInputError(
                f"qubit {qubit} of {backend.name} is read wrongly as often as rightly: mitigation "
                f"cannot help; choose another layout"
            )
        found[qubit] = (float(up), float(down))
    return found


def _check_budget(executions: int, seconds: float, settings: HardwareSettings) -> None:
    if settings.max_shots is not None and executions > settings.max_shots:
        raise HardwareBudgetError(
            f"the run needs {executions} executions, more than max_shots ({settings.max_shots}); "
            f"nothing was sent: use fewer samples or shots"
        )
    if settings.max_qpu_seconds is not None and seconds > settings.max_qpu_seconds:
        raise HardwareBudgetError(
            f"the run needs about {seconds:.1f} s on the device, more than max_qpu_seconds "
            f"({settings.max_qpu_seconds:g}); nothing was sent: use fewer samples or shots"
        )


def _mode(settings: HardwareSettings, n_chunks: int) -> Mode:
    if settings.mode is not None:
        return settings.mode
    return "batch" if n_chunks > 1 else "job"


def _local_notes(how: str) -> list[str]:
    if how != "task by task":
        return []
    return [
        "The circuit is too large to be executed here as a whole: every task is executed on its "
        "own noisy cone, so that shots of different tasks are not correlated."
    ]


def _expected(
    run: HeadRun,
    heads: Sequence[QiskitHeadCircuit],
    circuits: Sequence["QuantumCircuit"],
    backend: Backend,
    settings: HardwareSettings,
) -> tuple[dict[str, Values], dict[str, Values], list[str]]:
    if not settings.predict:
        return {}, {}, []
    exact, notes = exact_values(run.circuit, run.angles, run.weights, run.tasks)
    if backend.kind == "ideal":
        return exact, exact, notes
    noise = backend.noise
    if settings.mitigation != "none" or (
        settings.primitive == "estimator" and settings.resilience > 0
    ):
        noise = replace(noise, readout=(0.0, 0.0), readouts={})
    predicted, further = predicted_values(
        run.circuit, heads, circuits, run.angles, noise, backend.device.target
    )
    return predicted, exact, [*notes, *further]
