"""Transpilation: a head circuit in a device's gates, on the best qubits by its calibration.

Results are cached under a hash of everything that they depend on.
"""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import permutations
from math import isnan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import write_bytes
from qmtl.errors import InvalidInputError
from qmtl.hardware._backends import IDEAL_GATES, Backend
from qmtl.hardware._qiskit import fingerprint

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target

# Two-qubit gates and read-outs with at least this error count as broken.
BROKEN = 0.5
# Steps of the search: until a first layout is found, and then for better ones.
STEPS = (3_000_000, 300_000)


def usable_target(target: "Target") -> "Target":
    """Return the target without gates and qubits that are broken according to its calibration.

    A two-qubit gate is left out if its error is NaN or at least 0.5, or if it is 0 while others are
    not (0 then means that it was not measured). A qubit is left out if the same holds for its
    read-out error. Gates without a coupling map act on all qubits and pairs.
    """
    from qiskit.transpiler import Target

    bad = {qubits[0] for qubits in _broken(target, "measure")}
    found = Target(
        num_qubits=target.num_qubits,
        dt=target.dt,
        granularity=target.granularity,
        qubit_properties=target.qubit_properties,
    )
    for name in target.operation_names:
        on: Any = target[name]
        operation = target.operation_from_name(name)
        if on is None or None in on:
            if getattr(operation, "num_qubits", None) not in (1, 2):
                continue  # such as control flow, whose operations are classes
            on = dict.fromkeys(permutations(range(target.num_qubits), operation.num_qubits))
        broken = _broken(target, name) if len(next(iter(on))) == 2 else set()
        kept = {
            qubits: properties
            for qubits, properties in on.items()
            if qubits not in broken and bad.isdisjoint(qubits)
        }
        if kept:
            found.add_instruction(operation, kept, name=name)
    return found


def _broken(target: "Target", name: str) -> set[tuple[int, ...]]:
    on: Any = target[name] if name in target.operation_names else {}
    errors = {qubits: _error(properties) for qubits, properties in on.items()}
    some = any(error for error in errors.values() if error is not None)
    return {
        qubits
        for qubits, error in errors.items()
        if error is not None and (isnan(error) or error >= BROKEN or (some and error <= 0))
    }


def _error(properties: Any) -> float | None:
    return None if properties is None else properties.error


def best_layout(
    circuit: "QuantumCircuit", target: "Target", read: Iterable[int]
) -> tuple[int, ...] | None:
    """Return the qubits on which a circuit runs without swaps and with the smallest errors.

    The graph of the circuit's two-qubit gates (a ring, a line) is searched for in the coupling map.
    Of the copies found, the one with the largest product of two-qubit and read-out fidelities is
    used. Parts of the graph without a gate between them are placed one after another, the largest
    first: searched for together, they would take minutes.

    Args:
        circuit: a circuit before transpilation.
        target: the device's `usable_target`.
        read: wires whose read-out matters.

    Returns:
        The qubit of each wire; None if the search found no copy within its limits.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> from qiskit.providers.fake_provider import GenericBackendV2
        >>> backend = GenericBackendV2(4, ["cz", "x"], coupling_map=[[0, 1], [1, 3]], seed=1)
        >>> line = QuantumCircuit(3)
        >>> _ = line.cz(0, 1), line.cz(1, 2)
        >>> best_layout(line, backend.target, [])[1]
        1
    """
    from qiskit.converters import circuit_to_dag
    from qiskit.transpiler.passes import VF2Layout

    pattern, plain, errors = _pattern(circuit, target, read)
    placed: dict[Any, int] = {}
    parts = circuit_to_dag(pattern).separable_circuits(remove_idle_qubits=True)
    for part in sorted(parts, key=lambda dag: -dag.num_qubits()):
        if not part.size():
            continue  # a wire that does not matter
        search = VF2Layout(target=_without(plain, placed.values()), seed=-1, call_limit=STEPS)
        search.property_set["vf2_avg_error_map"] = errors
        search.run(part)
        layout = search.property_set["layout"]
        if layout is None:
            return None
        placed |= {qubit: layout[qubit] for qubit in part.qubits}
    left = iter(sorted(set(range(target.num_qubits)).difference(placed.values())))
    return tuple(placed[qubit] if qubit in placed else next(left) for qubit in pattern.qubits)


