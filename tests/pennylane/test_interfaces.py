"""How PennyLane's interfaces, methods and tools work on ``qmtl.lightcone``."""

import copy

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp
from sklearn.datasets import load_digits

OURS, REFERENCE = "qmtl.lightcone", "default.qubit"
X, W = (0.1, 0.7, -0.4), (0.3, 0.9, 1.2)


def prepare(x, w):
    for i in range(3):
        qml.RY(x[..., i] if hasattr(x, "shape") else x[i], i)
    for i in range(3):
        qml.CZ([i, (i + 1) % 3])
        qml.RX(w[i], i)


def many(x, w):
    prepare(x, w)
    return qml.expval(qml.Z(0) @ qml.Y(1)), qml.probs(wires=[1, 2]), qml.var(qml.X(0))


def one(w):
    prepare(X, w)
    return qml.expval(qml.Z(0) @ qml.Y(1))


def node(name, circuit=many, wires=3, **options):
    return qml.QNode(circuit, qml.device(name, wires=wires), **options)


def numpy_of(found):
    parts = found if isinstance(found, tuple | list) else [found]
    flat = [numpy_of(part) if isinstance(part, tuple | list) else part for part in parts]
    return np.concatenate([np.ravel(qml.math.toarray(part)) for part in flat])


def assert_same(make, atol=1e-10):
    """What `make` makes of a device's name is the same on both."""
    np.testing.assert_allclose(numpy_of(make(OURS)), numpy_of(make(REFERENCE)), rtol=0, atol=atol)


METHODS = ["best", "adjoint", "device", "parameter-shift", "finite-diff"]
TOLERANCE = {"finite-diff": 1e-5}


def method_of(name, method):
    return method if name == OURS else "best"


@pytest.mark.parametrize("method", METHODS)
def test_autograd(method):
    def make(name):
        qnode = node(name, diff_method=method_of(name, method))
        jacobian = qml.jacobian(lambda x, w: pnp.hstack(qnode(x, w)))
        return jacobian(pnp.array(X, requires_grad=True), pnp.array(W, requires_grad=True))

    assert_same(make, TOLERANCE.get(method, 1e-10))


@pytest.mark.parametrize("method", METHODS)
def test_torch(method):
    def make(name):
        qnode = node(name, diff_method=method_of(name, method), interface="torch")
        given = torch.tensor(X, dtype=torch.float64), torch.tensor(W, dtype=torch.float64)
        return torch.autograd.functional.jacobian(lambda x, w: torch.hstack(qnode(x, w)), given)

    assert_same(make, TOLERANCE.get(method, 1e-10))


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


# The reference by autograd: jax compiles each of its operations.
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("method", ["best", "adjoint", "parameter-shift"])
def test_jax(jax, method, jitted):
    def make(name):
        qnode = node(name, diff_method=method_of(name, method))
        if name == REFERENCE:
            slopes = qml.jacobian(lambda x, w: pnp.hstack(qnode(x, w)))
            return slopes(pnp.array(X, requires_grad=True), pnp.array(W, requires_grad=True))
        slopes = jax.jacobian(lambda x, w: jax.numpy.hstack(qnode(x, w)), argnums=(0, 1))
        slopes = jax.jit(slopes) if jitted else slopes
        return slopes(jax.numpy.array(X), jax.numpy.array(W))

    assert_same(make)


def test_jax_batches(jax):
    """Of samples and of gradients by vmap, and by broadcasting."""
    batch = np.array([X, W, X])

    def make(name):
        if name == REFERENCE:
            rows = [numpy_of(node(name)(x, W)) for x in batch]
            return (
                np.stack(rows),
                [qml.grad(node(name, one))(pnp.array(w, requires_grad=True)) for w in batch],
                list(node(name)(batch, W)),
                qml.jacobian(lambda w: node(name)(batch, w)[0])(pnp.array(W)),
            )
        weights = jax.numpy.array(W)
        mapped = jax.vmap(lambda x: jax.numpy.hstack(node(name)(x, weights)))(
            jax.numpy.array(batch)
        )
        slopes = jax.vmap(jax.grad(node(name, one)))(jax.numpy.array(batch))
        jacobian = jax.jacobian(lambda w: node(name)(batch, w)[0])(weights)
        return mapped, slopes, list(node(name)(batch, weights)), jacobian

    assert_same(make)


