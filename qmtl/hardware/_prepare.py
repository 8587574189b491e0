"""prepare: a trained head and a batch of inputs become a run that is ready to be sent.

Nothing is sent, and the network is asked for one thing only: the calibration of a real device.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from qmtl.errors import HardwareBudgetError, InvalidInputError
from qmtl.hardware._backends import Backend, open_backend
from qmtl.hardware._chunks import make_chunks, payload_bytes
from qmtl.hardware._costs import make_estimate
from qmtl.hardware._expected import exact_values, predicted_values
from qmtl.hardware._head_run import HeadRun, check_run, head_circuits, head_run, read_wires
from qmtl.hardware._local import execution
from qmtl.hardware._parts import make_parts
from qmtl.hardware._prepared import Mode, PreparedRun, Values
from qmtl.hardware._qiskit import QiskitHeadCircuit
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._transpiled import cache_folder, transpiled

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["HeadRun", "head_run", "prepare", "prepare_head"]


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


def prepare_head(run: HeadRun, backend: Backend, settings: HardwareSettings) -> PreparedRun:
    """`prepare` for a head circuit with its weights and angles."""
    check_run(run, backend, settings)
    heads = head_circuits(run)
    cache = cache_folder() if settings.cache else None
    native = [
        transpiled(
            head.circuit, backend, read_wires(run, head), layout=settings.layout, cache=cache
        )
        for head in heads
    ]
    measured = [found.circuit for found in native]
    parts = make_parts(run, heads, native, backend, settings)
    options = settings.runtime_options(is_local=backend.is_local)
    content = [settings.primitive, options, parts.decoding.to_dict()["strings"]]
    calibration = parts.decoding.calibration_circuits
    chunks = make_chunks(backend.name, parts.circuits, parts.values, calibration, settings, content)
    estimate = make_estimate(measured, native, heads, chunks, backend, settings)
    _check_budget(estimate.executions, estimate.qpu_seconds, settings)
    how = execution(backend, measured)
    predicted, exact, notes = _expected(run, heads, measured, backend, settings)
    return PreparedRun(
        backend=backend.name,
        primitive=settings.primitive,
        mode=_mode(settings, len(chunks)),
        circuits=parts.circuits,
        values=parts.values,
        chunks=chunks,
        decoding=parts.decoding,
        options=options,
        estimate=replace(
            estimate,
            payload_bytes=payload_bytes(parts.circuits, parts.values, chunks),
            notes=(*estimate.notes, *_local_notes(how), *notes),
        ),
        predicted=predicted,
        exact=exact,
        execution=how,
        context={"settings": settings.to_dict()},
    )


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
