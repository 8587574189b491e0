"""The events on a noisy device, in order: gates, channels and waiting.

A step is one instruction of the device, with the elementary gates that it consists of; noise and
durations are looked up by its name. Head circuits and transpiled circuits share this code.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from math import pi

from qmtl.circuit import DIAGONAL_GATES, Angle, Gate, HeadCircuit, Kind
from qmtl.noise._channel import Channel
from qmtl.noise._device import DeviceNoise
from qmtl.noise._schedule import idle_times

CHANNEL = "channel"
"""Name of an event that is a channel which only shrinks expectation values."""
DAMPING = "damping"
"""Name of an event that is a channel which also shifts ⟨Z⟩, such as amplitude damping."""
# Names of steps that take time but do nothing else.
IDLE = frozenset({"barrier", "delay"})
DIAGONAL = DIAGONAL_GATES | {"Z", "S", "Sdg"}
# A native gate made of several elementary ones: a relative error of its angle is undefined.
COMPOSED = "ecr"
RIGHT_ANGLES = {
    "X": ("RX", pi),
    "Z": ("RZ", pi),
    "SX": ("RX", pi / 2),
    "SXdg": ("RX", -pi / 2),
    "S": ("RZ", pi / 2),
    "Sdg": ("RZ", -pi / 2),
}
Wires = tuple[int, ...]


@dataclass(frozen=True)
class Event:
    """A gate or a noise channel.

    Attributes:
        wires: the wires that it acts on.
        name: name of the gate, as in `qmtl.circuit.Gate` or one of ``"X"``, ``"Z"``, ``"S"``,
            ``"Sdg"``, ``"SX"``, ``"SXdg"``; for a channel `CHANNEL`, or `DAMPING` if it damps.
        angle: angle of a rotation.
        channel: the channel; None for a gate.
    """

    wires: Wires
    name: str
    angle: Angle | None = None
    channel: Channel | None = None

    @classmethod
    def of(cls, channel: Channel, wires: Wires) -> "Event":
        """The event of a channel on these wires."""
        return cls(wires, DAMPING if channel.shift else CHANNEL, channel=channel)

    @property
    def kind(self) -> Kind:
        """Its commutation class: diagonal, CNOT, or other."""
        if self.channel is not None:
            return "channel"
        if self.name in DIAGONAL:
            return "diagonal"
        return "CNOT" if self.name == "CNOT" else "other"


@dataclass(frozen=True)
class DeviceStep:
    """A gate, delay, barrier or measurement as the device runs it.

    Attributes:
        name: name of the gate on the device (or in the head circuit).
        wires: the wires that it acts on.
        gates: the elementary gates that it consists of.
        seconds: its duration; None to look it up in the noise.
    """

    name: str
    wires: Wires
    gates: tuple[Event, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class NativeCircuit:
    """A transpiled head circuit in the device's gates, with all weights bound.

    Attributes:
        steps: gates, delays, barriers and measurements, in the order of application, on the
            device's wires. Angles depend on the head circuit's features.
        wires: for each task, the device's wires on which its register is read.
    """

    steps: tuple[DeviceStep, ...]
    wires: Mapping[str, Wires]


def head_steps(circuit: HeadCircuit, tasks: Sequence[str]) -> list[DeviceStep]:
    """The steps of a head circuit when these tasks run together, as `device_events` takes them.

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
    # A wire with a longer readout must finish its gates earlier.
    wires = dict.fromkeys(wire for task in tasks for wire in circuit.register(task).wires)
    return [*steps, *(DeviceStep("measure", (wire,)) for wire in wires)]


def device_events(steps: Sequence[DeviceStep], noise: DeviceNoise) -> Iterator[list[Event]]:
    """The events of each step: waiting before it, its gates, their coherent errors and channels.

    Example:
        >>> gate = DeviceStep("RX", (0,), (Event((0,), "RX", Angle(constant=1.0)),))
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


def _gate_events(now: DeviceStep, noise: DeviceNoise) -> Iterator[Event]:
    """A gate followed by its coherent error and its channels."""
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
