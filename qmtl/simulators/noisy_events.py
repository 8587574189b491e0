"""What happens on a noisy device: gates, channels and waiting, one event after the other.

A step is a gate as the device runs it, with what it is made of here; noise and durations are looked
up by its name. Head circuits and circuits in a device's own gates share all this.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import pi

from qmtl.circuit.gates import Angle, Gate
from qmtl.noise import Channel, DeviceNoise, Timing
from qmtl.noise.schedule import idle_times

__all__ = [
    "Event",
    "EventsByWire",
    "Step",
    "gate_events",
    "met",
    "readings",
    "step",
    "waiting",
]

# Names of steps that leave their wires alone, but for time.
IDLE = frozenset({"barrier", "delay"})
# Gates that are made of several here, and have no angle of their own.
COMPOSED = frozenset({"CNOT", "cx", "ecr", "h"})
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
    """A gate, or a channel.

    Attributes:
        wires: where.
        name: of the gate, as in `qmtl.circuit.gates` or `qmtl.simulators.pauli.strings`; empty for
            a channel.
        angle: of a rotation.
        channel: None for a gate.
    """

    wires: Wires
    name: str = ""
    angle: Angle | None = None
    channel: Channel | None = None


@dataclass(frozen=True)
class Step:
    """A gate as the device runs it.

    Attributes:
        name: the device's (or the head circuit's) name for it.
        wires: where.
        gates: what it does.
        seconds: how long it takes; None to look it up in the noise.
    """

    name: str
    wires: Wires
    gates: tuple[Event, ...] = ()
    seconds: float | None = None


def step(gate: Gate) -> Step:
    """A head circuit's gate as one step."""
    if gate.name != "CNOT":
        return Step(gate.name, gate.wires, (Event(gate.wires, gate.name, gate.angle),))
    flip = Event(gate.wires[1:], "Hadamard")
    return Step(gate.name, gate.wires, (flip, Event(gate.wires, "CZ"), flip))


def waiting(steps: Sequence[Step], timing: Timing | None) -> list[list[Event]]:
    """For each step, the channels of its wires' waiting before it."""
    if timing is None:
        return [[] for _ in steps]
    timed = [
        (s.wires, timing.duration(s.name, s.wires) if s.seconds is None else s.seconds)
        for s in steps
    ]
    fresh: set[int] = {wire for s in steps for wire in s.wires}
    found: list[list[Event]] = []
    for now, times in zip(steps, idle_times(timed, timing.order), strict=True):
        channels = [
            (wire, timing.waiting(wire, seconds, is_fresh=wire in fresh))
            for wire, seconds in zip(now.wires, times, strict=True)
        ]
        found.append([Event((wire,), channel=c) for wire, c in channels if c is not None])
        fresh -= set() if now.name in IDLE else set(now.wires)
    return found


def gate_events(now: Step, noise: DeviceNoise, waited: Iterable[Event]) -> Iterator[Event]:
    """Waiting, the gate, its coherent error, and its channels."""
    yield from waited
    error = noise.coherent_error(now.name, now.wires)
    relative = 0.0 if error is None or now.name in COMPOSED else error.relative
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
    yield from (Event(on, channel=c) for c, on in noise.channels(now.name, now.wires))


def readings(wires: Iterable[int], noise: DeviceNoise) -> list[Event]:
    """The read-out errors of these wires."""
    found = [Event((wire,), channel=noise.reading(wire)) for wire in wires]
    return [event for event in found if event.channel and not event.channel.is_identity]


def met(events: Sequence[Event], support: set[int]) -> list[Event]:
    """The events that an operator on `support` meets; the support grows by their wires."""
    return [event for event in reversed(events) if _meets(event, support)][::-1]


def _meets(event: Event, support: set[int]) -> bool:
    if support.isdisjoint(event.wires):
        return False
    if event.channel is None:
        support.update(event.wires)
    return True


class EventsByWire:
    """Events in their order, in which a small support is followed at the cost of what it meets.

    Args:
        events: all of them.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self._by_wire: dict[int, list[int]] = {}
        for position, event in enumerate(events):
            for wire in event.wires:
                self._by_wire.setdefault(wire, []).append(position)

    def met(self, support: set[int]) -> list[Event]:
        """As the function `met`."""
        queue = [-position for wire in support for position in self._by_wire.get(wire, ())]
        heapq.heapify(queue)
        kept: list[Event] = []
        previous = None
        while queue:
            position = -heapq.heappop(queue)
            if position == previous:
                continue
            previous = position
            event = self.events[position]
            added = set(event.wires) - support
            _meets(event, support)
            kept.append(event)
            for wire in added & support:
                for earlier in self._by_wire[wire]:
                    if earlier < position:
                        heapq.heappush(queue, -earlier)
        return kept[::-1]
