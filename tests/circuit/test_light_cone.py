from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import (
    Angle,
    AngleEncoding,
    ExpectationZ,
    Gate,
    HeadCircuit,
    IdentityAnsatz,
    RotationAnsatz,
    backward_cone,
)
from tests.laws import dense_outputs, dense_state, features_of, marginal, reduced_density_matrix
from tests.strategies import binary_tasks, cases, gate_lists


def H(w):  # noqa: N802
    return Gate("Hadamard", (w,))


def X(w):  # noqa: N802
    return Gate("RX", (w,), Angle(constant=0.4))


def Y(w):  # noqa: N802
    return Gate("RY", (w,), Angle(constant=0.4))


def rz(w):
    return Gate("RZ", (w,), Angle(constant=0.4))


def zz(a, b):
    return Gate("IsingZZ", (a, b), Angle(constant=0.4))


def cz(a, b):
    return Gate("CZ", (a, b))


def cnot(a, b):
    return Gate("CNOT", (a, b))


# --- by brute force ----------------------------------------------------------------------------


def changed(gate):
    """The gate turned further if it turns, else None: it is left out."""
    if gate.angle is None:
        return []
    return [gate, Gate(gate.name, gate.wires, Angle(constant=1.234))]


@given(
    st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), gate_lists(n, max_gates=16))),
    st.data(),
)
def test_gates_outside_the_cone_of_any_circuit_change_nothing(drawn, data):
    n, gates = drawn
    gates = [replace(gate) for gate in gates]  # distinct objects: equal gates are told apart by id
    cut = data.draw(st.integers(0, len(gates)))
    measured = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3, unique=True))
    diagonal = data.draw(st.booleans())
    look = marginal if diagonal else reduced_density_matrix
    cone = backward_cone(gates[:cut], gates[cut:], measured, diagonal=diagonal)
    inside = {id(gate) for gate in cone.gates}
    assert {w for gate in cone.gates for w in gate.wires} | set(measured) == set(cone.wires)
    expected = look(dense_state(gates, n), measured)
    alone = look(dense_state(cone.gates, n), measured)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-12)
    for i, gate in enumerate(gates):
        if id(gate) not in inside:
            other = gates[:i] + changed(gate) + gates[i + 1 :]
            np.testing.assert_allclose(
                look(dense_state(other, n), measured), expected, rtol=0, atol=1e-12
            )


@given(cases(max_wires=7, max_batch=1))
def test_gates_and_features_outside_a_tasks_cone_change_nothing(case):
    circuit = case.circuit
    row, weights = case.angles()[0].tolist(), case.weights()
    for name in list(circuit.registers)[:2]:
        register = circuit.register(name)
        encoding = [replace(g) for g in circuit.encoding_gates]
        block = [replace(g) for g in circuit.block_gates(name)]
        read = [register.wires[i] for i in register.readout.read_wires(len(register.wires))]
        cone = backward_cone(encoding, block, read)
        assert cone == circuit.light_cone(name)
        expected = dense_outputs(circuit, name, row, weights, encoding + block)
        inside = {id(gate) for gate in cone.gates}
        gates = encoding + block
        for i, gate in enumerate(gates):
            if id(gate) not in inside:
                other = gates[:i] + changed(gate) + gates[i + 1 :]
                outputs = dense_outputs(circuit, name, row, weights, other)
                np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
        outside = set(range(circuit.n_features)) - features_of(cone.gates)
        moved = [x + 0.7 if f in outside else x for f, x in enumerate(row)]
        outputs = dense_outputs(circuit, name, moved, weights)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_ring_of_czs_adds_two_wires_per_layer(n_layers, k):
    n = 1024
    gates = AngleEncoding(n_layers=n_layers).gates(n)
    for first in (0, 500, n - 1):
        measured = [(first + i) % n for i in range(k)]
        cone = backward_cone(gates, [], measured, diagonal=False)
        wires = [(first + i) % n for i in range(-n_layers, k + n_layers)]
        assert cone.wires == tuple(sorted(wires))
        assert cone.growth[-1][1] == k + 2 * n_layers


def test_default_head_has_cones_of_six_wires():
    circuit = HeadCircuit(binary_tasks(512))
    assert circuit.n_wires == 1024
    for name in ("t0", "t255", "t511"):
        cone = circuit.light_cone(name)
        first = circuit.register(name).wires[0]
        assert cone.wires == tuple(sorted((first + i) % 1024 for i in range(-2, 4)))
    # Inwards the cone narrows: the second layer turns k + 2 wires only.
    second = [g for g in circuit.light_cone("t255").encoding if g.name == "RY"][6:]
    assert [g.wires[0] for g in second] == [509, 510, 511, 512]