HESSIANS = {
    "autograd": lambda q: qml.jacobian(qml.grad(q))(pnp.array(W)),
    "torch": lambda q: torch.autograd.functional.hessian(q, torch.tensor(W, dtype=torch.float64)),
    "torch.func": lambda q: torch.func.hessian(q)(torch.tensor(W, dtype=torch.float64)),
}


@pytest.mark.parametrize("kind", HESSIANS)
def test_hessians(kind):
    orders = {"max_diff": 2} if kind == "autograd" else {}
    assert_same(lambda name: HESSIANS[kind](node(name, one, **orders)))


def test_hessian_by_jax(jax):
    found = jax.hessian(node(OURS, one, max_diff=2))(jax.numpy.array(W))
    np.testing.assert_allclose(found, HESSIANS["torch"](node(REFERENCE, one)), atol=1e-10)


def test_torch_hessian_of_the_adjoint_method():
    assert_same(lambda n: HESSIANS["torch"](node(n, one, diff_method=method_of(n, "adjoint"))))


def test_autograd_of_a_higher_order_is_refused():
    with pytest.raises(qml.exceptions.DeviceError, match="max_diff=2"):
        HESSIANS["autograd"](node(OURS, one))
    # An error within autograd leaves nothing behind.
    assert_same(lambda name: qml.grad(node(name, one))(pnp.array(W)))


TOOLS = {
    "param_shift": lambda q: qml.gradients.param_shift(q)(pnp.array(W)),
    "param_shift, broadcast": lambda q: qml.gradients.param_shift(q, broadcast=True)(pnp.array(W)),
    "hadamard": lambda q: qml.gradients.hadamard_grad(q, aux_wire=3)(pnp.array(W)),
    "Hessian": lambda q: qml.gradients.param_shift_hessian(q)(pnp.array(W)),
    "metric tensor": lambda q: qml.metric_tensor(q)(pnp.array(W)),
    "block-diagonal": lambda q: qml.metric_tensor(q, approx="block-diag")(pnp.array(W)),
    "adjoint metric": lambda q: qml.adjoint_metric_tensor(q)(pnp.array(W)),
    "commuting groups": lambda q: qml.transforms.split_non_commuting(q)(pnp.array(W)),
    "single terms": lambda q: qml.transforms.split_to_single_terms(q)(pnp.array(W)),
    "diagonalized": lambda q: qml.transforms.diagonalize_measurements(q)(pnp.array(W)),
    "merged": lambda q: qml.transforms.merge_rotations(q)(pnp.array(W)),
    "compiled": lambda q: qml.compile(q)(pnp.array(W)),
    "more noise": lambda q: qml.noise.mitigate_with_zne(
        q, [1, 2, 3], qml.noise.fold_global, qml.noise.richardson_extrapolate
    )(pnp.array(W)),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools(tool):
    """With a wire more for those that need it."""
    wires = 4 if tool == "metric tensor" or tool == "hadamard" else 3
    assert_same(lambda name: TOOLS[tool](node(name, one, wires)))


def test_fisher_information():
    def circuit(w):
        prepare(X, w)
        return qml.probs(wires=[0, 1])

    assert_same(lambda name: qml.gradients.classical_fisher(node(name, circuit))(pnp.array(W)))


def test_what_is_said_of_a_circuit():
    qnode = node(OURS)
    specs = qml.specs(qnode, level="device")(X, W)
    assert specs.resources.gate_types["CZ"] == 3
    assert "RX" in qml.draw(qnode, level="device")(X, W)
    with qml.Tracker(qnode.device) as tracker:
        qnode(X, W)
    assert tracker.totals["executions"] > 0


def test_layer_for_torch():
    def circuit(inputs, w):
        prepare(inputs, w)
        return qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Y(2))

    found, inputs = [], torch.linspace(0, 1, 15).reshape(5, 3)
    for name in (OURS, REFERENCE):
        torch.manual_seed(0)
        layer = qml.qnn.TorchLayer(node(name, circuit), {"w": (3,)})
        values = layer(inputs)
        values.square().sum().backward()
        found.append((values.detach(), layer.w.grad))
        if name == OURS:
            assert {values.dtype, layer.w.grad.dtype} == {torch.float32}
            again = qml.qnn.TorchLayer(node(name, circuit), {"w": (3,)})
            again.load_state_dict(layer.state_dict())
            for twin in (again, copy.deepcopy(layer)):
                torch.testing.assert_close(twin(inputs), values, rtol=0, atol=0)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs.to(ours), rtol=0, atol=1e-5)


