"""Every notebook runs from top to bottom, and is committed with the outputs of a full run."""

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WITH_DATA = [path for path in NOTEBOOKS if "QMTL_DATA" in path.read_text(encoding="utf-8")]
MEGABYTE = 1e6
LONGEST_CELL = 30  # lines
MAY_DEFINE_CLASSES = "08"  # how to write parts of your own


def _read(path):
    return nbformat.read(path, as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 8


def run(path, folder, data, monkeypatch):
    """Execute the small form of a notebook in a folder."""
    monkeypatch.setenv("QMTL_DATA", str(data))
    monkeypatch.setenv("QMTL_SMOKE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("QMTL_LEDGER", str(folder / "ledger.sqlite"))
    client = nbclient.NotebookClient(
        _read(path),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()  # raises with the cell and its traceback


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_without_data_sets(path, tmp_path, monkeypatch):
    run(path, tmp_path, tmp_path / "absent", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_DATA, ids=lambda path: path.stem)
def test_runs_on_data_sets(path, tmp_path, monkeypatch, data_folder):
    run(path, tmp_path, data_folder, monkeypatch)


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
