"""Noise of gates from a Qiskit backend's calibration, without an import of Qiskit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf, prod
from statistics import median
from typing import Any

from qmtl.errors import InvalidInputError, missing_extra
from qmtl.noise._channel import Channel
from qmtl.noise._events import Order, Relaxation, Timing, Wires

# Supported native gates; a backend must have at least one of each row.
ONE_WIRE = ("rz", "sx", "x", "id", "rx")
TWO_WIRE = ("cz", "ecr", "cx", "rzz")
# Channels after a gate, each with the positions of its wires among the gate's wires.
Channels = tuple[tuple[Channel, Wires], ...]
Key = tuple[str, Wires]


def fake_backends(missing: str = "qiskit-ibm-runtime is not installed") -> dict[str, Any]:
    """Return the class of each fake backend of qiskit-ibm-runtime, by the backend's name.

    Raises:
        MissingDependencyError: if qiskit-ibm-runtime is missing; the message begins with `missing`.
    """
    try:
        from qiskit_ibm_runtime import fake_provider
    except ImportError:
        raise missing_extra(missing, "ibm") from None
    named = ((getattr(c, "backend_name", None), c) for c in vars(fake_provider).values())
    return dict(sorted((name, c) for name, c in named if isinstance(name, str)))


def read_calibration(
    backend: Any,
    wires: Mapping[int, int] | Sequence[int] | None,
    relaxation: bool,
    order: Order | None,
) -> dict[str, Any]:
    """Return the fields of the noise; the arguments are those of `DeviceNoise.from_backend`."""
    target = getattr(backend, "target", backend)
    if not hasattr(target, "qubit_properties") or not hasattr(target, "num_qubits"):
        raise InvalidInputError(f"backend must be a Qiskit backend or Target, got {backend!r}")
    if getattr(getattr(backend, "options", None), "noise_model", None) is not None:
        raise InvalidInputError(
            f"{backend.name} has an Aer noise model, which is not read here: give the backend "
            f"whose calibration the model has, such as a fake one"
        )
    wire_of = _wire_of(wires, target.num_qubits)
    relaxing = {w: r for q, w in wire_of.items() if relaxation and (r := _relaxation(target, q))}
    gates: dict[Key, Channels] = {}
    durations: dict[str | Key, float] = {}
    errors: list[float] = []
    for name, on, properties in _native_gates(target, wire_of, (*ONE_WIRE, *TWO_WIRE)):
        seconds = properties.duration or 0.0
        channels = tuple(_channels(properties.error, seconds, [relaxing.get(w) for w in on]))
        gates[name, on], durations[name, on] = channels, seconds
        if len(on) == 2 and properties.error is not None:
            errors.append(properties.error)
    for name, on, properties in _native_gates(target, wire_of, ["measure"]):
        durations[name, on] = properties.duration or 0.0
    for key, parts in _head_gates(gates).items():
        durations[key] = sum(durations[part] for part in parts)
        gates[key] = _composed(key[1], [(gates[part], part[1]) for part in parts])
    default = None
    if errors:
        default = next(c for c, _ in _channels(max(1e-12, median(errors)), 0.0, [None, None]))
    timing = Timing(durations, relaxing, order=order) if order and relaxing else None
    readouts = _readouts(backend, target, wire_of)
    return {"two_wire": default, "gates": gates, "readouts": readouts, "timing": timing}


def _wire_of(wires: Mapping[int, int] | Sequence[int] | None, n_qubits: int) -> dict[int, int]:
    if wires is None:
        wires = range(n_qubits)
    pairs = dict(wires) if isinstance(wires, Mapping) else dict(enumerate(wires))
    wire_of = {qubit: wire for wire, qubit in pairs.items()}
    if len(wire_of) < len(pairs):
        raise InvalidInputError(f"wires must be on distinct qubits, got {pairs}")
    wrong = [qubit for qubit in wire_of if not 0 <= qubit < n_qubits]
    if wrong:
        raise InvalidInputError(f"the backend has qubits 0 to {n_qubits - 1}, got {wrong}")
    return wire_of


def _relaxation(target: Any, qubit: int) -> Relaxation | None:
    known = target.qubit_properties[qubit] if target.qubit_properties else None
    t1, t2 = getattr(known, "t1", None), getattr(known, "t2", None)
    if t1 is None and t2 is None:
        return None
    t1 = inf if t1 is None else t1
    return Relaxation(t1, 2 * t1 if t2 is None else min(t2, 2 * t1))


def _native_gates(
    target: Any, wire_of: Mapping[int, int], names: Iterable[str]
) -> Iterator[tuple[str, Wires, Any]]:
    """Yield the name, wires and properties of each gate between the qubits in use."""
    for name in names:
        if name not in target.operation_names:
            continue
        for qubits, properties in target[name].items():
            if properties is not None and all(qubit in wire_of for qubit in qubits):
                yield name, tuple(wire_of[qubit] for qubit in qubits), properties


def _channels(
    error: float | None, seconds: float, relaxing: Sequence[Relaxation | None]
) -> Iterator[tuple[Channel, Wires]]:
    """Yield depolarisation and relaxation that together have a gate's reported error."""
    n, dimension = len(relaxing), 2 ** len(relaxing)
    relaxed = [Channel((1.0,) * 4) if r is None else r.during(seconds) for r in relaxing]
    entangled = prod(sum(channel.factors) / 4 for channel in relaxed)
    fidelity = (dimension * entangled + 1) / (dimension + 1)
    most = dimension / (dimension + 1)
    # Without a reported error, or with a smaller one than relaxation causes, only relaxation acts.
    if error is not None and error > 1 - fidelity and dimension * fidelity > 1:
        missing = min(error, most) - (1 - fidelity)
        strength = dimension * missing / (dimension * fidelity - 1)  # 1 is full depolarisation
        full = (4**n - 1) / 4**n
        yield Channel.depolarising(min(strength * full, 1.0), n), tuple(range(n))
    for position, channel in enumerate(relaxed):
        if not channel.is_identity:
            yield channel, (position,)


