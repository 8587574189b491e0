"""Transpilation: a head circuit in a device's gates, on its best qubits, kept by content."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import write_bytes
from qmtl.errors import InvalidInputError
from qmtl.hardware._backends import IDEAL_GATES, Backend
from qmtl.hardware._layout import best_layout, estimated_success, usable_target
from qmtl.hardware._prepared import fingerprint

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target

__all__ = ["Transpiled", "cache_folder", "transpiled"]

# Routings that are tried where no layout does without; large circuits get fewer.
ROUTINGS, FEW_ROUTINGS, LARGE = 12, 4, 40
LEVEL = 3
CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class Transpiled:
    """A circuit in a device's gates.

    Attributes:
        circuit: on the device's qubits.
        layout: the qubit of each wire before the first gate.
        swaps: that routing added.
    """

    circuit: "QuantumCircuit"
    layout: tuple[int, ...]
    swaps: int


def cache_folder() -> Path:
    """Where transpiled circuits are kept: ``$XDG_CACHE_HOME/qmtl/transpiled``, else ``~/.cache``.

    Example:
        >>> cache_folder().parts[-2:]
        ('qmtl', 'transpiled')
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "qmtl" / "transpiled"


def transpiled(
    circuit: "QuantumCircuit",
    backend: Backend,
    read: Sequence[int],
    *,
    layout: Sequence[int] | None = None,
    cache: Path | None = None,
) -> Transpiled:
    """A circuit in a backend's gates.

    If the coupling map holds the graph of the circuit's two-qubit gates, no swaps are added, and
    its best copy is taken (`best_layout`). Else several routings are tried, and the one with the
    best estimated success is taken.

    Args:
        circuit: measured, with symbolic features.
        backend: where it is to run.
        read: wires whose read-out counts.
        layout: the qubit of each wire, if it is not to be chosen.
        cache: folder in which results are kept; None for no cache.

    Raises:
        InvalidInputError: if the circuit does not fit the backend, or the layout neither.
    """
    from qiskit.transpiler.exceptions import TranspilerError

    if backend.target is None:
        return _ideal(circuit)
    if circuit.num_qubits > backend.target.num_qubits:
        raise InvalidInputError(
            f"the circuit has {circuit.num_qubits} wires, {backend.name} has "
            f"{backend.target.num_qubits} qubits: use fewer tasks or wires per task, or the "
            f"'shared' layout"
        )
    old = {"u1", "u2", "u3"} & set(backend.target.operation_names)
    if old and backend.is_local:
        raise InvalidInputError(
            f"{backend.name} has gates that are not simulated here ({', '.join(sorted(old))}): use "
            f"a later one, such as fake_fez"
        )
    target = usable_target(backend.target)
    _check_layout(layout, circuit, target)
    path = None if cache is None else cache / f"{_key(circuit, target, read, layout)}.qpy"
    found = None if path is None else _read(path, circuit)
    if found is None:
        try:
            found = _transpile(circuit, target, read, layout)
        except TranspilerError as error:
            raise InvalidInputError(
                f"the circuit does not fit {backend.name}, of which only what works by its "
                f"calibration is used: {error.message}"
            ) from None
        if path is not None:
            _write(path, found)
    return found


def _ideal(circuit: "QuantumCircuit") -> Transpiled:
    from qiskit import transpile

    native = transpile(circuit, basis_gates=IDEAL_GATES, optimization_level=1, seed_transpiler=0)
    return Transpiled(native, tuple(range(circuit.num_qubits)), 0)


def _check_layout(
    layout: Sequence[int] | None, circuit: "QuantumCircuit", target: "Target"
) -> None:
    if layout is None:
        return
    if len(layout) != circuit.num_qubits or len(set(layout)) < len(layout):
        raise InvalidInputError(
            f"layout must be {circuit.num_qubits} distinct qubits, got {list(layout)}"
        )
    usable = {qubits[0] for qubits in target["measure"]}
    wrong = [qubit for qubit in layout if qubit not in usable]
    if wrong:
        raise InvalidInputError(
            f"layout: qubits {wrong} are not the backend's, or broken by its calibration"
        )


def _transpile(
    circuit: "QuantumCircuit",
    target: "Target",
    read: Sequence[int],
    layout: Sequence[int] | None,
) -> Transpiled:
    chosen = best_layout(circuit, target, read) if layout is None else tuple(layout)
    if chosen is not None:
        return _routed(circuit, target, chosen, 0)
    tries = ROUTINGS if circuit.num_qubits < LARGE else FEW_ROUTINGS
    found = [_routed(circuit, target, None, seed) for seed in range(tries)]
    return max(found, key=lambda one: estimated_success(one.circuit, target))


def _routed(
    circuit: "QuantumCircuit", target: "Target", layout: Sequence[int] | None, seed: int
) -> Transpiled:
    from qiskit.transpiler import generate_preset_pass_manager

    passes = generate_preset_pass_manager(
        LEVEL,
        target=target,
        initial_layout=None if layout is None else list(layout),
        seed_transpiler=seed,
    )
    counts = [0]

    def count(*, dag: Any, **_: Any) -> None:
        # Swaps become native gates later on.
        counts.append(dag.count_ops(recurse=False).get("swap", 0))

    native = passes.run(circuit, callback=count)
    places = native.layout.initial_index_layout(filter_ancillas=True)
    return Transpiled(native, tuple(places), max(counts))


def _key(
    circuit: "QuantumCircuit",
    target: "Target",
    read: Sequence[int],
    layout: Sequence[int] | None,
) -> str:
    """All that the result depends on."""
    import qiskit

    calibration = sorted(
        (name, qubits, None if p is None else (p.error, p.duration))
        for name in target.operation_names
        for qubits, p in target[name].items()
    )
    settings = (CACHE_VERSION, qiskit.__version__, LEVEL, tuple(read), layout and tuple(layout))
    content = (fingerprint(circuit), repr(calibration), target.dt, repr(settings))
    return sha256(repr(content).encode()).hexdigest()


def _write(path: Path, found: Transpiled) -> None:
    from qiskit import qpy

    stored = found.circuit.copy()
    stored.metadata = {"layout": list(found.layout), "swaps": found.swaps}
    buffer = io.BytesIO()
    qpy.dump(stored, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue())
    except OSError:
        return  # a cache that cannot be written costs time only


def _read(path: Path, circuit: "QuantumCircuit") -> Transpiled | None:
    """What is kept, with the parameters of `circuit`; None for nothing, or damaged files."""
    from qiskit import qpy

    try:
        stored = qpy.load(io.BytesIO(path.read_bytes()))[0]
        layout, swaps = stored.metadata["layout"], stored.metadata["swaps"]
        # The same names, but parameters of another process.
        own = {parameter.name: parameter for parameter in circuit.parameters}
        names = {parameter: own[parameter.name] for parameter in stored.parameters}
        native = stored.assign_parameters(names)
    except Exception:
        return None
    native.metadata = {}
    return Transpiled(native, tuple(layout), int(swaps))
