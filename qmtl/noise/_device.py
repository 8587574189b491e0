"""DeviceNoise: a device's noise after gates, on idle wires, and at read-out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from qmtl._io import write_json
from qmtl.circuit import Gate
from qmtl.errors import InvalidInputError, as_path, check_type, unknown_name
from qmtl.noise._backend import Channels, Key, fake_backends, read_calibration
from qmtl.noise._channel import Channel, CoherentError, check_probability, check_scale
from qmtl.noise._events import Order, Timing, Wires

T = TypeVar("T")
FORMAT = "qmtl-noise"
# Gates whose two wires may be given in either order.
SYMMETRIC = frozenset({"CZ", "IsingZZ", "cz", "rzz"})


@dataclass(frozen=True)
class DeviceNoise:
    """Noise of a device: channels after gates and on idle wires, coherent and read-out errors.

    Gates have the names of `qmtl.circuit.GATE_WIRES`, or in transpiled circuits their Qiskit names
    (``"sx"``, ``"x"``, ``"cz"``, ...). Qiskit's ``"rz"`` is a change of frame and has no noise
    unless `gates` names it.

    Args:
        one_wire: channel after every one-wire gate; None for no noise.
        two_wire: channel after every two-wire gate; None for no noise.
        gates: channels of particular gates, instead of the general channels, by name and wires:
            ``("CZ", (0, 1))``. Each channel has the positions of its wires among the gate's wires.
        readout: probabilities that a bit 0 is read as 1, and a bit 1 as 0.
        readouts: the same probabilities for particular wires.
        coherent: coherent errors, by the gate's name or by name and wires; they act before the
            gate's channels.
        timing: durations of gates and relaxation of idle wires; None for no noise on idle wires.

    Raises:
        InvalidInputError: for other channels or probabilities.

    Example:
        >>> noise = DeviceNoise.uniform(one_qubit=0.001, two_qubit=0.01, readout=0.02)
        >>> noise.after(Gate("CZ", (3, 4)))[0][1]
        (3, 4)
    """

    one_wire: Channel | None = None
    two_wire: Channel | None = None
    gates: Mapping[Key, Channels] = field(default_factory=dict)
    readout: tuple[float, float] = (0.0, 0.0)
    readouts: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    coherent: Mapping[str | Key, CoherentError] = field(default_factory=dict)
    timing: Timing | None = None

    def __post_init__(self) -> None:
        for name, n_wires in (("one_wire", 1), ("two_wire", 2)):
            channel = getattr(self, name)
            if channel is not None and getattr(channel, "n_wires", None) != n_wires:
                wires = "1 wire" if n_wires == 1 else "2 wires"
                raise InvalidInputError(
                    f"{name} must be a Channel on {wires} or None, got {channel!r}"
                )
        for name in ("gates", "readouts", "coherent"):
            check_type(name, getattr(self, name), Mapping)
        for key, found in self.gates.items():
            if not _fits(key, found):
                raise InvalidInputError(
                    f"gates must have channels with positions by name and wires of a gate, such as "
                    f"{{('CZ', (0, 1)): ((channel, (0, 1)),)}}, got {key!r}: {found!r}"
                )
        for gate, error in self.coherent.items():
            check_type(f"coherent error of {gate}", error, CoherentError)
        if self.timing is not None:
            check_type("timing", self.timing, Timing)
        flips_of = {f"readout of wire {wire}": flips for wire, flips in self.readouts.items()}
        for name, flips in {"readout": self.readout, **flips_of}.items():
            if not isinstance(flips, Sequence) or len(flips) != 2:
                raise InvalidInputError(f"{name} must be two probabilities, got {flips!r}")
            for probability in flips:
                check_probability(name, probability)

    @classmethod
    def uniform(cls, one_qubit: float = 0.0, two_qubit: float = 0.0, readout: float = 0.0) -> Self:
        """Return depolarising noise after every gate, and symmetric read-out errors.

        Args:
            one_qubit: total probability of the 3 Pauli errors after a one-wire gate.
            two_qubit: total probability of the 15 Pauli errors after a two-wire gate.
            readout: probability that a bit is read wrongly.
        """
        check_probability("one_qubit", one_qubit)
        check_probability("two_qubit", two_qubit)
        check_probability("readout", readout)
        return cls(
            Channel.depolarising(one_qubit),
            Channel.depolarising(two_qubit, n_wires=2),
            readout=(readout, readout),
        )

    @classmethod
    def from_backend(
        cls,
        backend: Any,
        wires: Mapping[int, int] | Sequence[int] | None = None,
        *,
        relaxation: bool = True,
        order: Order | None = "alap",
    ) -> Self:
        """Return the noise of a Qiskit backend, from its calibration.

        As in Aer's `NoiseModel.from_backend` at temperature 0, a gate causes a depolarising channel
        and then relaxation of its wires. Both together have the reported error (one minus the
        average gate fidelity). Impossible errors are reduced to the nearest possible ones, and T2
        to 2·T1. Read-out errors are asymmetric if the backend's properties report both (a `Target`
        does not).

        Circuits that are not transpiled get approximate noise after each gate: a RY has the noise
        of two ``sx``, a Hadamard of one, a CZ of the native two-wire gate, and so on. Pairs of
        wires that the device does not couple get the median two-wire error, without swaps.
        `qmtl.hardware.predict_transpiled` makes no such approximations.

        Args:
            backend: a real or fake Qiskit backend without an Aer noise model, or a `Target`.
            wires: the qubit of each wire; None for wire i on qubit i. `tiled` repeats the noise
                over more wires than the device has.
            relaxation: whether wires relax, during gates and while idle.
            order: order of the schedule (see `Timing`); None for no noise on idle wires.

        Example:
            >>> from qiskit.providers.fake_provider import GenericBackendV2
            >>> backend = GenericBackendV2(3, seed=1, noise_info=True)
            >>> noise = DeviceNoise.from_backend(backend, wires=[2, 0])
            >>> sorted(noise.readouts)
            [0, 1]
        """
        return cls(**read_calibration(backend, wires, relaxation, order))

    def after(self, gate: Gate) -> list[tuple[Channel, Wires]]:
        """Return the channels after a gate, with their wires."""
        return self.channels(gate.name, gate.wires)

    def channels(self, name: str, wires: Wires) -> list[tuple[Channel, Wires]]:
        """Return the channels after the gate with this name, with their wires."""
        found = self.gates.get((name, wires))
        if found is None and name in SYMMETRIC:
            found = self.gates.get((name, wires[::-1]))
            if found is not None:
                found = tuple((c, tuple(1 - i for i in at)) for c, at in found)
        if found is None:
            default = self.one_wire if len(wires) == 1 else self.two_wire
            found = ()
            if default is not None and name != "rz":
                found = ((default, tuple(range(len(wires)))),)
        return [
            (channel, tuple(wires[i] for i in at))
            for channel, at in found
            if not channel.is_identity
        ]

    def coherent_error(self, name: str, wires: Wires) -> CoherentError | None:
        """Return the coherent error of a gate; None if it has none."""
        found = self.coherent.get((name, wires))
        if found is None and name in SYMMETRIC and (name, wires[::-1]) in self.coherent:
            other = self.coherent[name, wires[::-1]]
            turned = ((gate, tuple(1 - i for i in at), a) for gate, at, a in other.rotations)
            found = replace(other, rotations=tuple(turned))
        return self.coherent.get(name) if found is None else found

    def reading(self, wire: int) -> Channel:
        """Return a wire's read-out channel, which acts before the measurement."""
        return Channel.readout(*self.readouts.get(wire, self.readout))

    def scaled(self, scale: float) -> "DeviceNoise":
        """Return the noise `scale` times as strong, for extrapolation and studies of robustness.

        The sum of a wire's two read-out errors grows up to 1, where a bit holds no information.
        """
        check_scale(scale)

        def times(p: tuple[float, float]) -> tuple[float, float]:
            most = max(1.0, 1 / sum(p)) if any(p) else 1.0
            return p[0] * min(scale, most), p[1] * min(scale, most)

        gates = {
            key: tuple((channel.scaled(scale), at) for channel, at in channels)
            for key, channels in self.gates.items()
        }
        return DeviceNoise(
            None if self.one_wire is None else self.one_wire.scaled(scale),
            None if self.two_wire is None else self.two_wire.scaled(scale),
            gates,
            times(self.readout),
            {wire: times(p) for wire, p in self.readouts.items()},
            {key: error.scaled(scale) for key, error in self.coherent.items()},
            None if self.timing is None else self.timing.scaled(scale),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the noise as data that JSON can hold."""
        return {
            "format": FORMAT,
            "one_wire": None if self.one_wire is None else asdict(self.one_wire),
            "two_wire": None if self.two_wire is None else asdict(self.two_wire),
            "gates": [
                {
                    "name": name,
                    "wires": list(wires),
                    "channels": [{**asdict(c), "at": list(at)} for c, at in channels],
                }
                for (name, wires), channels in self.gates.items()
            ],
            "readout": list(self.readout),
            "readouts": {str(wire): list(p) for wire, p in self.readouts.items()},
            "coherent": [
                {
                    "name": key if isinstance(key, str) else key[0],
                    "wires": None if isinstance(key, str) else list(key[1]),
                    **error.to_dict(),
                }
                for key, error in self.coherent.items()
            ],
            "timing": None if self.timing is None else self.timing.to_dict(),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the noise from the data of `to_dict`.

        Example:
            >>> noise = DeviceNoise.uniform(0.001, 0.01, 0.02)
            >>> DeviceNoise.from_dict(noise.to_dict()) == noise
            True
        """
        try:
            if description["format"] != FORMAT:
                raise InvalidInputError(f"not a qmtl noise file: format {description['format']!r}")
            one, two = description["one_wire"], description["two_wire"]
            timing = description.get("timing")
            return cls(
                None if one is None else _channel(one),
                None if two is None else _channel(two),
                {
                    _key(gate): tuple((_channel(c), tuple(c["at"])) for c in gate["channels"])
                    for gate in description["gates"]
                },
                _pair(description["readout"]),
                {int(wire): _pair(p) for wire, p in description["readouts"].items()},
                {
                    error["name"] if error["wires"] is None else _key(error): (
                        CoherentError.from_dict(error)
                    )
                    for error in description.get("coherent", ())
                },
                None if timing is None else Timing.from_dict(timing),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"noise: a part is missing or wrong ({error!r})") from None

    def save(self, path: str | Path) -> None:
        """Write the noise as JSON."""
        write_json(as_path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the noise in a file that `save` wrote."""
        path = as_path(path)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise InvalidInputError(f"noise {path} cannot be read: {error}") from None


def _fits(key: Any, found: Any) -> bool:
    """Return whether these are a gate's name and wires, and channels on positions of its wires."""
    try:
        name, wires = key
        places = set(range(len(wires)))
        fit = all(c.n_wires == len(at) == len(set(at)) and set(at) <= places for c, at in found)
        return fit and isinstance(key, tuple) and isinstance(name, str)
    except (AttributeError, TypeError, ValueError):
        return False


def _key(description: Mapping[str, Any]) -> Key:
    return description["name"], tuple(description["wires"])


def _channel(description: Mapping[str, Any]) -> Channel:
    return Channel(tuple(map(float, description["factors"])), float(description["shift"]))


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = map(float, values)
    return first, second


def tiled(noise: DeviceNoise, tile: int, n_wires: int) -> DeviceNoise:
    """Return the noise of wires 0 to ``tile - 1``, repeated over `n_wires` wires.

    Wire w has the noise of wire ``w % tile``. A gate between the last wire of a tile and the first
    wire of the next tile has the noise of the pair ``(tile - 1, 0)``. If `noise` does not name this
    pair (the tile is a line, not a ring), the gate has the noise of unnamed pairs.

    Raises:
        InvalidInputError: for a tile of fewer than 3 wires, where a ring and a line are the same.

    Example:
        >>> from qmtl.circuit import Gate
        >>> from qmtl.noise import Channel
        >>> error = ((Channel.depolarising(0.01, n_wires=2), (0, 1)),)
        >>> noise = tiled(DeviceNoise(gates={("CZ", (0, 1)): error}), tile=3, n_wires=9)
        >>> len(noise.after(Gate("CZ", (6, 7)))), len(noise.after(Gate("CZ", (7, 8))))
        (1, 0)
    """
    if tile < 3 or n_wires < 1:
        raise InvalidInputError(f"a tile must have at least 3 wires, got {tile} (of {n_wires})")
    starts = range(0, n_wires, tile)

    def places(wires: Wires) -> Iterator[Wires]:
        ring = sorted(wires) == [0, tile - 1]
        for start in starts if max(wires) < tile else ():
            # The pair (tile - 1, 0) becomes the last wire and wire 0 of the next tile.
            moved = tuple(start + w + (tile if ring and w == 0 else 0) for w in wires)
            if ring and start + tile == n_wires:
                moved = tuple(w % n_wires for w in moved)
            if max(moved) < n_wires:
                yield moved

    def of_wires(values: Mapping[int, T]) -> dict[int, T]:
        return {w: values[w % tile] for w in range(n_wires) if w % tile in values}

    def of_gates(values: Mapping[Any, T]) -> dict[Any, T]:
        found: dict[Any, T] = {}
        for key, value in values.items():
            keys = [key] if isinstance(key, str) else [(key[0], on) for on in places(key[1])]
            found |= dict.fromkeys(keys, value)
        return found

    timing = noise.timing
    if timing is not None:
        durations, relaxation = of_gates(timing.durations), of_wires(timing.relaxation)
        timing = replace(timing, durations=durations, relaxation=relaxation)
    return replace(
        noise,
        gates=of_gates(noise.gates),
        readouts=of_wires(noise.readouts),
        coherent=of_gates(noise.coherent),
        timing=timing,
    )


def noise_of_backend(name: str, n_wires: int, *, relaxation: bool = True) -> DeviceNoise:
    """Return the noise of a fake IBM backend, repeated if the circuit has more wires.

    Args:
        name: a name such as ``"fake_fez"``; its calibration comes with qiskit-ibm-runtime.
        n_wires: number of wires of the circuit.
        relaxation: whether wires relax; otherwise gates depolarise by their reported error.
    """
    known = fake_backends(
        f"the noise of backend {name!r} needs qiskit-ibm-runtime (noise may also be a file, or "
        f"numbers)"
    )
    if name not in known:
        raise unknown_name("backend", name, known)
    backend = known[name]()
    n_qubits = backend.target.num_qubits
    if n_wires <= n_qubits:
        return DeviceNoise.from_backend(backend, range(n_wires), relaxation=relaxation)
    return tiled(DeviceNoise.from_backend(backend, relaxation=relaxation), n_qubits, n_wires)
