"""Samples on ``qmtl.lightcone``: what they estimate, what belongs together, seeds."""

import numpy as np
import pennylane as qml
import pytest
import torch

SHOTS = 20_000


@pytest.mark.parametrize(
    "measure",
    [
        lambda: qml.expval(qml.X(0) @ qml.Z(1)),
        lambda: qml.expval(2 * qml.X(0) + 0.5 * qml.Z(1)),
        lambda: qml.var(qml.Y(1)),
        lambda: qml.probs([1, 0]),
    ],
)
def test_samples_agree_with_exact_values(measure):
    def circuit():
        qml.RX(0.4, 0)
        qml.CRY(1.2, [0, 1])
        qml.RY(0.9, 0)
        return measure()

    device = qml.device("qmtl.lightcone", wires=2, seed=1)
    exact = qml.QNode(circuit, device)()
    sampled = qml.set_shots(qml.QNode(circuit, device), SHOTS)()
    np.testing.assert_allclose(sampled, exact, atol=5 * 2.5 / np.sqrt(SHOTS))
    assert not np.array_equal(sampled, exact)


def test_forms_of_samples():
    @qml.set_shots((10, 20))
    @qml.qnode(qml.device("qmtl.lightcone", wires=30, seed=0))
    def circuit():
        qml.X(3)
        return qml.sample(wires=[2, 3]), qml.counts(wires=[3]), qml.expval(qml.Z(3))

    few, many = circuit()
    assert few[0].tolist() == [[0, 1]] * 10
    assert many[1] == {"1": 20}
    assert many[2] == -1


def test_seeds():
    def bits(seed):
        @qml.set_shots(20)
        @qml.qnode(qml.device("qmtl.lightcone", wires=1, seed=seed))
        def circuit():
            qml.Hadamard(0)
            return qml.sample(wires=0)

        return circuit().tolist()

    assert bits(3) == bits(3)
    assert bits(3) != bits(4)


MATRIX = np.diag([1.0, 2, -1, 0.5]) + 0.3 * np.eye(4)[::-1]
MEASUREMENTS = {
    "sample": lambda: qml.sample(),
    "sample of wires": lambda: qml.sample(wires=[2, 0]),
    "sample of an observable": lambda: qml.sample(qml.X(0) @ qml.Z(1)),
    "sample of a matrix": lambda: qml.sample(qml.Hermitian(MATRIX, [1, 2])),
    "sample of a sum": lambda: qml.sample(qml.X(0) + qml.Z(1)),
    "counts": lambda: qml.counts(wires=[1]),
    "all counts": lambda: qml.counts(qml.Y(0), all_outcomes=True),
    "expval of a matrix": lambda: qml.expval(qml.Hermitian(MATRIX, [2, 1])),
    "expval of a product with a sum": lambda: qml.expval(qml.X(0) @ (qml.Z(1) + qml.Y(2))),
    "expval of the identity": lambda: qml.expval(qml.Identity(0)),
    "var of a sum": lambda: qml.var(qml.X(0) + qml.Z(1)),
    "probs": lambda: qml.probs(),
    "probs of an observable": lambda: qml.probs(op=qml.X(0)),
}


def shape_of(value):
    if isinstance(value, tuple | list):
        return [shape_of(part) for part in value]
    return sorted(map(str, value)) if isinstance(value, dict) else np.shape(value)


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("shots", [400, (300, 300, 100)])
@pytest.mark.parametrize("batch", [False, True])
def test_same_form_as_on_default_qubit(name, shots, batch):
    def circuit(x):
        qml.RX(x, 0)
        qml.CRY(0.9, [0, 1])
        qml.RY(1.2, 2)
        return MEASUREMENTS[name]()

    x, found = np.array([0.7, 1.4]) if batch else 0.7, []
    for device in ("qmtl.lightcone", "default.qubit"):
        node = qml.set_shots(qml.QNode(circuit, qml.device(device, wires=3, seed=3)), shots)
        found.append(shape_of(node(x)))
    assert found[0] == found[1]


