"""Laws of head circuits and simulators, as assertions that any test may apply to any circuit."""

from functools import lru_cache
from math import prod

import numpy as np
import torch

from qmtl.circuit import HeadCircuit

__all__ = [
    "assert_batch_is_samples",
    "assert_closed_form_counts",
    "assert_gradients_stay_in_cone",
    "assert_no_dead_gate",
    "assert_permuted",
    "assert_same_values_and_gradients",
    "assert_subset_is_the_same",
    "assert_valid_outputs",
    "dense_outputs",
    "dense_state",
    "jacobian",
    "marginal",
    "reduced_density_matrix",
    "vjp",
]


# --- an independent reference: dense state vectors in numpy ------------------------------------

_PAULI = {
    "RX": np.array([[0, 1], [1, 0]], dtype=complex),
    "RY": np.array([[0, -1j], [1j, 0]]),
    "RZ": np.diag([1, -1]).astype(complex),
    "IsingZZ": np.diag([1, -1, -1, 1]).astype(complex),
}
_FIXED = {
    "Hadamard": np.array([[1, 1], [1, -1]], dtype=complex) / np.sqrt(2),
    "CZ": np.diag([1, 1, 1, -1]).astype(complex),
    "CNOT": np.eye(4, dtype=complex)[[0, 1, 3, 2]],
}


def _angle(angle, row, weights):
    value = angle.constant * prod(float(row[i]) for i in angle.features)
    return value if angle.weight is None else value * float(weights[angle.owner][angle.weight])


def dense_state(gates, n_wires, row=(), weights=None):
    """The state after `gates`, an array with one axis of length 2 per wire."""
    state = np.zeros((2,) * n_wires, dtype=complex)
    state[(0,) * n_wires] = 1
    for gate in gates:
        if gate.angle is None:
            matrix = _FIXED[gate.name]
        else:
            half = _angle(gate.angle, row, weights) / 2
            pauli = _PAULI[gate.name]
            matrix = np.cos(half) * np.eye(len(pauli)) - 1j * np.sin(half) * pauli
        k = len(gate.wires)
        matrix = matrix.reshape((2,) * (2 * k))
        state = np.tensordot(matrix, state, axes=(range(k, 2 * k), gate.wires))
        state = np.moveaxis(state, range(k), gate.wires)
    return state


def marginal(state, wires):
    """Probabilities of the basis states of `wires`, the first most significant."""
    wires = list(wires)
    others = [w for w in range(state.ndim) if w not in wires]
    probabilities = (np.abs(state) ** 2).transpose(wires + others)
    return probabilities.reshape(2 ** len(wires), -1).sum(1)


def reduced_density_matrix(state, wires):
    wires = list(wires)
    others = [w for w in range(state.ndim) if w not in wires]
    columns = state.transpose(wires + others).reshape(2 ** len(wires), -1)
    return columns @ columns.conj().T


def dense_outputs(circuit: HeadCircuit, task, row, weights, gates=None):
    """A task's outputs for one sample, from all wires and all gates of the circuit."""
    register = circuit.register(task)
    state = dense_state(
        circuit.gates(task) if gates is None else gates, circuit.n_wires, row, weights
    )
    matrix = np.array(register.readout.matrix(len(register.wires)), dtype=float)
    return matrix @ marginal(state, register.wires)


# --- gradients ---------------------------------------------------------------------------------


def vjp(simulator, circuit, angles, weights, tasks=None, seed=0):
    """Values, and the gradient of their product with random numbers; zeros for unused inputs.

    The random numbers differ from output to output, so that a wrong entry of the Jacobian shows.
    """
    angles = angles.detach().requires_grad_()
    weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
    values = simulator.expectation_values(circuit, angles, weights, tasks)
    generator = torch.Generator().manual_seed(seed)
    total = sum(
        (v * torch.randn(v.shape, dtype=torch.float64, generator=generator).to(v)).sum()
        for v in values.values()
    )
    keys = ["angles", *weights]
    inputs = [angles, *weights.values()]
    if not total.requires_grad:
        grads = [None] * len(inputs)
    else:
        grads = torch.autograd.grad(total, inputs, allow_unused=True)
    filled = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, grads, strict=True)]
    detached = {name: v.detach() for name, v in values.items()}
    return detached, dict(zip(keys, filled, strict=True))


def jacobian(simulator, circuit, angles, weights):
    """Jacobian of all outputs of all samples with respect to all circuit weights."""
    names = ["encoding", *circuit.registers]
    flat = torch.cat([weights[name] for name in names])

    def outputs(flat):
        parts = dict(zip(names, flat.split([len(weights[n]) for n in names]), strict=True))
        values = simulator.expectation_values(circuit, angles, parts)
        return torch.cat([v.flatten() for v in values.values()])

    return torch.autograd.functional.jacobian(outputs, flat)


# --- laws --------------------------------------------------------------------------------------


def _named(name):
    return lambda message: f"{name}: {message}"


