from itertools import combinations

import pytest

from qmtl.circuit import ENTANGLERS, entangler_gates
from qmtl.circuit._entanglers import entangler_edges
from qmtl.errors import InvalidInputError


def depth(edges, n):
    level = [0] * n
    for a, b in edges:
        level[a] = level[b] = max(level[a], level[b]) + 1
    return max(level)


def unordered(edges):
    return sorted(tuple(sorted(edge)) for edge in edges)


CZ_RING = {
    1: [],
    2: [(0, 1)],
    3: [(0, 1), (1, 2), (2, 0)],
    4: [(0, 1), (2, 3), (1, 2), (3, 0)],
    5: [(0, 1), (2, 3), (1, 2), (3, 4), (4, 0)],
    6: [(0, 1), (2, 3), (4, 5), (1, 2), (3, 4), (5, 0)],
    7: [(0, 1), (2, 3), (4, 5), (1, 2), (3, 4), (5, 6), (6, 0)],
    8: [(0, 1), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6), (7, 0)],
    9: [(0, 1), (2, 3), (4, 5), (6, 7), (1, 2), (3, 4), (5, 6), (7, 8), (8, 0)],
}


@pytest.mark.parametrize("n", CZ_RING)
def test_cz_ring_is_in_edge_colour_order(n):
    edges = entangler_edges("cz_ring", n)
    assert edges == CZ_RING[n]
    assert depth(edges, n) == {1: 0, 2: 1}.get(n, 2 + n % 2)


@pytest.mark.parametrize("n", range(1, 10))
def test_cz_line_is_the_ring_without_its_closing_edge(n):
    edges = entangler_edges("cz_line", n)
    assert edges == [edge for edge in CZ_RING[n] if edge != (n - 1, 0)]
    assert depth(edges, n) == min(n - 1, 2)


@pytest.mark.parametrize("n", range(1, 10))
def test_all_to_all_has_every_pair_once_in_few_rounds(n):
    edges = entangler_edges("all_to_all", n)
    assert unordered(edges) == sorted(combinations(range(n), 2))
    assert depth(edges, n) == (n - 1 if n % 2 == 0 or n == 1 else n)


@pytest.mark.parametrize("n", range(1, 10))
def test_cnot_patterns_are_sequential(n):
    line = [(i, i + 1) for i in range(n - 1)]
    assert entangler_edges("cnot_line", n) == line
    assert entangler_edges("cnot_ring", n) == line + ([(n - 1, 0)] if n > 2 else [])
    assert depth(line, n) == n - 1


@pytest.mark.parametrize("name", ENTANGLERS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_gates_are_the_edges_on_the_given_wires(name, n):
    wires = [3 * i + 7 for i in range(n)]
    gates = entangler_gates(name, wires)
    assert [g.wires for g in gates] == [(wires[a], wires[b]) for a, b in entangler_edges(name, n)]
    assert {g.name for g in gates} <= {"CNOT" if name.startswith("cnot") else "CZ"}


def test_none_has_no_gates():
    assert entangler_edges("none", 9) == []


def test_unknown_name():
    with pytest.raises(
        InvalidInputError, match="unknown entangler 'cz_rng'; did you mean 'cz_ring'"
    ):
        entangler_edges("cz_rng", 3)