def _without(target: "Target", taken: Iterable[int]) -> "Target":
    """Return a target without the qubits that are taken."""
    from qiskit.transpiler import Target

    free, used = Target(num_qubits=target.num_qubits), set(taken)
    for name in target.operation_names:
        on = {qubits: None for qubits in target[name] if used.isdisjoint(qubits)}
        free.add_instruction(target.operation_from_name(name), on)
    return free


def _pattern(
    circuit: "QuantumCircuit", target: "Target", read: Iterable[int]
) -> tuple["QuantumCircuit", "Target", Any]:
    """Return a circuit and a target in which only what matters for the layout has errors.

    Two-qubit gates are kept; a one-qubit gate replaces each read-out.
    """
    from qiskit import QuantumCircuit
    from qiskit.circuit.library import CZGate, XGate
    from qiskit.transpiler import Target
    from qiskit.transpiler.passes.layout.vf2_utils import ErrorMap

    pattern = QuantumCircuit(circuit.num_qubits)
    for instruction in circuit.data:
        if len(instruction.qubits) == 2 and instruction.operation.name != "barrier":
            pattern.cz(*(circuit.find_bit(qubit).index for qubit in instruction.qubits))
    for wire in read:
        pattern.x(wire)
    pairs = _pair_errors(target)
    readouts = {
        qubit: _error(properties) or 0.0
        for (qubit,), properties in (
            target["measure"] if "measure" in target.operation_names else {}
        ).items()
    }
    errors = ErrorMap(len(pairs) + len(readouts))
    for pair, error in pairs.items():
        errors.add_error(pair, error)
    for qubit, error in readouts.items():
        errors.add_error((qubit, qubit), error)
    plain = Target(num_qubits=target.num_qubits)
    plain.add_instruction(CZGate(), dict.fromkeys(pairs))
    plain.add_instruction(
        XGate(), {(qubit,): None for qubit in readouts or range(target.num_qubits)}
    )
    return pattern, plain, errors


def _pair_errors(target: "Target") -> dict[tuple[int, int], float]:
    """Return the error of the native entangling gate on each pair, in both directions."""
    found: dict[tuple[int, int], float] = {}
    for name in ("cz", "ecr", "cx", "rzz"):
        if name not in target.operation_names:
            continue
        for (a, b), properties in target[name].items():
            error = _error(properties) or 0.0
            for pair in ((a, b), (b, a)):
                found.setdefault(pair, error)
    return found


def estimated_success(circuit: "QuantumCircuit", target: "Target") -> float:
    """Multiply the fidelities of a transpiled circuit's gates and read-outs.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> from qiskit.providers.fake_provider import GenericBackendV2
        >>> target = GenericBackendV2(2, seed=1).target
        >>> circuit = QuantumCircuit(2)
        >>> _ = circuit.cx(0, 1)
        >>> estimated_success(circuit, target) == 1 - target["cx"][0, 1].error
        True
    """
    errors = []
    for instruction in circuit.data:
        name = instruction.operation.name
        qubits = tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits)
        if name in target.operation_names and qubits in target[name]:
            errors.append(_error(target[name][qubits]) or 0.0)
    return prod(1 - error for error in errors)


# Number of routings to try if every layout needs swaps; fewer for large circuits.
ROUTINGS, FEW_ROUTINGS, LARGE = 12, 4, 40
LEVEL = 3
CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class Transpiled:
    """A transpiled circuit in a device's gates.

    Attributes:
        circuit: the circuit on the device's qubits.
        layout: the qubit of each wire before the first gate.
        swaps: number of swaps that routing added.
    """

    circuit: "QuantumCircuit"
    layout: tuple[int, ...]
    swaps: int


