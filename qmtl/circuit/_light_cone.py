"""Backward light cones: which gates and wires a measurement depends on.

The walk goes backwards from a measured operator. It drops a gate that commutes with the operator as
evolved so far. Two rules suffice. A gate off the operator's support commutes. So does a diagonal
gate that meets the support only on wires where the operator commutes with Z (called flat here). By
the second rule a ring of CZs is one step instead of a chain: a wire that a CZ adds to the support
is flat, so the next CZ on that wire can be dropped.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qmtl.circuit._gates import Gate, Kind


class Item(Protocol):
    """What a backward walk needs to know of a gate or a noise channel."""

    @property
    def wires(self) -> tuple[int, ...]:
        """The wires that the gate or channel acts on."""

    @property
    def kind(self) -> Kind:
        """The commutation class: diagonal, CNOT, or other."""


@dataclass(frozen=True)
class LightCone:
    """The part of a circuit that a measurement depends on.

    Attributes:
        wires: wires of the cone, ascending.
        encoding: gates of the shared encoding that lie in the cone, in the order of application.
        block: gates of the task's block that lie in the cone, in the order of application.
        growth: ``(gate, cone size)`` for each gate that added a wire; the circuit's last gate comes
            first.
        positions: indices of the cone's encoding gates among all encoding gates.
    """

    wires: tuple[int, ...]
    encoding: tuple[Gate, ...]
    block: tuple[Gate, ...]
    growth: tuple[tuple[Gate, int], ...]
    positions: tuple[int, ...] = ()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All gates of the cone, in the order of application."""
        return self.encoding + self.block


def gates_by_wire(gates: Sequence[Item]) -> dict[int, list[int]]:
    """Return the indices of the gates on each wire, ascending.

    A `Walk` needs them; walks through the same gates can share them.

    Example:
        >>> gates_by_wire([Gate("Hadamard", (0,)), Gate("CZ", (0, 1))])
        {0: [0, 1], 1: [1]}
    """
    index: dict[int, list[int]] = {}
    for position, gate in enumerate(gates):
        for wire in gate.wires:
            index.setdefault(wire, []).append(position)
    return index


class Walk:
    """Moves an operator backwards through a circuit, and tracks which wires it acts on.

    Noise channels are diagonal in the Pauli basis, or turn a Z into the identity. A channel that
    meets the support is kept; it adds no wire, and flat wires stay flat.

    Args:
        measured: wires of the measured operator.
        diagonal: whether the operator is diagonal in the Z basis; if not, no wire is flat at first.
        commuting: whether to drop gates that commute with the operator; if not, only gates off its
            support are dropped (for unknown noise).

    Attributes:
        support: wires that the operator acts on.
        flat: wires on which the operator commutes with Z.
        growth: ``(gate, size of the support)`` for each gate that added a wire.

    Example:
        >>> gates = [Gate("Hadamard", (0,)), Gate("CZ", (0, 1)), Gate("CZ", (1, 2))]
        >>> walk = Walk([1])  # Z on wire 1 commutes with both CZs
        >>> walk.back_through(gates, gates_by_wire(gates)), walk.support
        ((), {1})
        >>> walk = Walk([1], diagonal=False)
        >>> walk.back_through(gates, gates_by_wire(gates)), walk.support
        ((0, 1, 2), {0, 1, 2})
    """

    def __init__(
        self, measured: Iterable[int], *, diagonal: bool = True, commuting: bool = True
    ) -> None:
        self.support = set(measured)
        self.flat = set(self.support) if diagonal and commuting else set()
        self.growth: list[tuple[Any, int]] = []
        self._commuting = commuting

    def _commutes(self, item: Item) -> bool:
        meets = self.support.intersection(item.wires)
        if not meets or item.kind == "channel":
            return not meets
        if not meets <= self.flat:
            return False
        return item.kind == "diagonal" or (item.kind == "CNOT" and item.wires[1] not in meets)

    def _absorb(self, item: Item) -> set[int]:
        if item.kind == "channel":
            return set()
        added = set(item.wires) - self.support
        self.support |= added
        if self._commuting:
            self.flat |= added
            if item.kind == "other":
                self.flat.difference_update(item.wires)
            elif item.kind == "CNOT" and not self.flat.issuperset(item.wires):
                self.flat.discard(item.wires[1])
        if added:
            self.growth.append((item, len(self.support)))
        return added

    def back_through(
        self, items: Sequence[Item], by_wire: Mapping[int, Sequence[int]]
    ) -> tuple[int, ...]:
        """Move the operator to before these items; return the indices of those to keep, ascending.

        Args:
            items: gates and channels in the order of application.
            by_wire: `gates_by_wire` of the items.
        """
        # Only gates on the support are visited, so that the cost is that of the cone, not the
        # circuit.
        queue = [-position for wire in self.support for position in by_wire.get(wire, ())]
        heapq.heapify(queue)
        kept: list[int] = []
        previous = None
        while queue:
            position = -heapq.heappop(queue)
            if position == previous:
                continue
            previous = position
            if self._commutes(items[position]):
                continue
            kept.append(position)
            for wire in self._absorb(items[position]):
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
    """Return the light cone of the wires `measured` after `encoding` and then `block`.

    Args:
        encoding: gates of the shared encoding, in the order of application.
        block: gates that follow it.
        measured: wires of the measured operator.
        diagonal: whether the operator is diagonal in the Z basis (any Z-string, any basis-state
            probability); if not, it may be anything on those wires.
        encoding_by_wire: `gates_by_wire` of the encoding, to share between many cones.

    Example:
        >>> from qmtl.circuit import AngleEncoding
        >>> gates = AngleEncoding(n_layers=2).gates(100)
        >>> backward_cone(gates, [], [50, 51], diagonal=False).wires
        (48, 49, 50, 51, 52, 53)
    """
    walk = Walk(measured, diagonal=diagonal)
    kept_block = [block[i] for i in walk.back_through(block, gates_by_wire(block))]
    index = gates_by_wire(encoding) if encoding_by_wire is None else encoding_by_wire
    positions = walk.back_through(encoding, index)
    kept = tuple(encoding[i] for i in positions)
    wires, growth = tuple(sorted(walk.support)), tuple(walk.growth)
    return LightCone(wires, kept, tuple(kept_block), growth, positions)