def test_what_is_not_trained_has_no_gradient():
    weights = pnp.array(W, requires_grad=True)
    gradient = qml.grad(lambda x, w: node(OURS)(x, w)[0])(
        pnp.array(X, requires_grad=False), weights
    )
    assert gradient.shape == (3,)
    first, second = torch.tensor(X), torch.tensor(W, requires_grad=True)
    node(OURS)(first, second)[0].backward()
    assert first.grad is None
    assert second.grad.shape == (3,)


@pytest.mark.parametrize("given", [(1, 0, 2), torch.tensor([1, 0, 2]), np.array(W, np.float32)])
def test_numbers_of_any_type(given):
    assert_same(lambda name: node(name)(X, given), 1e-6)


def test_batches_of_tapes():
    tapes = [
        qml.tape.QuantumScript([qml.RX(a, 0), qml.CNOT([0, 1])], measured)
        for a, measured in (
            (0.1, [qml.expval(qml.Z(1))]),
            (0.2, [qml.expval(qml.Z(1)), qml.probs(wires=0)]),
            ([0.1, 0.2], [qml.var(qml.Y(0))]),
        )
    ]
    assert_same(lambda name: qml.execute(tapes, qml.device(name, wires=2)))
    device = qml.device(OURS, wires=2)
    assert device.execute([]) == ()
    assert device.execute(tapes[0]) == pytest.approx(np.cos(0.1))


def test_a_circuit_without_gates_and_labels_of_any_kind():
    def circuit():
        qml.X("a")
        return qml.probs(wires=["q", -5]), qml.expval(qml.Z(-5)), qml.var(qml.X("a"))

    for wires in (["a", -5, "q"], None):
        assert_same(lambda name, wires=wires: node(name, circuit, wires)())

    def empty():
        return qml.expval(qml.Z(0)), qml.probs(wires=[1, 0])

    assert_same(lambda name: node(name, empty)())


def test_a_layer_learns_digits():
    """Ten digits, by a layer of 20 wires behind a linear one."""
    pixels, digits = map(torch.tensor, load_digits(return_X_y=True))
    pixels, n_wires = pixels.float() / 16, 20

    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, range(n_wires), rotation="Y")
        for i in range(n_wires):
            qml.CZ([i, (i + 1) % n_wires])
        for i in range(n_wires):
            qml.RY(weights[i], i)
        return [qml.expval(qml.Z(2 * i)) for i in range(10)]

    torch.manual_seed(0)
    layer = qml.qnn.TorchLayer(node(OURS, circuit, n_wires), {"weights": (n_wires,)})
    model = torch.nn.Sequential(torch.nn.Linear(64, n_wires), layer)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for rows in torch.randperm(1500).repeat(2).split(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(5 * model(pixels[rows]), digits[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        right = model(pixels[1500:]).argmax(1) == digits[1500:]
    assert right.float().mean() > 0.8
