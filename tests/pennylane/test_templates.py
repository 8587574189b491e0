"""PennyLane's templates and gates on ``qmtl.lightcone``, by their decompositions."""

import numpy as np
import pennylane as qml
import pytest
from pennylane import numpy as pnp

N_WIRES = 4
LINE = range(N_WIRES)


def numbers(*shape):
    return np.random.default_rng(5).normal(size=shape)


def unitary(size):
    q, _ = np.linalg.qr(numbers(size, size) + 1j * numbers(size, size).T)
    return q


HAMILTONIAN = qml.X(0) @ qml.X(1) + 0.4 * qml.Z(2)
# Each takes an angle, which is what gradients are taken for.
CASES = {
    "AngleEmbedding": lambda x: qml.AngleEmbedding(x * numbers(4), LINE, rotation="Y"),
    "IQPEmbedding": lambda x: qml.IQPEmbedding(x * numbers(4), LINE),
    "QAOAEmbedding": lambda x: qml.QAOAEmbedding(x * numbers(2), numbers(2, 8), LINE),
    "BasicEntanglerLayers": lambda x: qml.BasicEntanglerLayers(x * numbers(2, 4), LINE),
    "StronglyEntanglingLayers": lambda x: qml.StronglyEntanglingLayers(x * numbers(2, 4, 3), LINE),
    "SimplifiedTwoDesign": lambda x: qml.SimplifiedTwoDesign(
        x * numbers(4), numbers(2, 3, 2), LINE
    ),
    "QFT": lambda x: (qml.RX(x, 0), qml.QFT(LINE)),
    "adjoint QFT": lambda x: (qml.RX(x, 0), qml.adjoint(qml.QFT)(range(3))),
    "IsingXX": lambda x: qml.IsingXX(x, [0, 2]),
    "IsingXY": lambda x: qml.IsingXY(x, [3, 1]),
    "Rot": lambda x: (qml.Rot(x, 0.2, 2 * x, 1), qml.CRot(x, x, 0.3, [1, 3])),
    "U3": lambda x: (qml.U3(x, 0.2, x, 1), qml.U2(x, 0.1, 2)),
    "MultiRZ": lambda x: qml.MultiRZ(x, LINE),
    "PauliRot": lambda x: qml.PauliRot(x, "XYZ", [3, 0, 1]),
    "controlled": lambda x: qml.ctrl(qml.RX(x, 0), [1, 2], [0, 1]),
    "excitations": lambda x: (qml.SingleExcitation(x, [0, 1]), qml.DoubleExcitation(x, LINE)),
    "evolution": lambda x: qml.evolve(qml.X(0) @ qml.Y(3), x),
    "Trotter": lambda x: qml.TrotterProduct(HAMILTONIAN, x, 2, 2),
    "power": lambda x: (qml.pow(qml.RX(x, 0), 2.5), qml.pow(qml.SX(1), 0.5)),
    "matrix": lambda x: (qml.RX(x, 0), qml.QubitUnitary(unitary(8), [2, 0, 1])),
    "diagonal": lambda x: (
        qml.RX(x, 0),
        qml.DiagonalQubitUnitary(np.exp(1j * np.arange(4)), [3, 0]),
    ),
    "swaps": lambda x: (qml.RX(x, 0), qml.ISWAP([0, 1]), qml.CSWAP([0, 1, 2]), qml.ECR([2, 3])),
    "state": lambda x: (qml.StatePrep(np.array([0.6, 0.8j, 0, 0]), [1, 3]), qml.RX(x, 1)),
    "amplitudes": lambda x: (qml.AmplitudeEmbedding(np.arange(1, 9.0), [0, 1, 3], normalize=True),),
    "bits": lambda x: (qml.BasisState([1, 0, 1], [0, 1, 3]), qml.RX(x, 1)),
    "idle": lambda x: (qml.RX(x, 0), qml.Barrier(LINE), qml.GlobalPhase(x), qml.Snapshot()),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    starts = name in ("state", "amplitudes", "bits")

    def circuit(x):
        if not starts:
            for i in LINE:
                qml.RY(0.3 + 0.4 * i, i)
        CASES[name](x)
        for i in LINE:
            qml.RX(0.3 * i + 0.2, i)
            qml.CZ([i, (i + 1) % N_WIRES])
        return [qml.expval(qml.X(i)) for i in LINE] + [qml.probs(wires=[0, 2])]

    found = []
    for device in ("qmtl.lightcone", "default.qubit"):
        node = qml.QNode(circuit, qml.device(device, wires=N_WIRES))
        jacobian = qml.jacobian(lambda x, node=node: pnp.hstack(node(x)))
        found.append((np.hstack(node(0.3)), jacobian(pnp.array(0.3))))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_matrices_in_a_batch():
    """PennyLane decomposes matrices of two wires or more one by one only."""

    def circuit(x):
        qml.RY(0.7, 0)
        qml.ctrl(qml.RX(x, 0), [1, 2], [0, 0])
        qml.QubitUnitary(np.stack([unitary(4), np.eye(4), np.diag([1, -1, 1j, 1])]), [0, 1])
        return qml.expval(qml.Y(0)), qml.probs(wires=[2, 0])

    x, found = pnp.array([0.1, 0.2, 0.5]), []
    for device in ("qmtl.lightcone", "default.qubit"):
        node = qml.QNode(circuit, qml.device(device, wires=3))
        jacobian = qml.jacobian(lambda x, node=node: pnp.hstack([pnp.ravel(v) for v in node(x)]))
        found.append((*node(x), jacobian(x)))
    for ours, theirs in zip(*found, strict=True):
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
