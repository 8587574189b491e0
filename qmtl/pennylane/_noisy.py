"""``qml.device("qmtl.noisy")``: the noise of hardware on the light cones of any QNode."""

from collections.abc import Callable, Iterable
from typing import Any

from qmtl.errors import InvalidInputError
from qmtl.noise import DeviceNoise
from qmtl.pennylane._device import LightConeDevice
from qmtl.pennylane._tape import Read, TapeCircuit, TapeGates
from qmtl.simulators import NoisySimulator

__all__ = ["NoisyDevice"]


class NoisyDevice(LightConeDevice):
    """A PennyLane device with the noise of hardware, exact, on the measurements' light cones.

    Channels follow each elementary gate (``Hadamard``, ``RX``, ``RY``, ``RZ``, ``CZ``, ``CNOT``,
    ``IsingZZ``; others are made of these), read-out errors come with the measurement, and
    observables other than Z take gates that are noisy, too. Noise numbers wires as the device does,
    from 0. Measurements that share wires are circuits of their own, as on hardware.

    Args:
        wires: their number or labels; None for whatever a circuit uses.
        noise: what a `qmtl.noise.DeviceNoise` says of gates, waiting wires, and read-out.
        shots: the default number; rather use ``qml.set_shots``.
        seed: of the samples; see `LightConeDevice`.
        max_memory: bytes that an execution may take, by estimate; None for three quarters of the
            machine's memory.

    Raises:
        InvalidInputError: for noise of another type, a seed or a memory that is none.
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
        # Gates before one measurement disturb others on the same wires.
        return TapeCircuit(n_wires, gates.gates, reads, apart=True)

    def _support(
        self, gates: TapeGates, places: dict[Any, int]
    ) -> Callable[[Iterable[Any]], frozenset[Any]]:
        # Noise of gates outside of the ideal cones counts, too: all is taken as one.
        return lambda wires: frozenset(["all"])