def test_line_is_cut_at_its_ends():
    circuit = HeadCircuit(binary_tasks(8), AngleEncoding(entangler="cz_line"))
    sizes = [len(circuit.light_cone(name).wires) for name in circuit.registers]
    assert sizes == [4, 6, 6, 6, 6, 6, 6, 4]


@pytest.mark.parametrize("entangler", ["cnot_ring", "all_to_all"])
def test_all_wires(entangler):
    circuit = HeadCircuit(binary_tasks(6), AngleEncoding(entangler=entangler))
    assert all(len(circuit.light_cone(name).wires) == 12 for name in circuit.registers)


def test_no_entangler_leaves_the_register():
    circuit = HeadCircuit(binary_tasks(5), AngleEncoding(entangler="none"))
    assert [circuit.light_cone(n).wires for n in circuit.registers] == [
        register.wires for register in circuit.registers.values()
    ]


# --- the rules, by hand ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gates", "measured", "diagonal", "kept"),
    [
        # A diagonal operator commutes with diagonal gates; any operator does not.
        ([rz(0)], [0], True, []),
        ([rz(0)], [0], False, [0]),
        ([cz(0, 1)], [0], True, []),
        ([cz(0, 1)], [0], False, [0]),
        ([zz(0, 1)], [0, 1], True, []),
        # Gates off the support commute.
        ([X(1), H(2), cz(1, 2)], [0], False, []),
        # A rotation ends flatness: gates before it matter.
        ([rz(0), X(0)], [0], True, [0, 1]),
        ([cz(0, 1), Y(0)], [0], True, [0, 1]),
        ([cz(0, 1), H(0)], [0], True, [0, 1]),
        # A wire that a CZ adds is flat: the next CZ on it, seen backwards, does nothing.
        ([cz(1, 2), cz(0, 1), Y(0)], [0], True, [1, 2]),
        ([rz(1), cz(0, 1), Y(0)], [0], True, [1, 2]),
        ([X(1), cz(0, 1), Y(0)], [0], True, [0, 1, 2]),
        ([cz(1, 2), X(1), cz(0, 1), Y(0)], [0], True, [0, 1, 2, 3]),
        # CNOT: Z on the control commutes, Z on the target spreads to Z Z, which stays flat.
        ([cnot(0, 1)], [0], True, []),
        ([cnot(0, 1)], [1], True, [0]),
        ([rz(0), cnot(0, 1)], [1], True, [1]),
        ([cnot(0, 1), cnot(1, 2)], [2], True, [0, 1]),
        ([cnot(0, 1)], [0], False, [0]),
        # A flat control does not make a target flat that was not.
        ([rz(1), cnot(0, 1), X(1)], [0, 1], True, [0, 1, 2]),
        ([rz(0), cnot(0, 1), X(1)], [1], True, [1, 2]),
    ],
)  # fmt: skip
def test_rules(gates, measured, diagonal, kept):
    cone = backward_cone(gates, [], measured, diagonal=diagonal)
    assert cone.encoding == tuple(gates[i] for i in kept)
    assert cone.block == ()
    wires = {w for i in kept for w in gates[i].wires} | set(measured)
    assert cone.wires == tuple(sorted(wires))


def test_the_split_into_encoding_and_block_does_not_matter():
    gates = [Y(0), Y(1), cz(0, 1), rz(0), Y(0), cz(0, 1)]
    whole = backward_cone(gates, [], [0])
    for cut in range(len(gates) + 1):
        cone = backward_cone(gates[:cut], gates[cut:], [0])
        assert cone.gates == whole.gates
        assert (cone.wires, cone.growth) == (whole.wires, whole.growth)


def test_growth_names_the_gates_from_the_readout_back():
    circuit = HeadCircuit(
        binary_tasks(3),
        AngleEncoding(n_layers=1),
        IdentityAnsatz(),
        readouts={"t1": ExpectationZ(1)},
    )
    assert circuit.light_cone("t1").growth == ()
    turned = HeadCircuit(binary_tasks(3), AngleEncoding(n_layers=1), RotationAnsatz(1))
    growth = turned.light_cone("t1").growth
    assert [size for _, size in growth] == [2, 3]
    assert {gate.name for gate, _ in growth} == {"CZ"}
