"""Pauli propagation: TenCirPauli, monoprop, and tensorcircuit-ng's on jax.

The first two take one sample at a time and return each output's gradient by all angles; numpy
computes the mean squared error and the sums over samples.
"""

import numpy as np

from peers.problem import Result, all_gates, n_weights, without_rot


def _numpy_step(problem, values_and_gradients):
    """A step around ``(angles) -> outputs (tasks,), their gradients (tasks, angles)``.

    Angles are the features of a sample, then all weights.
    """

    def step():
        outputs = np.empty_like(problem.targets)
        by_feature = np.zeros_like(problem.features)
        by_weight = np.zeros_like(problem.weights)
        for i, features in enumerate(problem.features):
            angles = np.concatenate([features, problem.weights])
            outputs[i], gradients = values_and_gradients(angles)
            slopes = 2 / problem.targets.size * (outputs[i] - problem.targets[i])
            found = slopes @ gradients
            by_feature[i] = found[: problem.n_wires]
            by_weight += found[problem.n_wires :]
        return Result(outputs, by_feature, by_weight)

    return step


def _place(gate, n_wires):
    """Where a rotation's angle is among all angles."""
    return gate.indices[0] + (0 if gate.source == "features" else n_wires)


def build_tencirpauli(problem, dtype):
    import tencirpauli as tp

    n = problem.n_wires
    tape = tp.propagation.GateTape(n)
    for gate in without_rot(all_gates(problem.n_tasks)):
        if gate.name == "CZ":
            tape.cz(*gate.wires)
        else:
            getattr(tape, gate.name.lower())(gate.wires[0], parameter=_place(gate, n))
    words = ["".join("Z" if w == 2 * task else "I" for w in range(n)) for task in range(n // 2)]
    observables = [tp.PauliOperator.from_terms(n, [(word, 1.0)]) for word in words]
    batch = tp.PropagationBatch(tape, observables)

    def values_and_gradients(angles):
        found = batch.values_and_gradients(angles)
        return found.values, found.gradients

    return _numpy_step(problem, values_and_gradients)


def build_monoprop(problem, dtype):
    """Its gates are exponentials of Paulis: a CZ is three of them, at a fixed angle."""
    import monoprop as mp

    n = problem.n_wires
    last = n + n_weights(problem.n_tasks)
    gates = []

    def add(letters, wires, factor, index):
        gates.append(mp.ExpGate(mp.PauliOperator({mp.Pauli(letters, wires): factor}, n), index))

    for gate in without_rot(all_gates(problem.n_tasks)):
        if gate.name == "CZ":
            # CZ = exp(iπ/4 (1 - Z₁)(1 - Z₂)) up to a phase.
            add("ZZ", gate.wires, 1.0, last)
            for wire in gate.wires:
                add("Z", (wire,), -1.0, last)
        else:
            add(gate.name[1], gate.wires, -0.5, _place(gate, n))
    circuit = mp.Circuit(gates, n)
    fixed = np.array([np.pi / 4])
    functions = []
    for task in range(problem.n_tasks):
        observable = mp.PauliOperator({mp.Pauli("Z", (2 * task,)): 1.0}, n)
        propagator = mp.PauliPropagator(observable, [], cutoff=n)
        propagator.build_graph(circuit)
        functions.append(propagator.expval_and_grad_functional())

    def values_and_gradients(angles):
        pairs = [function(np.concatenate([angles, fixed])) for function in functions]
        return np.array([v for v, _ in pairs]), np.array([g for _, g in pairs])[:, :last]

    return _numpy_step(problem, values_and_gradients)


def build_tensorcircuit(problem, dtype):
    """All Pauli strings of at most three wires, or of all four where there are no more."""
    import jax
    import tensorcircuit as tc
    from tensorcircuit.pauliprop import pauli_propagation

    tc.set_backend("jax")
    tc.set_dtype("complex64" if dtype == "float32" else "complex128")
    n = problem.n_wires
    gates = without_rot(all_gates(problem.n_tasks))
    words = ["".join("Z" if w == 2 * task else "I" for w in range(n)) for task in range(n // 2)]

    def outputs_of(features, weights):
        circuit, sources = tc.Circuit(n), {"features": features, "weights": weights}
        for gate in gates:
            if gate.name == "CZ":
                circuit.cz(*gate.wires)
            else:
                angle = sources[gate.source][gate.indices[0]]
                getattr(circuit, gate.name.lower())(gate.wires[0], theta=angle)
        most = n if n <= 4 else 3
        found = [pauli_propagation(circuit, [(1.0, word)], k=most) for word in words]
        return tc.backend.stack([tc.backend.real(value) for value in found])

    features, weights, targets = (
        jax.numpy.asarray(array, dtype=dtype)
        for array in (problem.features, problem.weights, problem.targets)
    )
    batched = jax.vmap(outputs_of, in_axes=(0, None))

    def loss(features, weights):
        outputs = batched(features, weights)
        return ((outputs - targets) ** 2).mean(), outputs

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    def step():
        gradients, outputs = jax.block_until_ready(compiled(features, weights))
        return Result(outputs, *gradients)

    return step
