"""Backward light cones: the gates and wires that a measurement depends on.

A `Walk` moves a measured operator backwards through the circuit, and drops gates that commute with
the operator. Two rules find such gates. A gate outside the operator's support commutes. A diagonal
gate also commutes if it meets the support only on *flat* wires, where the operator commutes with Z.
By the second rule a ring of CZs is one step instead of a chain: a wire that a CZ adds to the
support is flat, so the walk drops the next CZ on that wire.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qmtl.circuit._gates import Gate, Kind


class Item(Protocol):
    """The attributes of a gate or noise channel that a backward walk needs."""

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
        growth: ``(gate, cone size)`` for each gate that added a wire, from the circuit's end.
        positions: indices of the cone's encoding gates among all encoding gates.
        block_positions: indices of the cone's block gates among all gates of the block.
    """

    wires: tuple[int, ...]
    encoding: tuple[Gate, ...]
    block: tuple[Gate, ...]
    growth: tuple[tuple[Gate, int], ...]
    positions: tuple[int, ...] = ()
    block_positions: tuple[int, ...] = ()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All gates of the cone, in the order of application."""
        return self.encoding + self.block


def gates_by_wire(gates: Sequence[Item]) -> dict[int, list[int]]:
    """Return the indices of the gates on each wire, ascending.

    Walks through the same gates can share the result.

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
    """Moves an operator backwards through a circuit, and tracks the wires that it acts on.

    Noise channels are diagonal in the Pauli basis, or turn a Z into the identity. The walk keeps a
    channel that meets the support; a channel adds no wire, and flat wires stay flat.

    Args:
        measured: wires of the measured operator.
        diagonal: whether the operator is diagonal in the Z basis; if not, no wire is flat at first.
        commuting: whether to drop all gates that commute with the operator; if not, the walk only
            drops gates outside the support (for unknown noise).

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
        """Move the operator backwards through items; return the indices of kept items, ascending.

        Args:
            items: gates and channels in the order of application.
            by_wire: `gates_by_wire` of the items.
        """
        # The walk only visits gates on the support: its cost depends on the cone, not the circuit.
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
        diagonal: whether the operator is diagonal in the Z basis (as Z-strings and basis-state
            probabilities are); if not, the cone is that of any operator on those wires.
        encoding_by_wire: `gates_by_wire` of the encoding, which many cones can share.

    Example:
        >>> from qmtl.circuit import AngleEncoding
        >>> gates = AngleEncoding(n_layers=2).gates(100)
        >>> backward_cone(gates, [], [50, 51], diagonal=False).wires
        (48, 49, 50, 51, 52, 53)
    """
    walk = Walk(measured, diagonal=diagonal)
    in_block = walk.back_through(block, gates_by_wire(block))
    index = gates_by_wire(encoding) if encoding_by_wire is None else encoding_by_wire
    positions = walk.back_through(encoding, index)
    kept, kept_block = tuple(encoding[i] for i in positions), tuple(block[i] for i in in_block)
    wires, growth = tuple(sorted(walk.support)), tuple(walk.growth)
    return LightCone(wires, kept, kept_block, growth, positions, in_block)
