"""Noise of a device by its name."""

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.noise._device import DeviceNoise
from qmtl.noise._tiles import tiled

__all__ = ["noise_of_backend"]


def noise_of_backend(name: str, n_wires: int, *, relaxation: bool = True) -> DeviceNoise:
    """The noise of a fake IBM backend, wire i on qubit i; repeated where wires are more.

    Args:
        name: such as ``"fake_fez"``; its calibration comes with qiskit-ibm-runtime.
        n_wires: of the circuit.
        relaxation: whether wires relax; without, gates depolarise by their reported error.

    Raises:
        InvalidInputError: for an unknown name, or if qiskit-ibm-runtime is not installed.
    """
    try:
        from qiskit_ibm_runtime import fake_provider
    except ImportError:
        raise InvalidInputError(
            f"the noise of backend {name!r} needs qiskit-ibm-runtime: pip install "
            f"qiskit-ibm-runtime, or give noise as a file or as numbers"
        ) from None
    known = {
        entry.backend_name: entry
        for key, entry in vars(fake_provider).items()
        if key.startswith("Fake") and isinstance(getattr(entry, "backend_name", None), str)
    }
    if name not in known:
        raise unknown_name("backend", name, sorted(known))
    backend = known[name]()
    n_qubits = backend.target.num_qubits
    if n_wires <= n_qubits:
        return DeviceNoise.from_backend(backend, range(n_wires), relaxation=relaxation)
    return tiled(DeviceNoise.from_backend(backend, relaxation=relaxation), n_qubits, n_wires)
