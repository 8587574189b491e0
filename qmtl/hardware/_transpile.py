"""Transpilation of a head circuit to a device's gates and to its best qubits by calibration."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import isnan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import write_bytes
from qmtl.errors import InvalidInputError
from qmtl.hardware._backends import IDEAL_GATES, Backend
from qmtl.hardware._prepared_run import digest
from qmtl.hardware._qiskit import fingerprint

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target

# Two-qubit gates and read-outs with at least this error count as broken.
BROKEN = 0.5
# Most steps of the search for a first layout, and then for better layouts.
STEPS = (3_000_000, 300_000)


def usable_target(target: "Target") -> "Target":
    """Return the target without the gates and qubits that are broken by its calibration.

    A two-qubit gate is broken if its error is NaN or at least 0.5. It is also broken if its error
    is 0 and other gates' errors are not: 0 then means "not measured". The same rule for the
    read-out error says whether a qubit is broken.
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
            # Without a coupling map, a gate acts on every qubit or pair.
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
    """Return the best layout without swaps: a qubit for each wire; None if there is none.

    This function searches the coupling map of a `usable_target` for copies of the circuit's graph
    of two-qubit gates (a ring, a line). The best copy has the largest product of the two-qubit
    fidelities and of the read-out fidelities of the wires `read`.
    """
    from qiskit.circuit.library import CZGate, XGate
    from qiskit.converters import circuit_to_dag
    from qiskit.transpiler import Target
    from qiskit.transpiler.passes import VF2Layout
    from qiskit.transpiler.passes.layout.vf2_utils import ErrorMap

    pairs = _pair_errors(target)
    readouts = {qubit: _error(p) or 0.0 for (qubit,), p in target["measure"].items()}
    errors = ErrorMap(len(pairs) + len(readouts))
    for places, error in (pairs | {(qubit, qubit): e for qubit, e in readouts.items()}).items():
        errors.add_error(places, error)
    pattern = _pattern(circuit, read)
    placed: dict[Any, int] = {}
    # A search for all unconnected parts together would take minutes. So place them one by one, the
    # largest first.
    parts = circuit_to_dag(pattern).separable_circuits(remove_idle_qubits=True)
    for part in sorted(parts, key=lambda dag: -dag.num_qubits()):
        if not part.size():
            continue  # a wire without two-qubit gates that is not read
        taken = set(placed.values())
        if part.num_qubits() == 1:
            # VF2Layout gives wires without a gate between them the same best qubit.
            single = [qubit for qubit in readouts if qubit not in taken]
            if not single:
                return None
            placed[part.qubits[0]] = min(single, key=readouts.__getitem__)
            continue
        free = Target(num_qubits=target.num_qubits)
        free.add_instruction(CZGate(), {pair: None for pair in pairs if taken.isdisjoint(pair)})
        free.add_instruction(XGate(), {(q,): None for q in readouts if q not in taken})
        search = VF2Layout(target=free, seed=-1, call_limit=STEPS)
        search.property_set["vf2_avg_error_map"] = errors
        search.run(part)
        layout = search.property_set["layout"]
        if layout is None:
            return None
        placed |= {qubit: layout[qubit] for qubit in part.qubits}
    others = iter(sorted(set(range(target.num_qubits)).difference(placed.values())))
    return tuple(placed[qubit] if qubit in placed else next(others) for qubit in pattern.qubits)


def _pattern(circuit: "QuantumCircuit", read: Iterable[int]) -> "QuantumCircuit":
    """Return the circuit to place: a CZ for each two-qubit gate, an X for each read-out."""
    from qiskit import QuantumCircuit

    pattern = QuantumCircuit(circuit.num_qubits)
    for instruction in circuit.data:
        if len(instruction.qubits) == 2 and instruction.operation.name != "barrier":
            pattern.cz(*(circuit.find_bit(qubit).index for qubit in instruction.qubits))
    for wire in read:
        pattern.x(wire)
    return pattern


def _pair_errors(target: "Target") -> dict[tuple[int, int], float]:
    """Return the error of the native entangling gate on each pair, in both directions."""
    found: dict[tuple[int, int], float] = {}
    for name in ("cz", "ecr", "cx", "rzz"):  # a pair's first gate counts
        on = target[name] if name in target.operation_names else {}
        for (a, b), properties in on.items():
            for pair in ((a, b), (b, a)):
                found.setdefault(pair, _error(properties) or 0.0)
    return found


