"""Every notebook runs from top to bottom, and is committed with the outputs of a full run."""

import os
import re
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import KernelManager
from traitlets.config import Config

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WITH_DATA = [path for path in NOTEBOOKS if "QMTL_DATA" in path.read_text(encoding="utf-8")]
MEGABYTE = 1e6
LONGEST_CELL = 30  # lines
# Figures are drawn once, small: to cut their margins off, they would be drawn twice.
SMALL_FIGURES = """%matplotlib inline
%config InlineBackend.print_figure_kwargs = {"bbox_inches": None, "dpi": 30}"""
MAY_DEFINE_CLASSES = "08"  # how to write parts of your own


def _read(path):
    return nbformat.read(path, as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 8


class Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        """Figures inside a notebook need no window."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Execute the small form of a notebook in a new folder, as Jupyter's kernels do.

    In this process, which has imported what notebooks need.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QMTL_SMOKE", "1")
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "ledger.sqlite"))
    config = Config()
    config.HistoryManager.enabled = False
    for name in ("ps1", "ps2", "ps3"):  # prompts, which IPython sets
        monkeypatch.setattr(sys, name, "", raising=False)
    shell = Shell.instance(config=config)

    def execute(notebook, data):
        monkeypatch.setenv("QMTL_DATA", str(data))
        for source in (SMALL_FIGURES, *(cell.source for cell in _code(notebook))):
            shell.run_cell(source).raise_error()

    backend = matplotlib.get_backend()
    with plt.rc_context():
        yield execute
        plt.close("all")
    matplotlib.use(backend)
    shell.restore_sys_module_state()
    Shell.clear_instance()


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_without_data_sets(path, run, tmp_path):
    run(_read(path), tmp_path / "absent")


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_DATA, ids=lambda path: path.stem)
def test_runs_on_data_sets(path, run, data_folder):
    run(_read(path), data_folder)


def test_an_error_of_a_cell_is_one_here(run, tmp_path):
    cell = nbformat.v4.new_code_cell("1 / 0")
    with pytest.raises(ZeroDivisionError):
        run(nbformat.v4.new_notebook(cells=[cell]), tmp_path)


TRAINING = """
import torch, qmtl
data = qmtl.data.from_arrays(torch.randn(40, 2), {"a": torch.arange(40) % 2})
circuit = qmtl.HeadCircuit(data.tasks)
encoder = qmtl.encoders.MLP(2, out_features=circuit.n_features, seed=0)
model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
result = qmtl.fit(model, data, max_epochs=3, seed=0)
"""


@pytest.mark.slow
def test_training_leaves_one_line_of_html_and_nothing_on_standard_error(tmp_path):
    """In a kernel of Jupyter."""
    cells = [nbformat.v4.new_code_cell(source) for source in (TRAINING, "result")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path)
    try:
        nbclient.NotebookClient(notebook, km=manager, timeout=300).execute()
    finally:
        manager.shutdown_kernel(now=True)
    (bar,), (shown,) = (cell.outputs for cell in notebook.cells)
    assert "epoch 3/3" in bar.data["text/html"]
    assert "validation loss" in bar.data["text/html"]
    steps = bar.data["text/html"].split('value="')[1].split('"')[0]
    assert f'max="{steps}"' in bar.data["text/html"]
    assert "<svg role" in shown.data["text/html"]
    assert shown.data["text/plain"].startswith("Result(3 epochs")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_clean_outputs(path):
    notebook = _read(path)
    nbformat.validate(notebook)
    assert os.stat(path).st_size < MEGABYTE
    cells = [cell for cell in _code(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert "error" not in kinds
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not re.findall(r"/(?:root|work|home|tmp|Users)/", str(outputs))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_asks_a_question_in_short_cells(path):
    notebook = _read(path)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?" in first.source
    for cell in _code(notebook):
        assert cell.source.count("\n") < LONGEST_CELL
        assert path.stem.startswith(MAY_DEFINE_CLASSES) or "class " not in cell.source
