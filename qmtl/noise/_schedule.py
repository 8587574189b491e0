"""Idle noise: when gates run on a device, how long wires wait, and how they relax meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.noise._channel import Channel

Order = Literal["alap", "asap"]
# Rounding errors between consecutive gates are shorter, in seconds.
NO_TIME = 1e-14


@dataclass(frozen=True)
class Relaxation:
    """How a wire relaxes.

    Args:
        t1: relaxation time, in seconds.
        t2: dephasing time, in seconds; at most 2·t1.
        excited: probability of 1 in equilibrium.

    Raises:
        InvalidInputError: for impossible times or an impossible probability.

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
        """What happens to the wire in that time."""
        return Channel.thermal_relaxation(self.t1, self.t2, seconds, self.excited)

    def scaled(self, scale: float) -> "Relaxation":
        """The same at `scale` (> 0) times the rates."""
        return Relaxation(self.t1 / scale, self.t2 / scale, self.excited)


@dataclass(frozen=True)
class Timing:
    """Durations of gates and relaxation of wires, from which the noise of waiting follows.

    The schedule is that of the whole circuit: in the partitioned layout of the encoding and every
    task's block, in the shared layout of the encoding and the task's own block. A wire relaxes
    while it waits; the gate's own channels describe what happens during the gate.

    Args:
        durations: seconds, by the gate's name or by ``(name, wires)``; 0 for gates not named.
        relaxation: of particular wires.
        others: of all other wires; None if they do not relax.
        order: ``"alap"``, every gate as late as possible, all wires read at the same time (IBM's
            default, Qiskit's `ALAPScheduleAnalysis`); or ``"asap"``, every gate as soon as
            possible, each wire read right after its last gate (Qiskit's `ASAPScheduleAnalysis` for
            measurements without a barrier).

    Raises:
        InvalidInputError: for a negative duration or an unknown order.

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
        for gate, seconds in self.durations.items():
            if not 0 <= seconds < float("inf"):
                raise InvalidInputError(
                    f"durations must be seconds, not negative, got {seconds} for {gate}"
                )

    def duration(self, name: str, wires: tuple[int, ...]) -> float:
        """Seconds that a gate takes; those of a pair of wires hold in either order."""
        for key in ((name, wires), (name, wires[::-1]), name):
            if key in self.durations:
                return self.durations[key]
        return 0.0

    def waiting(self, wire: int, seconds: float, *, is_fresh: bool = False) -> Channel | None:
        """The channel of a wire that waits; None if nothing happens to it.

        Args:
            wire: which.
            seconds: how long.
            is_fresh: whether no gate has touched the wire yet, so that it is still 0.
        """
        found = self.relaxation.get(wire, self.others)
        if found is None or seconds < NO_TIME or (is_fresh and found.excited == 0):
            return None
        return found.during(seconds)

    def scaled(self, scale: float) -> "Timing":
        """The same schedule with `scale` times the rates of relaxation."""
        return Timing(
            self.durations,
            {w: r.scaled(scale) for w, r in self.relaxation.items()} if scale else {},
            None if self.others is None or not scale else self.others.scaled(scale),
            self.order,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        return {
            "durations": [
                {"name": key, "seconds": seconds}
                if isinstance(key, str)
                else {"name": key[0], "wires": list(key[1]), "seconds": seconds}
                for key, seconds in self.durations.items()
            ],
            "relaxation": {str(wire): _numbers(r) for wire, r in self.relaxation.items()},
            "others": None if self.others is None else _numbers(self.others),
            "order": self.order,
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The timing that `to_dict` described.

        Example:
            >>> timing = Timing({"CZ": 1e-7, ("RY", (3,)): 5e-8}, {3: Relaxation(1e-4, 1e-4)})
            >>> Timing.from_dict(timing.to_dict()) == timing
            True
        """
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
    """How long each wire of each step has waited since the step before it on that wire.

    Args:
        steps: wires and seconds of each, in the order of application.
        order: see `Timing`. The first step on a wire waits since the beginning of the circuit.

    Example:
        >>> steps = [((0,), 1.0), ((1,), 2.0), ((0, 1), 1.0)]
        >>> idle_times(steps, "asap"), idle_times(steps, "alap")
        ([(0.0,), (0.0,), (1.0, 0.0)], [(1.0,), (0.0,), (0.0, 0.0)])
    """
    starts = _earliest(steps)
    if order == "alap":
        backwards = _earliest(steps[::-1])[::-1]
        pairs = zip(backwards, steps, strict=True)
        ends = [start + seconds for start, (_, seconds) in pairs]
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


def _numbers(relaxation: Relaxation) -> list[float]:
    return [relaxation.t1, relaxation.t2, relaxation.excited]
