"""What training shows: a bar in a notebook, a bar on a terminal, lines in a log."""

import sys
from types import SimpleNamespace

import pytest

from qmtl._html import in_notebook
from qmtl.training._loggers import EpochBar, EpochLines, NotebookBar, progress_callback

CELL = """
import torch, qmtl
data = qmtl.data.from_arrays(torch.randn(40, 2), {"a": torch.arange(40) % 2})
circuit = qmtl.HeadCircuit(data.tasks)
encoder = qmtl.encoders.MLP(2, out_features=circuit.n_features, seed=0)
model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
result = qmtl.fit(model, data, max_epochs=3, seed=0)
"""


def test_choice(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(progress_callback(), EpochLines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress_callback(), EpochBar)
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert in_notebook()
    assert isinstance(progress_callback(), NotebookBar)
    # IPython on a terminal has no kernel.
    shell.get_ipython = lambda: SimpleNamespace()
    assert not in_notebook()


@pytest.mark.slow
def test_in_a_notebook(tmp_path):
    """One line of HTML is left, and nothing on standard error."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    cells = [nbformat.v4.new_code_cell(source) for source in (CELL, "result")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    (bar,), (shown,) = (cell.outputs for cell in notebook.cells)
    assert "epoch 3/3" in bar.data["text/html"]
    assert "validation loss" in bar.data["text/html"]
    steps = bar.data["text/html"].split('value="')[1].split('"')[0]
    assert f'max="{steps}"' in bar.data["text/html"]
    assert "<svg role" in shown.data["text/html"]
    assert shown.data["text/plain"].startswith("Result(3 epochs")