def _head_gates(native: Iterable[Key]) -> dict[Key, list[Key]]:
    """Return the native gates, without ``rz``, that implement each gate of a head circuit."""
    known = set(native)
    made: dict[Key, list[Key]] = {}
    for wire in sorted({wires[0] for name, wires in known if name == "sx"}):
        sx: Key = ("sx", (wire,))
        turn: list[Key] = [("rx", (wire,))] if ("rx", (wire,)) in known else [sx, sx]
        made |= {("RZ", (wire,)): [], ("Hadamard", (wire,)): [sx]}
        made |= {("RX", (wire,)): turn, ("RY", (wire,)): [sx, sx]}
    for name in reversed(TWO_WIRE[:3]):
        for a, b in sorted(wires for gate, wires in known if gate == name):
            zz: Key = ("rzz", (a, b)) if ("rzz", (a, b)) in known else ("rzz", (b, a))
            for pair in ((a, b), (b, a)):
                own: Key = (name, pair) if (name, pair) in known else (name, (a, b))
                # Two Hadamards on the target turn a cx into a CZ, and a cz into a CNOT.
                target = own[1][1] if name == "cx" else pair[1]
                flips: list[Key] = [("sx", (target,))] * 2 if ("sx", (target,)) in known else []
                back: list[Key] = [("sx", (w,)) for w in (a, b) for _ in range(2) if flips]
                made["CZ", pair] = [own] if name == "cz" else [own, *flips]
                made["CNOT", pair] = [own, *flips]
                if name == "cx":
                    made["CNOT", pair] = [own] if own[1] == pair else [own, *back]
                made["IsingZZ", pair] = [zz] if zz in known else [own, own, *flips, *flips]
    return made


def _composed(wires: Wires, parts: Iterable[tuple[Channels, Wires]]) -> Channels:
    """Return the channels of several gates in sequence, at their positions in `wires`."""
    found: list[tuple[Channel, Wires]] = []
    for channels, on in parts:
        for channel, at in channels:
            where = tuple(wires.index(on[i]) for i in at)
            if found and found[-1][1] == where and channel.n_wires == 1:
                channel = found.pop()[0].then(channel)
            found.append((channel, where))
    return tuple(found)


def _readouts(
    backend: Any, target: Any, wire_of: Mapping[int, int]
) -> dict[int, tuple[float, float]]:
    """Return each wire's read-out errors; they are asymmetric if the backend reports both."""
    read = getattr(backend, "properties", None)
    properties = read() if callable(read) else None
    measured = target["measure"] if "measure" in target.operation_names else {}
    readouts: dict[int, tuple[float, float]] = {}
    for qubit, wire in wire_of.items():
        known = {} if properties is None else properties.qubit_property(qubit)
        if "prob_meas1_prep0" in known and "prob_meas0_prep1" in known:
            readouts[wire] = (known["prob_meas1_prep0"][0], known["prob_meas0_prep1"][0])
            continue
        found = measured.get((qubit,))
        if found is not None and found.error is not None:
            readouts[wire] = (found.error, found.error)
    return readouts
