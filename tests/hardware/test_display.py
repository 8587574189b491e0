"""Hardware runs as a notebook shows them."""

import pytest

pytest.importorskip("qiskit")

import torch

from qmtl import HeadCircuit, QuantumHead, Task
from qmtl.hardware import Progress, run, status


@pytest.fixture
def result(monkeypatch, tmp_path):
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "ledger.sqlite"))
    head = QuantumHead(HeadCircuit([Task.binary("<a>"), Task.multiclass("b", 3)]), seed=1)
    inputs = torch.zeros(2, head.n_features)
    quiet = Progress(write=len)
    return run(head, inputs, "aer", shots=100, progress=quiet)


def test_results_and_jobs(result):
    html = result._repr_html_()
    assert "&lt;a&gt;" in html
    assert "<a>" not in html
    assert "shots per sample" in html
    for row in result.table():
        assert f"{row['measured']:.4f}" in html
    jobs = status(result.run)._repr_html_()
    assert "stored" in jobs
    assert f"run {result.run} on aer" in jobs
