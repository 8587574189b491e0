"""Expected outputs of a run, before it is sent: without noise, and under the calibration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from qmtl.circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.hardware._cut import scheduled
from qmtl.hardware._prediction import predict_transpiled
from qmtl.hardware._prepared import Values
from qmtl.hardware._qiskit import QiskitHeadCircuit
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target

__all__ = ["exact_values", "predicted_values"]


def exact_values(
    circuit: HeadCircuit, angles: Tensor, weights: Mapping[str, Tensor], tasks: Sequence[str]
) -> tuple[dict[str, Values], list[str]]:
    """Outputs without noise, (samples, n_outputs) for each task; and why there are none."""
    wide = {name: value.detach().cpu().double() for name, value in weights.items()}
    try:
        values = LightConeSimulator().expectation_values(
            circuit, angles.detach().cpu().double(), wide, tasks
        )
    except CircuitTooLargeError as error:
        return {}, [f"Exact values are not known: {error}."]
    return {name: value.numpy() for name, value in values.items()}, []


def predicted_values(
    circuit: HeadCircuit,
    heads: Sequence[QiskitHeadCircuit],
    native: Sequence["QuantumCircuit"],
    angles: Tensor,
    noise: DeviceNoise,
    target: "Target",
) -> tuple[dict[str, Values], list[str]]:
    """Outputs under a device's noise, (samples, n_outputs) for each task; and why there are none.

    Args:
        circuit: the head circuit.
        heads: it in Qiskit; one circuit, or in the shared layout one for each task.
        native: these, transpiled.
        angles: encoding angles in radians.
        noise: of the device.
        target: its durations.
    """
    wide = angles.detach().cpu().double()
    found: dict[str, Values] = {}
    try:
        for head, transpiled in zip(heads, native, strict=True):
            timed = scheduled(transpiled, target)
            values = predict_transpiled(circuit, head, timed, wide, noise, dt=target.dt)
            found |= {name: value.numpy() for name, value in values.items()}
    except CircuitTooLargeError as error:
        return {}, [f"The noisy prediction is not known: {error}."]
    return found, []