def assert_same_values_and_gradients(first, second, case, *, tasks=None, atol=1e-10):
    """Two simulators agree in every output and in every gradient.

    The second is the reference: what it gives is kept, since several simulators are compared with
    it on the same case.
    """
    values, grads = vjp(first, case.circuit, case.angles(), case.weights(), tasks, case.seed)
    asked = None if tasks is None else tuple(tasks)
    expected, expected_grads = _reference(second, case, asked)
    assert list(values) == list(expected)
    for name in expected:
        outputs = case.circuit.task(name).n_outputs
        assert values[name].shape == expected[name].shape == (case.batch, outputs)
        torch.testing.assert_close(
            values[name], expected[name], rtol=0, atol=atol, msg=_named(name)
        )
    for name in expected_grads:
        torch.testing.assert_close(
            grads[name], expected_grads[name], rtol=0, atol=atol, msg=_named(f"gradient of {name}")
        )


@lru_cache(maxsize=500)
def _reference(simulator, case, tasks):
    return vjp(simulator, case.circuit, case.angles(), case.weights(), tasks, case.seed)


def features_of(gates):
    return {f for gate in gates if gate.angle is not None for f in gate.angle.features}


def assert_gradients_stay_in_cone(simulator, case, *, atol=0.0):
    """A task's loss has no gradient in other blocks, nor in angles or weights outside its cone."""
    circuit = case.circuit
    for name in circuit.registers:
        cone = circuit.light_cone(name)
        # Weights of all blocks are given and are asked for their gradient.
        _, grads = vjp(simulator, circuit, case.angles(), case.weights(), [name], case.seed)
        for other in circuit.registers:
            if other != name:
                assert (grads[other] == 0).all(), (name, other)
        inside = features_of(cone.gates)
        outside = [f for f in range(circuit.n_features) if f not in inside]
        assert (grads["angles"][:, outside].abs() <= atol).all(), name
        kept = {g.angle.weight for g in cone.encoding if g.angle is not None}
        dropped = [w for w in range(circuit.n_encoding_weights) if w not in kept]
        assert (grads["encoding"][dropped].abs() <= atol).all(), name


def assert_valid_outputs(circuit, values, *, atol):
    """Z values in [-1, 1]; probabilities in [0, 1], with sum 1 if they are all of them."""
    for name, register in circuit.registers.items():
        v = values[name]
        if not register.readout.is_probability:
            assert (v.abs() <= 1 + atol).all(), name
            continue
        assert (v >= -atol).all(), name
        assert (v.sum(1) <= 1 + atol).all(), name
        if register.readout.n_outputs == 2 ** len(register.wires):
            torch.testing.assert_close(v.sum(1), torch.ones_like(v[:, 0]), rtol=0, atol=atol)


def assert_subset_is_the_same(simulator, case, tasks, *, atol):
    angles, weights = case.angles(), case.weights()
    full = simulator.expectation_values(case.circuit, angles, weights)
    some = simulator.expectation_values(case.circuit, angles, weights, tasks)
    assert list(some) == list(tasks)
    for name in tasks:
        torch.testing.assert_close(some[name], full[name], rtol=0, atol=atol)


def assert_batch_is_samples(simulator, case, *, atol):
    angles, weights = case.angles(), case.weights()
    full = simulator.expectation_values(case.circuit, angles, weights)
    for i in range(case.batch):
        one = simulator.expectation_values(case.circuit, angles[i : i + 1], weights)
        for name in full:
            torch.testing.assert_close(one[name], full[name][i : i + 1], rtol=0, atol=atol)


def assert_closed_form_counts(circuit):
    """n_weights, n_features and count_parameters say what the gates hold, each weight once."""
    owned = {"encoding": [], **{name: [] for name in circuit.registers}}
    used = set()
    for gate in circuit.encoding_gates:
        if gate.angle is not None:
            used |= set(gate.angle.features)
            if gate.angle.weight is not None:
                assert gate.angle.owner == "encoding"
                owned["encoding"].append(gate.angle.weight)
    for name in circuit.registers:
        for gate in circuit.block_gates(name):
            if gate.angle is not None and gate.angle.weight is not None:
                assert gate.angle.owner == name
                owned[name].append(gate.angle.weight)
    count = circuit.count_parameters()
    assert used == set(range(circuit.n_features))
    assert (
        owned["encoding"] == list(range(circuit.n_encoding_weights)) == list(range(count.encoding))
    )
    for name in circuit.registers:
        assert owned[name] == list(range(circuit.n_weights(name)))
        assert count.tasks[name] == len(owned[name])
    assert count.circuit == sum(map(len, owned.values()))
    assert count.scales == len(circuit.tasks)
    assert count.total == count.circuit + count.scales


def assert_no_dead_gate(simulator, case, *, least=1e-6):
    """Every weight moves some output, at a random point."""
    moved = jacobian(simulator, case.circuit, case.angles(), case.weights()).abs().amax(0)
    assert (moved > least).all(), moved


def assert_permuted(values, permuted, names, order, *, atol=1e-12):
    """Task `i` of the permuted circuit is task ``order[i]`` of the first."""
    for i, name in enumerate(names):
        torch.testing.assert_close(
            permuted[names[i]], values[names[order[i]]], rtol=0, atol=atol, msg=_named(name)
        )
