"""A trained digits model (five tasks) on fake_fez, fake_boston and Aer: as predicted, in time."""

import time

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_ibm_runtime")

from qmtl.circuit import HeadCircuit
from qmtl.data import digits
from qmtl.encoders import MLP
from qmtl.hardware import HardwareSimulator, compare, decode, execute, prepare
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.training import fit

SAMPLES, SHOTS = 8, 4096


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    data = digits()
    circuit = HeadCircuit(data.tasks)
    model = MultiTaskModel(
        MLP(64, 32, out_features=circuit.n_features, seed=0), QuantumHead(circuit, seed=0)
    )
    fit(model, data, max_epochs=4, seed=0)
    return model.eval(), data


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fake_fez", "fake_boston", "aer"])
def test_a_trained_model_measures_as_predicted(trained, backend, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, data = trained
    inputs = data.test.inputs[:SAMPLES]
    start = time.process_time()
    run = prepare(model, inputs, backend, shots=SHOTS, seed=0)
    decoded = decode(run, [execute(run, 0)])
    assert time.process_time() - start < 60
    assert len(run.circuits) == len(run.chunks) == 1
    assert run.execution == "whole circuit"
    comparison = compare(run, decoded)
    assert comparison.n_compared == SAMPLES * 14
    # How many of 112 deviations are beyond 4 by chance, from the binomial distributions.
    assert comparison.expected_beyond < 0.2
    assert comparison.n_beyond <= 1, str(comparison)
    assert comparison.largest < 5
    rms = np.sqrt(np.mean(np.concatenate([d.ravel() for d in comparison.deviations.values()]) ** 2))
    assert 0.8 < rms < 1.2
    assert (backend == "aer") == (run.predicted["digit"] == run.exact["digit"]).all()


@pytest.mark.slow
def test_the_models_accuracy_survives_on_aer(trained):
    model, data = trained
    inputs, labels = data.test.inputs[:64], data.test.targets["digit"][:64]
    twin = MultiTaskModel(
        model.encoder, model.head.with_simulator(HardwareSimulator("aer", seed=0))
    )
    ours, theirs = (m.predict(inputs)["digit"].argmax(1) for m in (twin, model))
    assert (ours == theirs).float().mean() > 0.9
    assert torch.isin(labels, torch.arange(10)).all()
