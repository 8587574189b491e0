"""``qml.device("qmtl.noisy")``: hardware noise on the light cones of any QNode."""

from collections.abc import Callable, Iterable
from typing import Any

from qmtl.errors import InvalidInputError
from qmtl.noise import DeviceNoise
from qmtl.pennylane._device import LightConeDevice
from qmtl.pennylane._tape import Read, TapeCircuit, TapeGates
from qmtl.simulators import NoisySimulator


class NoisyDevice(LightConeDevice):
    """A PennyLane device with exact hardware noise, on the measurements' light cones.

    Channels follow each elementary gate (``Hadamard``, ``RX``, ``RY``, ``RZ``, ``CZ``, ``CNOT``,
    ``IsingZZ``; other gates decompose into these), and read-out errors come with the measurement.
    Observables other than Z need further gates, which are noisy, too. Noise numbers wires as the
    device does, from 0. Measurements that share wires are separate circuits, as on hardware.

    Args:
        wires: number or labels of the wires; None for all wires that a circuit uses.
        noise: a `qmtl.noise.DeviceNoise`: noise of gates, waiting wires, and read-out.
        shots: default number of shots; prefer ``qml.set_shots``.
        seed: seed of the samples; see `LightConeDevice`.
        max_memory: largest estimate of an execution's memory in bytes; None for three quarters of
            the machine's memory.

    Raises:
        InvalidInputError: for noise of another type, or an invalid seed or memory.
        DeviceError: see `LightConeDevice`.

    Example:
        >>> import pennylane as qml
        >>> from qmtl.noise import DeviceNoise
        >>> noise = DeviceNoise.uniform(one_qubit=0.001, two_qubit=0.01, readout=0.02)
        >>> device = qml.device("qmtl.noisy", wires=100, noise=noise)
        >>> @qml.qnode(device)
        ... def circuit(x):
        ...     for i in range(100):
        ...         qml.RY(x, i)
        ...     for i in range(100):
        ...         qml.CZ((i, (i + 1) % 100))
        ...     return qml.expval(qml.Z(7))
        >>> round(float(circuit(0.3)), 4)
        0.8965
    """

    name = "qmtl.noisy"

    def __init__(
        self,
        wires: Any = None,
        noise: DeviceNoise | None = None,
        shots: int | None = None,
        seed: Any = "global",
        max_memory: int | None = None,
    ) -> None:
        super().__init__(wires, shots, seed, max_memory)
        if not isinstance(noise, DeviceNoise):
            raise InvalidInputError(
                f"noise must be a qmtl.noise.DeviceNoise, such as DeviceNoise.uniform(0.001, 0.01),"
                f" got {noise!r}"
            )
        self._simulator = NoisySimulator(noise, max_memory)

    def _circuit(self, gates: TapeGates, n_wires: int, reads: tuple[Read, ...]) -> TapeCircuit:
        # Gates before one measurement disturb other measurements on the same wires.
        return TapeCircuit(n_wires, gates.gates, reads, apart=True)

    def _support(
        self, gates: TapeGates, places: dict[Any, int]
    ) -> Callable[[Iterable[Any]], frozenset[Any]]:
        # Noise of gates outside the ideal cones counts, too: all wires count as one cone.
        return lambda wires: frozenset(["all"])
