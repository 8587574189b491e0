"""tensorcircuit-ng by torch, and by jax with jit; both contract each output's light cone."""

import tensorcircuit as tc

from peers.problem import Result, all_gates, without_rot


def _outputs(n_tasks):
    """Outputs of one sample."""
    gates = without_rot(all_gates(n_tasks))

    def outputs(features, weights):
        circuit = tc.Circuit(2 * n_tasks)
        sources = {"features": features, "weights": weights}
        for gate in gates:
            if gate.name == "CZ":
                circuit.cz(*gate.wires)
            else:
                angle = sources[gate.source][gate.indices[0]]
                getattr(circuit, gate.name.lower())(gate.wires[0], theta=angle)
        values = [
            tc.backend.real(circuit.expectation_ps(z=[2 * task], enable_lightcone=True))
            for task in range(n_tasks)
        ]
        return tc.backend.stack(values)

    return outputs


def _choose(backend, dtype):
    tc.set_backend(backend)
    tc.set_dtype("complex64" if dtype == "float32" else "complex128")


def build(problem, dtype):
    from peers.torch_step import torch_step

    _choose("pytorch", dtype)
    batched = tc.backend.vmap(_outputs(problem.n_tasks), vectorized_argnums=0)
    return torch_step(problem, dtype, batched)


def build_jax(problem, dtype):
    import jax

    _choose("jax", dtype)
    features, weights, targets = (
        jax.numpy.asarray(array, dtype=dtype)
        for array in (problem.features, problem.weights, problem.targets)
    )
    batched = jax.vmap(_outputs(problem.n_tasks), in_axes=(0, None))

    def loss(features, weights):
        outputs = batched(features, weights)
        return ((outputs - targets) ** 2).mean(), outputs

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    def step():
        gradients, outputs = jax.block_until_ready(compiled(features, weights))
        return Result(outputs, *gradients)

    return step
