"""Backward light cones: which gates and wires a measurement depends on.

Walking backwards from a measured operator, a gate can be dropped if it commutes with the operator
as evolved so far. Two rules suffice: a gate off the operator's support commutes; and so does a
diagonal gate that meets the support only on wires where the operator commutes with Z (called flat
here). The second rule makes a ring of CZs one step instead of a chain: a wire that a CZ adds to
the support is flat, so the next CZ on that wire has nothing to act on.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qmtl.circuit.gates import Gate

__all__ = ["LightCone", "backward_cone", "gates_by_wire"]


@dataclass(frozen=True)
class LightCone:
    """The part of a circuit that a measurement depends on.

    Attributes:
        wires: wires of the cone, ascending.
        encoding: gates of the shared encoding that matter, in the order of application.
        block: gates of the task's block that matter, in the order of application.
        growth: ``(gate, cone size)`` for each gate that added a wire, last gate of the circuit
            first.
    """

    wires: tuple[int, ...]
    encoding: tuple[Gate, ...]
    block: tuple[Gate, ...]
    growth: tuple[tuple[Gate, int], ...]

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All gates that matter, in the order of application."""
        return self.encoding + self.block


def gates_by_wire(gates: Sequence[Gate]) -> dict[int, list[int]]:
    """Positions of the gates on each wire, ascending."""
    index: dict[int, list[int]] = {}
    for position, gate in enumerate(gates):
        for wire in gate.wires:
            index.setdefault(wire, []).append(position)
    return index


class _Walk:
    """An operator's support and flat wires while it is taken backwards through gates."""

    def __init__(self, measured: Iterable[int], *, diagonal: bool) -> None:
        self.support = set(measured)
        self.flat = set(self.support) if diagonal else set()
        self.growth: list[tuple[Gate, int]] = []

    def _commutes(self, gate: Gate) -> bool:
        meets = self.support.intersection(gate.wires)
        if not meets <= self.flat:
            return False
        return not meets or gate.is_diagonal or (gate.name == "CNOT" and gate.wires[1] not in meets)

    def _absorb(self, gate: Gate) -> set[int]:
        added = set(gate.wires) - self.support
        self.support |= added
        flat = self.flat | added
        if gate.is_diagonal or (gate.name == "CNOT" and flat.issuperset(gate.wires)):
            self.flat = flat
        elif gate.name == "CNOT":
            self.flat = flat - {gate.wires[1]}
        else:
            self.flat = flat - set(gate.wires)
        if added:
            self.growth.append((gate, len(self.support)))
        return added

    def back_through(
        self, gates: Sequence[Gate], by_wire: Mapping[int, Sequence[int]]
    ) -> tuple[Gate, ...]:
        """Take the operator to before `gates`; the gates that matter, in order of application."""
        # Only gates on the support are looked at, so that a cone costs what it holds.
        queue = [-position for wire in self.support for position in by_wire.get(wire, ())]
        heapq.heapify(queue)
        kept: list[Gate] = []
        previous = None
        while queue:
            position = -heapq.heappop(queue)
            if position == previous:
                continue
            previous = position
            gate = gates[position]
            if self._commutes(gate):
                continue
            kept.append(gate)
            for wire in self._absorb(gate):
                for earlier in by_wire[wire]:
                    if earlier < position:
                        heapq.heappush(queue, -earlier)
        return tuple(reversed(kept))


def backward_cone(
    encoding: Sequence[Gate],
    block: Sequence[Gate],
    measured: Iterable[int],
    *,
    diagonal: bool = True,
    encoding_by_wire: Mapping[int, Sequence[int]] | None = None,
) -> LightCone:
    """Light cone of an operator on the wires `measured` after `encoding` and then `block`.

    Args:
        encoding: gates of the shared encoding, in the order of application.
        block: gates that follow it.
        measured: wires of the operator.
        diagonal: whether the operator is diagonal in the Z basis (any Z-string, any basis-state
            probability); if not, it may be anything on those wires.
        encoding_by_wire: `gates_by_wire` of the encoding, to share between many cones.

    Example:
        >>> from qmtl.circuit.encodings import AngleEncoding
        >>> gates = AngleEncoding(n_layers=2).gates(100)
        >>> backward_cone(gates, [], [50, 51], diagonal=False).wires
        (48, 49, 50, 51, 52, 53)
    """
    walk = _Walk(measured, diagonal=diagonal)
    kept_block = walk.back_through(block, gates_by_wire(block))
    index = gates_by_wire(encoding) if encoding_by_wire is None else encoding_by_wire
    kept_encoding = walk.back_through(encoding, index)
    return LightCone(tuple(sorted(walk.support)), kept_encoding, kept_block, tuple(walk.growth))
