"""DeviceNoise: the noise of a device after each gate, while wires wait, and at the readout."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from qmtl._io import write_json
from qmtl.circuit import Gate
from qmtl.errors import InvalidInputError, missing_extra, unknown_name
from qmtl.noise._backend import read_calibration
from qmtl.noise._channel import Channel, CoherentError, check_probability
from qmtl.noise._events import Order, Timing

FORMAT = "qmtl-noise"


# Channels after a gate; each comes with the positions of its wires among the gate's wires.
Channels = tuple[tuple[Channel, tuple[int, ...]], ...]


# Gates whose two wires may be given in either order.
SYMMETRIC = frozenset({"CZ", "IsingZZ", "cz", "rzz"})


@dataclass(frozen=True)
class DeviceNoise:
    """Noise of a device: channels after gates and while waiting, coherent and read-out errors.

    Gates have the names of `qmtl.circuit.GATE_WIRES`; in transpiled circuits they have their Qiskit
    names (``"sx"``, ``"x"``, ``"cz"``, ...). Qiskit's ``"rz"`` is a change of frame, without noise
    unless `gates` names it.

    Args:
        one_wire: channel after every one-wire gate; None for no noise.
        two_wire: channel after every two-wire gate; None for no noise.
        gates: channels of particular gates, which replace the general ones, by name and wires:
            ``("CZ", (0, 1))``. Each channel comes with the positions of its wires in the gate.
        readout: probabilities that a bit 0 is read as 1, and a bit 1 as 0.
        readouts: the same probabilities for particular wires.
        coherent: coherent errors, by the gate's name or by name and wires; they come before the
            gate's channels.
        timing: durations of gates and relaxation of waiting wires; None for no noise while waiting.

    Example:
        >>> noise = DeviceNoise.uniform(one_qubit=0.001, two_qubit=0.01, readout=0.02)
        >>> noise.after(Gate("CZ", (3, 4)))[0][1]
        (3, 4)
    """

    one_wire: Channel | None = None
    two_wire: Channel | None = None
    gates: Mapping[tuple[str, tuple[int, ...]], tuple[tuple[Channel, tuple[int, ...]], ...]] = (
        field(default_factory=dict)
    )
    readout: tuple[float, float] = (0.0, 0.0)
    readouts: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    coherent: Mapping[str | tuple[str, tuple[int, ...]], CoherentError] = field(
        default_factory=dict
    )
    timing: Timing | None = None

    @classmethod
    def uniform(cls, one_qubit: float = 0.0, two_qubit: float = 0.0, readout: float = 0.0) -> Self:
        """Return depolarising noise after every gate, and symmetric read-out errors.

        Args:
            one_qubit: probability of an error after a one-wire gate; each Pauli has a third of it.
            two_qubit: probability of an error after a two-wire gate; each pair of Paulis has a
                15th.
            readout: probability that a bit is read wrongly.
        """
        given = {"one_qubit": one_qubit, "two_qubit": two_qubit, "readout": readout}
        for name, value in given.items():
            check_probability(name, value)
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

        As in Aer's `NoiseModel.from_backend`, a gate's wires relax while it runs, after a
        depolarising channel that makes up the rest of the reported error. Read-out errors are
        asymmetric if the backend's properties report both (a `Target` does not). Circuits that are
        not transpiled get approximate noise after each gate: a RY costs two ``sx``, a Hadamard one,
        a CZ the native two-wire gate, and so on. Pairs of wires that the device does not couple get
        the median two-wire error, without the swaps that they would need. `predict_transpiled` in
        `qmtl.hardware` makes no such approximations.

        Args:
            backend: a Qiskit backend (a fake one, too), or a `Target`.
            wires: the qubit of each wire; None for wire i on qubit i. `tiled` repeats the noise
                over more wires than the device has.
            relaxation: whether wires relax, during gates and while they wait.
            order: order of the schedule (see `Timing`); None for no noise while waiting.

        Raises:
            InvalidInputError: if it is not a backend, or lacks one of the qubits.

        Example:
            >>> from qiskit.providers.fake_provider import GenericBackendV2
            >>> backend = GenericBackendV2(3, seed=1, noise_info=True)
            >>> noise = DeviceNoise.from_backend(backend, wires=[2, 0])
            >>> sorted(noise.readouts)
            [0, 1]
        """
        found = read_calibration(backend, wires, relaxation=relaxation, order=order)
        return cls(
            two_wire=found.two_wire, gates=found.gates, readouts=found.readouts, timing=found.timing
        )

    def after(self, gate: Gate) -> list[tuple[Channel, tuple[int, ...]]]:
        """Return the channels after a gate, with their wires."""
        return self.channels(gate.name, gate.wires)

    def channels(self, name: str, wires: tuple[int, ...]) -> list[tuple[Channel, tuple[int, ...]]]:
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

    def coherent_error(self, name: str, wires: tuple[int, ...]) -> CoherentError | None:
        """Return the coherent error of a gate; None if it has none."""
        return self.coherent.get((name, wires), self.coherent.get(name))

    def reading(self, wire: int) -> Channel:
        """Return the read-out channel of a wire, which comes before its measurement."""
        return Channel.readout(*self.readouts.get(wire, self.readout))

    def scaled(self, scale: float) -> "DeviceNoise":
        """Return the noise `scale` times as strong, for extrapolation and studies of robustness.

        Read-out errors grow at most until a bit says nothing: both together never exceed 1.
        """
        if not scale >= 0:
            raise InvalidInputError(f"scale must not be negative, got {scale}")

        def times(p: tuple[float, float]) -> tuple[float, float]:
            most = max(1.0, 1 / sum(p)) if any(p) else 1.0
            return p[0] * min(scale, most), p[1] * min(scale, most)

        return DeviceNoise(
            None if self.one_wire is None else self.one_wire.scaled(scale),
            None if self.two_wire is None else self.two_wire.scaled(scale),
            {
                key: tuple((channel.scaled(scale), at) for channel, at in channels)
                for key, channels in self.gates.items()
            },
            times(self.readout),
            {wire: times(p) for wire, p in self.readouts.items()},
            {key: error.scaled(scale) for key, error in self.coherent.items()},
            None if self.timing is None else self.timing.scaled(scale),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description."""
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
        """Return the noise that `to_dict` described.

        Example:
            >>> noise = DeviceNoise.uniform(0.001, 0.01, 0.02)
            >>> DeviceNoise.from_dict(noise.to_dict()) == noise
            True
        """
        try:
            if description["format"] != FORMAT:
                raise InvalidInputError(f"not a qmtl noise file: format {description['format']!r}")
            timing = description.get("timing")
            return cls(
                _channel(description["one_wire"]),
                _channel(description["two_wire"]),
                {
                    (gate["name"], tuple(gate["wires"])): tuple(_channels(gate["channels"]))
                    for gate in description["gates"]
                },
                _pair(description["readout"]),
                {int(wire): _pair(p) for wire, p in description["readouts"].items()},
                dict(map(_coherent, description.get("coherent", ()))),
                None if timing is None else Timing.from_dict(timing),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"noise: a part is missing or wrong ({error!r})") from None

    def save(self, path: str | Path) -> None:
        """Write the noise as JSON."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read noise that `save` wrote."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise InvalidInputError(f"noise {path} cannot be read: {error}") from None


def _channel(description: Mapping[str, Any] | None) -> Channel | None:
    if description is None:
        return None
    return Channel(tuple(map(float, description["factors"])), float(description["shift"]))


def _channels(
    descriptions: Iterable[Mapping[str, Any]],
) -> Iterable[tuple[Channel, tuple[int, ...]]]:
    for description in descriptions:
        channel = _channel(description)
        assert channel is not None
        yield channel, tuple(description["at"])


def _coherent(
    description: Mapping[str, Any],
) -> tuple[str | tuple[str, tuple[int, ...]], CoherentError]:
    name, wires = description["name"], description["wires"]
    return name if wires is None else (name, tuple(wires)), CoherentError.from_dict(description)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = map(float, values)
    return first, second


Wires = tuple[int, ...]


T = TypeVar("T")


def tiled(noise: DeviceNoise, tile: int, n_wires: int) -> DeviceNoise:
    """Return the noise of wires 0 to ``tile - 1``, repeated over `n_wires` wires.

    Wire w has the noise of wire ``w % tile``. A gate between neighbouring tiles (the last wire of
    one, the first of the next) has the noise of the pair ``(tile - 1, 0)``. If `noise` does not
    name this pair (the tile is a line, not a ring), it has the noise of unnamed pairs.

    Args:
        noise: noise of the tile.
        tile: number of wires of the tile.
        n_wires: number of wires wanted.

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
            # The pair across the border ends at wire 0 of the next tile.
            moved = tuple(start + w + (tile if ring and w == 0 else 0) for w in wires)
            if ring and start + tile == n_wires:
                moved = tuple(w % n_wires for w in moved)
            if max(moved) < n_wires:
                yield moved

    def spread(values: dict[int, T]) -> dict[int, T]:
        return {w: values[w % tile] for w in range(n_wires) if w % tile in values}

    timing = noise.timing
    if timing is not None:
        durations: dict[str | tuple[str, Wires], float] = {}
        for key, seconds in timing.durations.items():
            if isinstance(key, str):
                durations[key] = seconds
            else:
                durations |= {(key[0], moved): seconds for moved in places(key[1])}
        relaxation = spread(dict(timing.relaxation))
        timing = Timing(durations, relaxation, timing.others, timing.order)
    return DeviceNoise(
        noise.one_wire,
        noise.two_wire,
        {
            (name, moved): channels
            for (name, wires), channels in noise.gates.items()
            for moved in places(wires)
        },
        noise.readout,
        spread(dict(noise.readouts)),
        {
            key if isinstance(key, str) else (key[0], moved): error
            for key, error in noise.coherent.items()
            for moved in ([()] if isinstance(key, str) else places(key[1]))
        },
        timing,
    )


def noise_of_backend(name: str, n_wires: int, *, relaxation: bool = True) -> DeviceNoise:
    """Return the noise of a fake IBM backend, repeated if the circuit has more wires.

    Args:
        name: a name such as ``"fake_fez"``; its calibration comes with qiskit-ibm-runtime.
        n_wires: number of wires of the circuit.
        relaxation: whether wires relax; if not, gates depolarise by their reported error.

    Raises:
        InvalidInputError: for an unknown name.
        MissingDependencyError: if qiskit-ibm-runtime is not installed.
    """
    try:
        from qiskit_ibm_runtime import fake_provider
    except ImportError:
        raise missing_extra(
            f"the noise of backend {name!r} needs qiskit-ibm-runtime (noise may also be a file, or "
            f"numbers)",
            "ibm",
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
