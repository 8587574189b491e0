"""The gates and noise channels of a noisy device in order, with the relaxation of idle wires."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import repeat
from math import pi
from typing import TYPE_CHECKING, Any, Literal, Self

from qmtl.circuit import DIAGONAL_GATES, Angle, Gate, HeadCircuit, Kind
from qmtl.errors import InvalidInputError, check_type, is_number, unknown_name
from qmtl.noise._channel import Channel

if TYPE_CHECKING:
    from qmtl.noise._device import DeviceNoise


Wires = tuple[int, ...]
Order = Literal["alap", "asap"]
# Shorter times, in seconds, are rounding errors between consecutive gates.
NO_TIME = 1e-14
CHANNEL = "channel"
"""Name of the event of a channel that only shrinks expectation values."""
DAMPING = "damping"
"""Name of the event of a channel that also shifts ⟨Z⟩, such as amplitude damping."""
# Steps without a gate or a measurement.
IDLE = frozenset({"barrier", "delay"})
DIAGONAL = DIAGONAL_GATES | {"Z", "S", "Sdg"}
# This native gate has several elementary gates, so a relative error of its angle is undefined.
COMPOSED = "ecr"
RIGHT_ANGLES = {
    "X": ("RX", pi),
    "Z": ("RZ", pi),
    "SX": ("RX", pi / 2),
    "SXdg": ("RX", -pi / 2),
    "S": ("RZ", pi / 2),
    "Sdg": ("RZ", -pi / 2),
}


@dataclass(frozen=True)
class Relaxation:
    """Relaxation times of a wire.

    Args:
        t1: relaxation time, in seconds.
        t2: dephasing time, in seconds; at most 2·t1.
        excited: probability of the state 1 in equilibrium.

    Example:
        >>> Relaxation(100e-6, 100e-6).during(0.0).is_identity
        True
    """

    t1: float
    t2: float
    excited: float = 0.0

    def __post_init__(self) -> None:
        self.during(0.0)

    def during(self, seconds: float) -> Channel:
        """Return the channel of this relaxation over a time in seconds."""
        return Channel.thermal_relaxation(self.t1, self.t2, seconds, self.excited)

    def scaled(self, scale: float) -> "Relaxation":
        """Return the relaxation with its rates multiplied by `scale` (> 0)."""
        return Relaxation(self.t1 / scale, self.t2 / scale, self.excited)


@dataclass(frozen=True)
class Timing:
    """Durations of gates and relaxation of wires, from which the noise of idle wires follows.

    The schedule covers a whole circuit: the encoding and every task's block (in the shared layout
    one task's block). A wire relaxes while it is idle; during a gate, the gate's channels act.

    Args:
        durations: seconds, by the gate's name or by ``(name, wires)``; 0 for gates not named.
        relaxation: relaxation of particular wires.
        others: relaxation of all other wires; None if they do not relax.
        order: ``"alap"``: every gate as late as possible, with all wires read at the same time
            (IBM's default, Qiskit's `ALAPScheduleAnalysis`). ``"asap"``: every gate as soon as
            possible, with each wire read right after its last gate (Qiskit's
            `ASAPScheduleAnalysis` for measurements without a barrier).

    Example:
        >>> timing = Timing({"CZ": 84e-9}, others=Relaxation(100e-6, 80e-6))
        >>> timing.duration("CZ", (0, 1)), timing.duration("RZ", (0,))
        (8.4e-08, 0.0)
    """

    durations: Mapping[str | tuple[str, tuple[int, ...]], float]
    relaxation: Mapping[int, Relaxation] = field(default_factory=dict)
    others: Relaxation | None = None
    order: Order = "alap"

    def __post_init__(self) -> None:
        if self.order not in ("alap", "asap"):
            raise unknown_name("order", self.order, ["alap", "asap"])
        check_type("durations", self.durations, Mapping)
        for gate, seconds in self.durations.items():
            if not is_number(seconds) or not 0 <= seconds < float("inf"):
                raise InvalidInputError(
                    f"durations must be seconds, not negative, got {seconds!r} for {gate}"
                )
        check_type("relaxation", self.relaxation, Mapping)
        for wire, found in self.relaxation.items():
            check_type(f"relaxation of wire {wire}", found, Relaxation)
        if self.others is not None:
            check_type("others", self.others, Relaxation)

    def duration(self, name: str, wires: tuple[int, ...]) -> float:
        """Return a gate's duration in seconds; `durations` may name its wires in either order."""
        for key in ((name, wires), (name, wires[::-1]), name):
            if key in self.durations:
                return self.durations[key]
        return 0.0

    def waiting(self, wire: int, seconds: float, *, is_fresh: bool = False) -> Channel | None:
        """Return the channel of an idle wire; None if there is no noise.

        A wire is fresh, in the state 0, until the first gate acts on the wire.
        """
        found = self.relaxation.get(wire, self.others)
        if found is None or seconds < NO_TIME or (is_fresh and found.excited == 0):
            return None
        return found.during(seconds)

    def scaled(self, scale: float) -> "Timing":
        """Return the same schedule with relaxation rates multiplied by `scale`."""
        if not scale:
            return replace(self, relaxation={}, others=None)
        relaxation = {wire: found.scaled(scale) for wire, found in self.relaxation.items()}
        others = None if self.others is None else self.others.scaled(scale)
        return replace(self, relaxation=relaxation, others=others)

    def to_dict(self) -> dict[str, Any]:
        """Return the timing as data that JSON can hold."""
        return {
            "durations": [
                {"name": key, "seconds": seconds}
                if isinstance(key, str)
                else {"name": key[0], "wires": list(key[1]), "seconds": seconds}
                for key, seconds in self.durations.items()
            ],
            "relaxation": {str(wire): list(astuple(r)) for wire, r in self.relaxation.items()},
            "others": None if self.others is None else list(astuple(self.others)),
            "order": self.order,
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the timing from the data of `to_dict`."""
        others = description["others"]
        return cls(
            {
                (d["name"], tuple(d["wires"])) if "wires" in d else d["name"]: float(d["seconds"])
                for d in description["durations"]
            },
            {int(w): Relaxation(*map(float, r)) for w, r in description["relaxation"].items()},
            None if others is None else Relaxation(*map(float, others)),
            description["order"],
        )


def idle_times(
    steps: Sequence[tuple[tuple[int, ...], float]], order: Order
) -> list[tuple[float, ...]]:
    """Return the seconds for which each wire of each step was idle since its previous step.

    Args:
        steps: wires and seconds of each step, in the order of application.
        order: see `Timing`. Before its first step, a wire is idle from the start of the circuit.

    Example:
        >>> steps = [((0,), 1.0), ((1,), 2.0), ((0, 1), 1.0)]
        >>> idle_times(steps, "asap"), idle_times(steps, "alap")
        ([(0.0,), (0.0,), (1.0, 0.0)], [(1.0,), (0.0,), (0.0, 0.0)])
    """
    starts = _earliest(steps)
    if order == "alap":
        # "alap" is "asap" for the reversed circuit.
        backwards = zip(_earliest(steps[::-1])[::-1], steps, strict=True)
        ends = [start + seconds for start, (_, seconds) in backwards]
        whole = max(ends, default=0.0)
        starts = [whole - end for end in ends]
    free: dict[int, float] = {}
    waited: list[tuple[float, ...]] = []
    for start, (wires, seconds) in zip(starts, steps, strict=True):
        waited.append(tuple(start - free.get(wire, 0.0) for wire in wires))
        free |= dict.fromkeys(wires, start + seconds)
    return waited


def _earliest(steps: Sequence[tuple[tuple[int, ...], float]]) -> list[float]:
    free: dict[int, float] = {}
    starts = []
    for wires, seconds in steps:
        start = max((free.get(wire, 0.0) for wire in wires), default=0.0)
        free |= dict.fromkeys(wires, start + seconds)
        starts.append(start)
    return starts


@dataclass(frozen=True)
class Event:
    """A gate or a noise channel.

    Attributes:
        wires: the wires of the gate or channel.
        name: name of the gate, as in `qmtl.circuit.Gate` or one of ``"X"``, ``"Z"``, ``"S"``,
            ``"Sdg"``, ``"SX"``, ``"SXdg"``. For a channel, `CHANNEL` or, with a shift, `DAMPING`.
        angle: angle of a rotation.
        channel: the channel; None for a gate.
    """

    wires: Wires
    name: str
    angle: Angle | None = None
    channel: Channel | None = None

    @classmethod
    def of(cls, channel: Channel, wires: Wires) -> "Event":
        """Return the event of a channel on these wires."""
        return cls(wires, DAMPING if channel.shift else CHANNEL, channel=channel)

    @property
    def kind(self) -> Kind:
        """The commutation class: channel, diagonal, CNOT, or other."""
        if self.channel is not None:
            return "channel"
        if self.name in DIAGONAL:
            return "diagonal"
        return "CNOT" if self.name == "CNOT" else "other"


@dataclass(frozen=True)
class DeviceStep:
    """A gate, delay, barrier or measurement as the device runs it.

    Attributes:
        name: its name on the device or in the head circuit, as in `DeviceNoise`.
        wires: the wires of the step.
        gates: its elementary gates.
        seconds: its duration; None to use the noise's `Timing`.
    """

    name: str
    wires: Wires
    gates: tuple[Event, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class NativeCircuit:
    """A transpiled head circuit in the device's gates, with all weights bound.

    Attributes:
        steps: the circuit's steps in order, on the device's wires. Angles depend on the head
            circuit's features.
        wires: for each task, the device's wires of its register at the measurement.
    """

    steps: tuple[DeviceStep, ...]
    wires: Mapping[str, Wires]


def head_steps(circuit: HeadCircuit, tasks: Sequence[str]) -> list[DeviceStep]:
    """Return a head circuit's steps, for these tasks together, as `device_events` takes them.

    Example:
        >>> from qmtl.tasks import Task
        >>> steps = head_steps(HeadCircuit([Task.binary("a")], wires_per_task=1), ["a"])
        >>> [step.name for step in steps][-3:]
        ['RZ', 'RY', 'measure']
    """

    def step(gate: Gate) -> DeviceStep:
        return DeviceStep(gate.name, gate.wires, (Event(gate.wires, gate.name, gate.angle),))

    steps = [step(gate) for gate in circuit.encoding_gates]
    steps += [step(gate) for task in tasks for gate in circuit.block_gates(task)]
    # Measurements are steps, because a longer measurement makes a wire's gates end earlier.
    wires = dict.fromkeys(wire for task in tasks for wire in circuit.register(task).wires)
    return [*steps, *(DeviceStep("measure", (wire,)) for wire in wires)]


def device_events(steps: Sequence[DeviceStep], noise: "DeviceNoise") -> Iterator[list[Event]]:
    """Yield each step's events: noise of idle wires before the step, gates, errors, and channels.

    Example:
        >>> gate = DeviceStep("RX", (0,), (Event((0,), "RX", Angle(constant=1.0)),))
        >>> from qmtl.noise import DeviceNoise
        >>> noise = DeviceNoise.uniform(one_qubit=0.01)
        >>> [[event.name for event in events] for events in device_events([gate], noise)]
        [['RX', 'channel']]
    """
    timing = noise.timing
    times: Iterable[Sequence[float]] = repeat((), len(steps))
    if timing is not None:
        timed = [
            (s.wires, timing.duration(s.name, s.wires) if s.seconds is None else s.seconds)
            for s in steps
        ]
        times = idle_times(timed, timing.order)
    fresh = {wire for s in steps for wire in s.wires}
    for now, waits in zip(steps, times, strict=True):
        found: list[tuple[Channel | None, Wires]] = []
        if timing is not None:
            found += [
                (timing.waiting(wire, seconds, is_fresh=wire in fresh), (wire,))
                for wire, seconds in zip(now.wires, waits, strict=True)
            ]
            if now.name == "delay":
                found.append((timing.waiting(now.wires[0], now.seconds or 0.0), now.wires))
        if now.name == "measure":
            channels = [(noise.reading(wire), (wire,)) for wire in now.wires]
            found += [(channel, on) for channel, on in channels if not channel.is_identity]
        events = [Event.of(channel, on) for channel, on in found if channel is not None]
        if now.name not in IDLE:
            fresh -= set(now.wires)
            events += [] if now.name == "measure" else _gate_events(now, noise)
        yield events


def _gate_events(now: DeviceStep, noise: "DeviceNoise") -> Iterator[Event]:
    """Yield a gate, then its coherent error and its channels."""
    error = noise.coherent_error(now.name, now.wires)
    relative = 0.0 if error is None or now.name == COMPOSED else error.relative
    for event in now.gates:
        if relative and event.angle is not None:
            constant = event.angle.constant * (1 + relative)
            yield replace(event, angle=replace(event.angle, constant=constant))
            continue
        yield event
        if relative and event.name in RIGHT_ANGLES:
            axis, angle = RIGHT_ANGLES[event.name]
            yield Event(event.wires, axis, Angle(constant=angle * relative))
    for gate in () if error is None else error.after(now.wires):
        yield Event(gate.wires, gate.name, gate.angle)
    yield from (Event.of(c, on) for c, on in noise.channels(now.name, now.wires))
