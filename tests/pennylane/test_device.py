"""``qml.device("qmtl.lightcone")`` against ``default.qubit``: values, gradients, samples."""

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pennylane import numpy as pnp

from qmtl.errors import InvalidInputError

N_WIRES = 4
WIRES = ["a", 1, "c", 7]
ROTATIONS = [
    qml.RX, qml.RY, qml.RZ, qml.PhaseShift, qml.CRX, qml.CRY, qml.IsingXX, qml.IsingYY, qml.IsingZZ,
    qml.SingleExcitation, qml.PauliRot,
]  # fmt: skip
FIXED = [qml.Hadamard, qml.S, qml.T, qml.X, qml.Y, qml.CNOT, qml.CZ, qml.SWAP, qml.Toffoli]
PAULIS = [qml.X, qml.Y, qml.Z]
LETTERS = "XYZ"


@st.composite
def operations(draw):
    """Gates as (class, wires, index of its parameter or None)."""
    gates = []
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from([*ROTATIONS, *FIXED]))
        size = {qml.PauliRot: 2}.get(kind, kind.num_wires)
        wires = draw(st.permutations(WIRES))[:size]
        gates.append((kind, wires, draw(st.integers(0, 2)) if kind in ROTATIONS else None))
    return gates


@st.composite
def observables(draw):
    """A Pauli word, a sum of them, or a matrix on two wires."""
    words = []
    for _ in range(draw(st.integers(1, 3))):
        wires = draw(st.permutations(WIRES))[: draw(st.integers(1, 2))]
        words.append(qml.prod(*(draw(st.sampled_from(PAULIS))(wire) for wire in wires)))
    kind = draw(st.sampled_from(["word", "sum", "matrix", "mixed"]))
    if kind == "word":
        return words[0]
    if kind == "sum":
        return qml.sum(*(0.5 * (i + 1) * word for i, word in enumerate(words)))
    matrix = np.random.default_rng(len(words)).normal(size=(4, 4))
    hermitian = qml.Hermitian(matrix + matrix.T, draw(st.permutations(WIRES))[:2])
    return hermitian if kind == "matrix" else qml.sum(words[0], 0.3 * hermitian)


@st.composite
def measurements(draw):
    kind = draw(st.sampled_from(["expval", "var", "probs"]))
    if kind == "expval":
        return qml.expval(draw(observables()))
    if kind == "var":
        return qml.var(draw(observables()))
    if draw(st.booleans()):
        return qml.probs(op=draw(observables().filter(lambda o: not isinstance(o, qml.ops.Sum))))
    return qml.probs(wires=draw(st.permutations(WIRES))[: draw(st.integers(1, 3))])


def run(gates, measured, parameters):
    for kind, wires, place in gates:
        if place is None:
            kind(wires=wires)
        elif kind is qml.PauliRot:
            qml.PauliRot(parameters[place], "XY", wires=wires)
        else:
            kind(parameters[place], wires=wires)
    return [qml.apply(m) for m in measured]


def node(name, gates, measured, **options):
    device = qml.device(name, wires=WIRES)
    return qml.QNode(lambda *parameters: run(gates, measured, parameters), device, **options)


circuits = st.tuples(operations(), st.lists(measurements(), min_size=1, max_size=3))


