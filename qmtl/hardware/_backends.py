"""Backends by name: IBM's devices, their fake versions, and an ideal simulator."""

from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from qmtl.errors import InvalidInputError, nearest
from qmtl.noise import DeviceNoise, fake_backends

if TYPE_CHECKING:
    from qiskit.transpiler import Target

# The ideal simulator has the gates of IBM's current devices.
IDEAL_GATES = ["rz", "sx", "x", "cz"]
IDEAL = "aer"


@dataclass(frozen=True)
class Backend:
    """A device or simulator that runs circuits.

    Attributes:
        name: name such as ``"ibm_fez"``, ``"fake_fez"`` or ``"aer"``.
        kind: ``"real"``; ``"fake"``, simulated with a device's calibration; or ``"ideal"``.
        device: the Qiskit backend; None for the ideal simulator.
    """

    name: str
    kind: Literal["real", "fake", "ideal"]
    device: Any

    @property
    def is_local(self) -> bool:
        """Whether circuits run on this machine."""
        return self.kind != "real"

    @property
    def target(self) -> "Target | None":
        """Gates, couplings, errors and durations; None for the ideal simulator."""
        return None if self.device is None else self.device.target

    @property
    def n_qubits(self) -> int | None:
        """Number of qubits; None for no limit."""
        return None if self.device is None else int(self.device.target.num_qubits)

    @property
    def max_shots(self) -> int | None:
        """Largest number of shots per sample; None for no known limit."""
        configuration = getattr(self.device, "configuration", None)
        most = getattr(configuration(), "max_shots", None) if callable(configuration) else None
        return most if isinstance(most, int) else None

    @cached_property
    def identity(self) -> str:
        """The name; for a Qiskit backend of your own, also a hash of its calibration.

        The hash distinguishes backends of the same name.
        """
        if self.kind != "fake" or self.calibration == _fake_calibration(self.name):
            return self.name
        return f"{self.name} {self.calibration}"

    @cached_property
    def calibration(self) -> str:
        """SHA-256 of the gates' names and noise."""
        content = repr((self.noise, sorted(self.device.target.operation_names)))
        return sha256(content.encode()).hexdigest()

    @cached_property
    def noise(self) -> DeviceNoise:
        """The noise according to the calibration; none for the ideal simulator."""
        return DeviceNoise() if self.device is None else DeviceNoise.from_backend(self.device)


def open_backend(name: Any, *, service: Any = None) -> Backend:
    """Open a backend by its name.

    Args:
        name: ``"aer"`` (ideal), a fake backend of qiskit-ibm-runtime (``"fake_fez"``), one of IBM's
            devices (``"ibm_fez"``, which asks the service), or a Qiskit backend. A Qiskit backend
            that has a service is real; others are simulated here by their calibration.
        service: an open `QiskitRuntimeService`; None for the account's.

    Raises:
        InvalidInputError: for an unknown name.
        HardwareError: if the service cannot be asked.

    Example:
        >>> open_backend("fake_fez").n_qubits, open_backend("aer").is_local
        (156, True)
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str):
        if isinstance(name, type) or not getattr(getattr(name, "target", None), "num_qubits", None):
            raise InvalidInputError(
                f"backend must be a name or a Qiskit backend with some qubits, got {name!r}"
            )
        kind: Literal["real", "fake"] = "real" if getattr(name, "service", None) else "fake"
        return Backend(str(name.name), kind, name)
    if name == IDEAL:
        return Backend(IDEAL, "ideal", None)
    fakes = fake_backends()
    if name in fakes:
        return Backend(name, "fake", fakes[name]())
    if not name.startswith("ibm_"):
        # All names would fill a screen.
        names = [IDEAL, *fakes]
        close = [f"fake_{name}", f"ibm_{name}"] if f"fake_{name}" in fakes else nearest(name, names)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        raise InvalidInputError(
            f"unknown backend {name!r}{hint} Expected {IDEAL!r}, a device 'ibm_...', or one of "
            f"{len(fakes)} fake devices, which qmtl ibm backends --local lists"
        )
    from qmtl.hardware._client import Client

    return Backend(name, "real", Client.of(service).backend(name))


def backend_names() -> list[str]:
    """Return the names of the backends that need no account."""
    return [IDEAL, *fake_backends()]


@cache
def _fake_calibration(name: str) -> str | None:
    """Return the hash of a fake backend's calibration; None if no fake backend has this name."""
    fakes = fake_backends()
    return Backend(name, "fake", fakes[name]()).calibration if name in fakes else None
