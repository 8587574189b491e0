"""Entanglers: named patterns of two-wire gates over a list of wires.

The gates of CZ patterns are ordered by edge colour (edges of one colour share no wire). So lines
and rings have depth 2 or 3 for any number of wires. CNOT gates do not commute; their patterns keep
the sequential order of PennyLane's ``BasicEntanglerLayers``.
"""

from collections.abc import Callable, Sequence

from qmtl.circuit._gates import Gate
from qmtl.errors import unknown_name

Edge = tuple[int, int]


def _sequential_line(n: int) -> list[Edge]:
    return [(i, i + 1) for i in range(n - 1)]


def _sequential_ring(n: int) -> list[Edge]:
    return _sequential_line(n) + ([(n - 1, 0)] if n > 2 else [])


def _coloured_line(n: int) -> list[Edge]:
    edges = _sequential_line(n)
    return edges[0::2] + edges[1::2]


def _coloured_ring(n: int) -> list[Edge]:
    # The closing edge has the second colour on an even ring, and a third colour on an odd ring.
    return _coloured_line(n) + ([(n - 1, 0)] if n > 2 else [])


def _coloured_complete(n: int) -> list[Edge]:
    """Return all pairs of wires by the circle method: pairs of one round share no wire."""
    seats = list(range(n)) + ([-1] if n % 2 else [])
    edges = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        edges += sorted((min(p), max(p)) for p in pairs if -1 not in p)
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return edges


ENTANGLERS: dict[str, tuple[str, Callable[[int], list[Edge]]]] = {
    "cz_ring": ("CZ", _coloured_ring),
    "cz_line": ("CZ", _coloured_line),
    "cnot_ring": ("CNOT", _sequential_ring),
    "cnot_line": ("CNOT", _sequential_line),
    "all_to_all": ("CZ", _coloured_complete),
    "none": ("CZ", lambda n: []),
}
"""Entanglers by name: a gate, and a function from the number of wires to pairs of wires."""


def entangler_edges(name: str, n: int) -> list[Edge]:
    """Return the pattern's edges on positions ``0 … n-1``, in the order of their gates.

    Raises:
        InvalidInputError: for an unknown name.
    """
    if name not in ENTANGLERS:
        raise unknown_name("entangler", name, ENTANGLERS)
    return ENTANGLERS[name][1](n)


def entangler_gates(name: str, wires: Sequence[int]) -> list[Gate]:
    """Return the pattern's gates on `wires`.

    Example:
        >>> [str(gate) for gate in entangler_gates("cnot_line", [4, 7, 8])]
        ['CNOT 4,7', 'CNOT 7,8']
    """
    edges = entangler_edges(name, len(wires))
    return [Gate(ENTANGLERS[name][0], (wires[a], wires[b])) for a, b in edges]