def test_samples_of_one_execution_belong_together():
    """Those of a chain of CNOTs are equal, whether as bits, values, counts or means."""

    @qml.set_shots(50)
    @qml.qnode(qml.device("qmtl.lightcone", wires=40, seed=0))
    def circuit():
        qml.Hadamard(0)
        qml.CNOT([0, 1])
        qml.CNOT([1, 2])
        measured = [qml.sample(wires=0), qml.sample(qml.Z(2)), qml.counts(wires=[1])]
        return *measured, qml.expval(qml.Z(0)), [qml.sample(wires=i) for i in range(3, 40)]

    bits, values, counts, mean, rest = circuit()
    assert (1 - 2 * bits.ravel()).tolist() == values.tolist()
    assert counts["1"] == bits.sum()
    assert mean == pytest.approx(1 - 2 * bits.mean())
    assert np.sum(rest) == 0


def test_too_many_samples_that_belong_together():
    @qml.set_shots(50)
    @qml.qnode(qml.device("qmtl.lightcone", wires=30))
    def circuit():
        for i in range(29):
            qml.CNOT([i, i + 1])
        return [qml.sample(wires=i) for i in range(30)]

    with pytest.raises(qml.exceptions.DeviceError, match="of at most 20 wires together"):
        circuit()


def test_gradients_by_shots():
    """By parameter shift, which is all that shots leave."""

    def circuit(w):
        qml.RX(w[0], 0)
        qml.CRY(w[1], [0, 1])
        return qml.expval(qml.Z(0) @ qml.X(1))

    found = []
    for shots in (None, 50_000):
        weights = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
        device = qml.device("qmtl.lightcone", wires=2, seed=1)
        qml.set_shots(qml.QNode(circuit, device), shots)(weights).backward()
        found.append(weights.grad)
    torch.testing.assert_close(*found, rtol=0, atol=0.03)
    assert not torch.equal(*found)


def test_tensors_with_shots_are_sampled():
    """Also where torch's numbers come to the device as they are."""
    device = qml.device("qmtl.lightcone", wires=1, seed=0)
    operations = [qml.RX(torch.tensor(1.1), 0)]
    tape = qml.tape.QuantumScript(operations, [qml.expval(qml.Z(0))], shots=10)
    total = 10 * float(device.execute(tape))
    assert total == pytest.approx(2 * round(total / 2))


def conditional():
    qml.RX(0.7, 0)
    read = qml.measure(0)
    qml.cond(read, qml.RY)(0.3, 1)
    return qml.expval(qml.Z(1)), qml.expval(read), qml.probs(op=[read]), qml.var(read)


def reset():
    qml.RX(0.7, 0)
    first = qml.measure(0, reset=True)
    second = qml.measure(1)
    qml.RX(0.2, 0)
    return qml.expval(qml.Z(0)), qml.probs(op=[first, second]), qml.expval(2 * first + second)


@pytest.mark.parametrize("circuit", [conditional, reset])
@pytest.mark.parametrize("wires", [4, None])
def test_measured_in_the_middle(circuit, wires):
    theirs = qml.QNode(circuit, qml.device("default.qubit", wires=wires))()
    # A device of two wires does, too: measurements are deferred to wires of their own.
    for given in (wires, 2):
        ours = qml.QNode(circuit, qml.device("qmtl.lightcone", wires=given))()
        np.testing.assert_allclose(np.hstack(ours), np.hstack(theirs), rtol=0, atol=1e-10)


def test_samples_of_what_was_measured_in_the_middle():
    def circuit():
        qml.RX(0.7, 0)
        read = qml.measure(0)
        return qml.sample(read), qml.counts(read)

    found = []
    for device in ("qmtl.lightcone", "default.qubit"):
        node = qml.QNode(circuit, qml.device(device, wires=2, seed=1))
        bits, counts = qml.set_shots(node, 20)()
        found.append((bits.tolist(), counts))
        assert counts[1] == sum(bits)
    assert found[0] == found[1]
