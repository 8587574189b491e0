"""What is measured: a trained head's circuit, its numbers and a batch of inputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.hardware._backends import Backend
from qmtl.hardware._qiskit import QiskitHeadCircuit, to_qiskit
from qmtl.hardware._settings import HardwareSettings
from qmtl.heads import QuantumHead

# Settings that do not change what is measured.
NOT_MEASURED = ("predict", "cache", "max_qpu_seconds", "max_shots")


@dataclass(frozen=True, eq=False)
class HeadRun:
    """A head circuit to be measured, with its weights, angles and scales.

    Attributes:
        circuit: the head circuit.
        weights: ``"encoding"`` and the tasks' names to flat vectors in gate order.
        angles: encoding angles in radians, (samples, n_features).
        tasks: the tasks to measure.
        scales: each task's factor between outputs and logits.
    """

    circuit: HeadCircuit
    weights: Mapping[str, Tensor]
    angles: Tensor
    tasks: tuple[str, ...]
    scales: Mapping[str, float]


def head_run(model: nn.Module, inputs: Any, tasks: str | Sequence[str] | None = None) -> HeadRun:
    """What `prepare` measures of a model: its head's circuit, weights, angles and scales."""
    head, features = _features(model, inputs)
    if isinstance(tasks, str):
        tasks = (tasks,)
    chosen = tuple(head.circuit.registers) if tasks is None else tuple(tasks)
    with torch.no_grad():
        return HeadRun(
            head.circuit,
            {name: weights.detach() for name, weights in head.weights().items()},
            head.angles(features),
            chosen,
            head_scales(head),
        )


def head_scales(head: QuantumHead) -> dict[str, float]:
    """Each task's factor between outputs and logits."""
    scales = head.scales()
    return dict(zip(head.circuit.registers, scales.detach().tolist(), strict=True))


def _features(model: nn.Module, inputs: Any) -> tuple[QuantumHead, Tensor]:
    head = getattr(model, "head", model)
    if not isinstance(head, QuantumHead):
        raise InvalidInputError(
            f"only quantum heads run on hardware, got a {type(head).__name__}; pass a QuantumHead, "
            f"or a model that has one"
        )
    if model is head:
        features = _samples(inputs).to(head.encoding)
    else:
        # Module by module: a frozen encoder may be in evaluation mode while the head trains.
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                features = model.encoder(model._as_samples(inputs))  # type: ignore[operator]
        finally:
            for module, training in modes:
                module.training = training
    if features.ndim != 2 or features.shape[1] != head.n_features:
        raise InvalidInputError(
            f"features must have shape (samples, {head.n_features}), got {tuple(features.shape)}"
        )
    return head, features


def _samples(inputs: Any) -> Tensor:
    try:
        samples = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInputError(
            f"inputs must be numbers of shape (samples, features), got {type(inputs).__name__} "
            f"that is not numeric or has rows of different lengths"
        ) from None
    if samples.is_complex():
        raise InvalidInputError("inputs must be real, got complex numbers")
    return samples


def check_run(run: HeadRun, backend: Backend, settings: HardwareSettings) -> None:
    """Check the numbers and tasks of a run, and that its backend can do what the settings ask."""
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
        raise InvalidInputError(f"{backend.name} is simulated here and has no {settings.mode}")


def head_circuits(run: HeadRun) -> list[QiskitHeadCircuit]:
    """One circuit for all tasks; in the shared layout one for each."""
    if run.circuit.layout == "partitioned":
        return [to_qiskit(run.circuit, run.weights, run.tasks)]
    return [to_qiskit(run.circuit, run.weights, task) for task in run.tasks]


def read_wires(run: HeadRun, head: QiskitHeadCircuit) -> list[int]:
    """Wires whose read-out enters an output."""
    registers = [run.circuit.register(task) for task in head.registers]
    return [
        register.wires[i]
        for register in registers
        for i in register.readout.read_wires(len(register.wires))
    ]


def request_hash(head: HeadRun, backend: str, settings: HardwareSettings) -> str:
    """SHA-256 of a request: circuit, weights, angles, tasks, backend and settings.

    Unlike a prepared run's hash, it does not depend on the backend's calibration of the day: the
    same call tomorrow finds the run of today.

    Raises:
        InvalidInputError: for a task that the circuit does not have.
    """
    circuit = head.circuit
    for task in head.tasks:
        if task not in circuit.registers:
            raise unknown_name("task", task, circuit.registers)
    described = [
        backend,
        list(head.tasks),
        [head.scales[task] for task in head.tasks],
        {key: value for key, value in settings.to_dict().items() if key not in NOT_MEASURED},
        repr(circuit.encoding_gates),
        [repr((circuit.block_gates(task), circuit.register(task))) for task in head.tasks],
    ]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    arrays = [head.angles, head.weights["encoding"], *(head.weights[t] for t in head.tasks)]
    for tensor in arrays:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().double().numpy()).tobytes())
    return digest.hexdigest()
