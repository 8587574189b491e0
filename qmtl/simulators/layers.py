"""Layers: a cone's gates sorted into alternating layers of one-wire and of diagonal gates.

A CNOT is a CZ between two Hadamards, so that a layer of diagonal gates becomes one vector of
phases.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from qmtl.circuit.gates import Angle, Gate

__all__ = ["Layer", "Op", "sort_into_layers"]


@dataclass(frozen=True)
class Op:
    """One gate of a layer on local wires; `slot` is its column in the group's table of angles."""

    name: str
    wires: tuple[int, ...]
    slot: int | None


@dataclass(frozen=True)
class Layer:
    """Gates that run together: diagonal ones as one phase vector, or one-wire ones per wire."""

    diagonal: bool
    ops: tuple[Op, ...]


def sort_into_layers(
    gates: Iterable[Gate], local: dict[int, int]
) -> tuple[list[Layer], list[Angle]]:
    """Sort gates into layers, one-wire ones at even levels and diagonal ones at odd levels."""
    level = dict.fromkeys(local, 0)
    levels: dict[int, list[Gate]] = {}
    for gate in _without_cnots(gates):
        parity = 1 if gate.is_diagonal else 0
        place = max(level[w] + (level[w] % 2 != parity) for w in gate.wires)
        levels.setdefault(place, []).append(gate)
        for w in gate.wires:
            level[w] = place
    layers: list[Layer] = []
    angles: list[Angle] = []
    for place in sorted(levels):
        ops = []
        # Gates of a layer on different wires commute; sorting them makes equal cones look equal.
        for gate in sorted(levels[place], key=lambda g: _sort_key(g, local)):
            wires = tuple(local[w] for w in gate.wires)
            wires = tuple(sorted(wires)) if gate.is_diagonal else wires
            ops.append(Op(gate.name, wires, None if gate.angle is None else len(angles)))
            if gate.angle is not None:
                angles.append(gate.angle)
        layers.append(Layer(diagonal=place % 2 == 1, ops=tuple(ops)))
    return layers, angles


def _without_cnots(gates: Iterable[Gate]) -> list[Gate]:
    expanded = []
    for gate in gates:
        if gate.name == "CNOT":
            flip = Gate("Hadamard", (gate.wires[1],))
            expanded += [flip, Gate("CZ", gate.wires), flip]
        else:
            expanded.append(gate)
    return expanded


def _sort_key(gate: Gate, local: dict[int, int]) -> tuple[object, ...]:
    wires = tuple(sorted(local[w] for w in gate.wires))
    # One-wire gates on one wire do not commute: the sort is stable and must not see their names.
    return (wires, gate.name) if gate.is_diagonal else (wires,)