def cache_folder() -> Path:
    """Return the folder of transpiled circuits, in ``$XDG_CACHE_HOME`` or ``~/.cache``.

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
    """Transpile a circuit to a backend's gates.

    If the coupling map contains the graph of the circuit's two-qubit gates, its best copy is used
    (`best_layout`), and no swaps are added. Otherwise several routings are tried, and the one with
    the best estimated success is used.

    Args:
        circuit: a circuit with measurements and symbolic features.
        backend: the backend that will run it.
        read: wires whose read-out matters.
        layout: the qubit of each wire; None chooses it.
        cache: folder of cached results; None for no cache.

    Raises:
        InvalidInputError: if the circuit or the layout does not fit the backend.
    """
    from qiskit.transpiler.exceptions import TranspilerError

    if backend.target is None:
        return _ideal(circuit)
    if circuit.num_qubits > backend.target.num_qubits:
        raise InvalidInputError(
            f"the circuit has {circuit.num_qubits} wires, {backend.name} has "
            f"{backend.target.num_qubits} qubits. It has all wires whatever tasks are measured: "
            f"train a model of fewer tasks or wires per task, or of the 'shared' layout"
        )
    old = {"u1", "u2", "u3"} & set(backend.target.operation_names)
    if old and backend.is_local:
        raise InvalidInputError(
            f"{backend.name} has gates that are not simulated here ({', '.join(sorted(old))}): use "
            f"a newer one, such as fake_fez, or 'aer' without noise"
        )
    if "measure" not in backend.target.operation_names:
        raise InvalidInputError(f"{backend.name} has no measurement among its operations")
    target = usable_target(backend.target)
    _check_layout(layout, circuit, target)
    path = None if cache is None else cache / f"{_key(circuit, target, read, layout)}.qpy"
    found = None if path is None else _read(path, circuit)
    if found is None:
        try:
            found = _transpile(circuit, target, read, layout)
        except TranspilerError as error:
            raise InvalidInputError(
                f"the circuit does not fit the qubits and gates of {backend.name} that work, "
                f"according to its calibration: {error.message}"
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
            f"layout: the backend lacks qubits {wrong}, or they are faulty in its calibration"
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

    # Qiskit moves a routed circuit to better qubits. For parts without a gate between them that
    # search takes minutes at level 3, and a second at level 1.
    in_parts = circuit.num_unitary_factors() > 1
    passes = generate_preset_pass_manager(
        1 if layout is None and in_parts else LEVEL,
        target=target,
        initial_layout=None if layout is None else list(layout),
        seed_transpiler=seed,
    )
    counts = [0]

    def count(*, dag: Any, **_: Any) -> None:
        # Later passes decompose swaps into native gates.
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
    """Return a hash of everything that the result depends on."""
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
        return  # without a cache, the next call only takes longer


def _read(path: Path, circuit: "QuantumCircuit") -> Transpiled | None:
    """Read the cached result for the parameters of `circuit`; None if missing or damaged."""
    from qiskit import qpy

    try:
        stored = qpy.load(io.BytesIO(path.read_bytes()))[0]
        layout, swaps = stored.metadata["layout"], stored.metadata["swaps"]
        # Parameters have the same names, but come from another process.
        own = {parameter.name: parameter for parameter in circuit.parameters}
        names = {parameter: own[parameter.name] for parameter in stored.parameters}
        native = stored.assign_parameters(names)
    except Exception:  # of any type: QPY raises many kinds of errors for a damaged file
        return None
    native.metadata = {}
    return Transpiled(native, tuple(layout), int(swaps))


def scheduled(circuit: "QuantumCircuit", target: "Target") -> "QuantumCircuit":
    """Return the circuit with explicit delays and late gates, as IBM's devices run it.

    Args:
        circuit: a circuit transpiled for the target.
        target: a target with durations; without them the circuit is returned unchanged.
    """
    from qiskit.transpiler import PassManager
    from qiskit.transpiler.exceptions import TranspilerError
    from qiskit.transpiler.passes import ALAPScheduleAnalysis, PadDelay

    if target.dt is None or not target.durations().duration_by_name_qubits:
        return circuit
    passes = PassManager([ALAPScheduleAnalysis(target=target), PadDelay(target=target)])
    try:
        return passes.run(circuit)
    except TranspilerError as error:
        raise InvalidInputError(
            f"the backend's calibration lacks durations of some gates: {error}"
        ) from None