def estimated_success(circuit: "QuantumCircuit", target: "Target") -> float:
    """Return the product of the fidelities of a transpiled circuit's gates and read-outs."""
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
CACHE_VERSION = 2


@dataclass(frozen=True, eq=False)
class Transpiled:
    """A transpiled circuit in a device's gates, on the device's qubits."""

    circuit: "QuantumCircuit"
    # The qubit of each wire before the first gate.
    layout: tuple[int, ...]
    # Number of swaps that routing added.
    swaps: int


def transpiled(
    circuit: "QuantumCircuit",
    backend: Backend,
    read: Sequence[int],
    layout: Sequence[int] | None = None,
    cache: Path | None = None,
) -> Transpiled:
    """Transpile a circuit with measurements and symbolic features to a backend's gates.

    Without a given layout, use the best layout without swaps (`best_layout`). If there is none, try
    several routings and use the one with the best estimated success.
    """
    from qiskit.transpiler.exceptions import TranspilerError

    if backend.target is None:
        return _ideal(circuit)
    if circuit.num_qubits > backend.target.num_qubits:
        raise InvalidInputError(
            f"the circuit has {circuit.num_qubits} wires, {backend.name} has "
            f"{backend.target.num_qubits} qubits. Choosing tasks does not remove wires: train a "
            f"model with fewer tasks or wires per task, or in the 'shared' layout"
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
    circuit: "QuantumCircuit", target: "Target", read: Sequence[int], layout: Sequence[int] | None
) -> Transpiled:
    chosen = best_layout(circuit, target, read) if layout is None else tuple(layout)
    if chosen is not None:
        return _routed(circuit, target, chosen, 0)
    tries = ROUTINGS if circuit.num_qubits < LARGE else FEW_ROUTINGS
    routed = [_routed(circuit, target, None, seed) for seed in range(tries)]
    return max(routed, key=lambda one: estimated_success(one.circuit, target))


def _routed(
    circuit: "QuantumCircuit", target: "Target", layout: Sequence[int] | None, seed: int
) -> Transpiled:
    from qiskit.transpiler import generate_preset_pass_manager

    # Qiskit searches better qubits for a routed circuit. For unconnected parts, this search takes
    # minutes at level 3 and a second at level 1.
    in_parts = circuit.num_unitary_factors() > 1
    passes = generate_preset_pass_manager(
        1 if layout is None and in_parts else LEVEL,
        target=target,
        initial_layout=None if layout is None else list(layout),
        seed_transpiler=seed,
    )
    counts = [0]

    def count(*, dag: Any, **_: Any) -> None:
        # Count after each pass, because later passes decompose swaps into native gates.
        counts.append(dag.count_ops(recurse=False).get("swap", 0))

    native = passes.run(circuit, callback=count)
    places = native.layout.initial_index_layout(filter_ancillas=True)
    return Transpiled(native, tuple(places), max(counts))


def _key(
    circuit: "QuantumCircuit", target: "Target", read: Sequence[int], layout: Sequence[int] | None
) -> str:
    """Return a hash of everything that affects the transpiled circuit."""
    import qiskit

    calibration = sorted(
        (name, qubits, None if p is None else (p.error, p.duration))
        for name in target.operation_names
        for qubits, p in target[name].items()
    )
    settings = [CACHE_VERSION, qiskit.__version__, LEVEL, list(read), layout]
    return digest([fingerprint(circuit), repr(calibration), target.dt, settings])


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
        return  # the cache only saves time


def _read(path: Path, circuit: "QuantumCircuit") -> Transpiled | None:
    """Return the cached circuit with the parameters of `circuit`; None if missing or damaged."""
    from qiskit import qpy

    try:
        stored = qpy.load(io.BytesIO(path.read_bytes()))[0]
        layout, swaps = stored.metadata["layout"], stored.metadata["swaps"]
        # Parameters of another process have the same names but are different objects.
        own = {parameter.name: parameter for parameter in circuit.parameters}
        names = {parameter: own[parameter.name] for parameter in stored.parameters}
        native = stored.assign_parameters(names)
    except Exception:  # QPY raises errors of many types for a damaged file
        return None
    native.metadata = {}
    return Transpiled(native, tuple(layout), int(swaps))


def scheduled(circuit: "QuantumCircuit", target: "Target") -> "QuantumCircuit":
    """Schedule gates as late as possible, with delays, unless the target has no durations."""
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