@given(circuits, st.booleans(), st.integers(0, 2**16))
def test_torch_values_and_gradients(circuit, broadcast, seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(3 if broadcast else (), dtype=torch.float64, generator=generator)
    rest = torch.randn(2, dtype=torch.float64, generator=generator)
    found = []
    for name in ("qmtl.lightcone", "default.qubit"):
        given = [first.clone().requires_grad_(), *(r.clone().requires_grad_() for r in rest)]
        values = [torch.as_tensor(value) for value in node(name, *circuit)(*given)]
        loss = sum((i + 1) * (value**2).sum() for i, value in enumerate(values))
        gradients = [torch.zeros_like(p) for p in given]
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, given, materialize_grads=True)
        found.append([*values, *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=1e-10)


@given(circuits, st.integers(0, 2**16))
def test_autograd_jacobians(circuit, seed):
    point = np.random.default_rng(seed).normal(size=3)
    found = []
    for name in ("qmtl.lightcone", "default.qubit"):
        cost = node(name, *circuit)
        parameters = pnp.array(point, requires_grad=True)
        jacobian = qml.jacobian(lambda p, cost=cost: pnp.hstack(cost(*p)))(parameters)
        found.append((np.hstack(cost(*point)), jacobian))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


@settings(max_examples=4)
@given(circuits, st.integers(0, 2**16))
def test_jax_gradients(circuit, seed):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    point = np.random.default_rng(seed).normal(size=3)

    def loss(parameters, name):
        return sum((value**2).sum() for value in node(name, *circuit)(*parameters))

    ours = jax.grad(loss)(jax.numpy.array(point), "qmtl.lightcone")
    # By autograd, which compiles nothing.
    theirs = qml.grad(loss)(pnp.array(point, requires_grad=True), "default.qubit")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def rings(n_wires, gate, n_layers=2):
    """A circuit of a ring of two-wire gates with observables of neighbours."""

    def circuit(inputs, weights):
        for i in range(n_wires):
            qml.RY(inputs[..., i % inputs.shape[-1]], i)
        for layer in weights:
            for i in range(n_wires):
                gate([i, (i + 1) % n_wires])
            for i in range(n_wires):
                qml.RX(layer[i], i)
        return [qml.expval(qml.Z(i) @ qml.Y((i + 1) % n_wires)) for i in range(n_wires)]

    return circuit


@pytest.mark.parametrize("gate", [qml.CZ, qml.CNOT])
def test_rings_whose_cones_overlap(gate):
    n_wires = 10
    inputs = torch.randn(2, 3, dtype=torch.float64)
    weights = torch.randn(2, n_wires, dtype=torch.float64, requires_grad=True)
    found = []
    for name in ("qmtl.lightcone", "default.qubit"):
        qnode = qml.QNode(rings(n_wires, gate), qml.device(name, wires=n_wires))
        values = torch.stack(qnode(inputs, weights))
        found.append((values, *torch.autograd.grad((values**3).sum(), weights)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_cones_that_cover_the_circuit():
    n_wires = 6

    def circuit(inputs, weights):
        for i in range(n_wires):
            qml.RY(inputs[..., i], i)
            for j in range(i):
                qml.IsingXX(weights[i, j], [i, j])
        return [qml.expval(qml.Z(i) @ qml.Z((i + 1) % n_wires)) for i in range(n_wires)]

    inputs = torch.randn(3, n_wires, dtype=torch.float64)
    weights = torch.randn(n_wires, n_wires, dtype=torch.float64, requires_grad=True)
    found = []
    for name in ("qmtl.lightcone", "default.qubit"):
        qnode = qml.QNode(circuit, qml.device(name, wires=n_wires))
        values = torch.stack(qnode(inputs, weights))
        found.append((values, *torch.autograd.grad((values**3).sum(), weights)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_hundreds_of_wires_train():
    """A layer of PennyLane's for torch, on more wires than a state vector could have."""
    n_wires = 100
    circuit = rings(n_wires, qml.CZ)
    qnode = qml.QNode(circuit, qml.device("qmtl.lightcone", wires=n_wires))
    layer = qml.qnn.TorchLayer(qnode, {"weights": (2, n_wires)})
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    inputs, losses = torch.randn(4, 6), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (layer(inputs) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_second_derivatives_by_torch():
    found = []
    for name in ("qmtl.lightcone", "default.qubit"):
        qnode = node(name, [(qml.RX, ["a"], 0), (qml.CRY, ["a", 1], 1)], [qml.expval(qml.Z(1))])
        point = torch.tensor([0.3, 0.7], dtype=torch.float64)
        found.append(torch.autograd.functional.hessian(lambda p, q=qnode: q(*p)[0], point))
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def test_float32_stays_float32():
    qnode = node("qmtl.lightcone", [(qml.RX, ["a"], 0)], [qml.expval(qml.Z("a"))])
    assert qnode(torch.tensor(0.3))[0].dtype is torch.float32


def test_gradients_of_coefficients():
    @qml.qnode(qml.device("qmtl.lightcone", wires=2))
    def energy(factors):
        qml.RX(0.4, 0)
        return qml.expval(qml.Hamiltonian(factors, [qml.Z(0), qml.Z(1)]))

    factors = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    value = energy(factors)
    assert value.item() == pytest.approx(2 * np.cos(0.4) + 3)
    gradient = torch.autograd.grad(value, factors)[0]
    torch.testing.assert_close(gradient, torch.tensor([np.cos(0.4), 1.0], dtype=torch.float64))


def test_a_cone_that_is_too_wide():
    n_wires = 70

    @qml.qnode(qml.device("qmtl.lightcone", wires=n_wires))
    def circuit():
        for i in range(n_wires):
            qml.RY(0.1, i)
        for i in range(n_wires - 1):
            qml.IsingXX(0.2, [i, i + 1])
        return qml.expval(qml.Z(0)), qml.expval(qml.Z(n_wires - 1))

    with pytest.raises(qml.exceptions.DeviceError, match=r"\[69\], depends on 70 of 70 wires") as e:
        circuit()
    assert "lightning.tensor" in str(e.value)
    assert "on [0, 1]" in str(e.value)


def test_an_observable_on_too_many_wires():
    @qml.qnode(qml.device("qmtl.lightcone", wires=40))
    def circuit():
        for i in range(40):
            qml.RX(0.1, i)
        for i in range(39):
            qml.IsingXX(0.2, [i, i + 1])
        return qml.expval(qml.prod(*map(qml.Z, range(40))))

    with pytest.raises(qml.exceptions.DeviceError) as e:
        circuit()
    assert "on 40 wires, [0, 1, 2, 3, 4, 5]…, depends on 40 of 40 wires" in str(e.value)
    assert "are ." not in str(e.value)


@pytest.mark.parametrize("measure", [lambda: qml.state(), lambda: qml.density_matrix(0)])
def test_what_cones_cannot_give(measure):
    @qml.qnode(qml.device("qmtl.lightcone", wires=2))
    def circuit():
        return measure()

    with pytest.raises(qml.exceptions.DeviceError, match="not accepted"):
        circuit()


def test_too_many_wires_read_together():
    @qml.qnode(qml.device("qmtl.lightcone", wires=40))
    def circuit():
        return qml.probs(wires=range(21))

    with pytest.raises(qml.exceptions.DeviceError, match="at most 20 wires together, got 21"):
        circuit()


def test_an_observable_that_is_not_hermitian():
    @qml.qnode(qml.device("qmtl.lightcone", wires=1))
    def circuit():
        return qml.expval(qml.X(0) @ qml.Z(0))

    with pytest.raises(qml.exceptions.DeviceError, match=r"not Hermitian: the factor of Y\(0\)"):
        circuit()


def test_a_channel_in_the_circuit():
    @qml.qnode(qml.device("qmtl.lightcone", wires=1))
    def circuit():
        qml.AmplitudeDamping(0.1, 0)
        return qml.expval(qml.Z(0))

    with pytest.raises(qml.exceptions.DeviceError, match=r"qmtl\.noisy.*default\.mixed"):
        circuit()


@pytest.mark.parametrize(
    "options", [{"seed": -4}, {"seed": "x"}, {"max_memory": -1}, {"max_memory": "1GB"}]
)
def test_wrong_options(options):
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))} must be"):
        qml.device("qmtl.lightcone", wires=2, **options)


@pytest.mark.parametrize("angle", [1j, torch.tensor(0.2 + 0.1j), "a", None])
def test_angles_that_are_no_real_numbers(angle):
    qnode = node("qmtl.lightcone", [(qml.RX, ["a"], 0)], [qml.expval(qml.Z("a"))])
    with pytest.raises(qml.exceptions.DeviceError, match="must be real numbers, got"):
        qnode(angle)


def test_a_batch_of_nothing():
    qnode = node("qmtl.lightcone", [(qml.RX, ["a"], 0)], [qml.expval(qml.Z("a")), qml.probs("a")])
    assert [value.shape for value in qnode(torch.zeros(0))] == [(0,), (0, 2)]
