"""Every notebook runs from top to bottom, and is committed with the outputs of a full run."""

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client.manager import KernelManager

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WITH_DATA = [path for path in NOTEBOOKS if "QMTL_DATA" in path.read_text(encoding="utf-8")]
MEGABYTE = 1e6
LONGEST_CELL = 30  # lines
# Figures are drawn once, small: to cut their margins off, they would be drawn twice.
SMALL_FIGURES = """%matplotlib inline
%config InlineBackend.print_figure_kwargs = {"bbox_inches": None, "dpi": 30}"""
# As tests/conftest.py does: to look through a million modules' objects, to ask all packages for
# plugins at each training, and to place labels takes longer than most cells.
QUICK_KERNEL = """
import functools, gc, importlib.metadata
import matplotlib.pyplot, pytorch_lightning, qmtl, torch
gc.set_threshold(10 * gc.get_threshold()[0], *gc.get_threshold()[1:])
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
from matplotlib.layout_engine import ConstrainedLayoutEngine
ConstrainedLayoutEngine.execute = lambda engine, figure: None
"""
MAY_DEFINE_CLASSES = "08"  # how to write parts of your own


def _read(path):
    return nbformat.read(path, as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 8


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks, since to start one and to import takes longer than most."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"OMP_NUM_THREADS": "1", "QMTL_SMOKE": "1"})
    first = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(QUICK_KERNEL)])
    nbclient.NotebookClient(first, km=manager, timeout=300).execute()
    yield manager
    manager.shutdown_kernel(now=True)


def run(path, kernel, folder, data):
    """Execute the small form of a notebook in a folder, without names that others have left.

    Returns:
        What the notebook's own cells have put out.
    """
    variables = {"QMTL_DATA": str(data), "QMTL_LEDGER": str(folder / "ledger.sqlite")}
    # %reset collects garbage, of which modules are none.
    fresh = f"import gc\ngc.freeze()\n%reset -f\n{SMALL_FIGURES}\n"
    fresh += f"import os\nos.chdir({str(folder)!r})\n"
    fresh += f"os.environ |= {variables}\ndel os"
    notebook = _read(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
    # Raises with the cell and its traceback.
    nbclient.NotebookClient(notebook, km=kernel, timeout=300).execute()
    return [cell.outputs for cell in _code(notebook)[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_without_data_sets(path, kernel, tmp_path):
    run(path, kernel, tmp_path, tmp_path / "absent")


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_DATA, ids=lambda path: path.stem)
def test_runs_on_data_sets(path, kernel, tmp_path, data_folder):
    run(path, kernel, tmp_path, data_folder)


def test_a_notebook_sees_no_names_of_another(kernel, tmp_path):
    for number, code in enumerate(["left = 1", "assert 'left' not in globals()"]):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, tmp_path / f"{number}.ipynb")
        run(tmp_path / f"{number}.ipynb", kernel, tmp_path, tmp_path)


TRAINING = """
import torch, qmtl
data = qmtl.data.from_arrays(torch.randn(40, 2), {"a": torch.arange(40) % 2})
circuit = qmtl.HeadCircuit(data.tasks)
encoder = qmtl.encoders.MLP(2, out_features=circuit.n_features, seed=0)
model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
result = qmtl.fit(model, data, max_epochs=3, seed=0)
"""


@pytest.mark.slow
def test_training_leaves_one_line_of_html_and_nothing_on_standard_error(kernel, tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in (TRAINING, "result")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "training.ipynb")
    (bar,), (shown,) = run(tmp_path / "training.ipynb", kernel, tmp_path, tmp_path)
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
