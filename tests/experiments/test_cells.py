"""The store: results are kept whole, failures are tried again, damage is not believed."""

import math

from qmtl.experiments._cells import CellResult, CellStore, Failure
from qmtl.experiments._grid import cell_of
from tests.experiments.bench_samples import result, tiny


def sample():
    cell = cell_of(tiny(), "linear", 0, {"training.learning_rate": 0.01}, "data")
    record = result(key=cell.key, setting=cell.setting, test={"a": math.nan, "b": 0.5})
    failure = Failure(
        key=cell.key, head="linear", seed=0, setting=cell.setting, error="E: no", traceback="…"
    )
    return cell, record, failure


def test_what_is_written_is_read(tmp_path):
    cell, record, _ = sample()
    store = CellStore(tmp_path / "deep" / "cells")
    assert store.read(cell) is None
    store.write(cell, record)
    read = store.read(cell)
    assert isinstance(read, CellResult)
    assert math.isnan(read.test["a"]["accuracy"])
    assert read.main("test")["b"] == 0.5
    assert [path.name for path in store.folder.iterdir()] == [f"{cell.name}.json"]


def test_a_result_replaces_a_failure_but_not_the_other_way_round(tmp_path):
    cell, record, failure = sample()
    store = CellStore(tmp_path)
    store.write(cell, failure)
    assert isinstance(store.read(cell), Failure)
    store.write(cell, record)
    store.write(cell, failure)
    assert isinstance(store.read(cell), CellResult)


def test_damaged_files_and_those_of_other_cells_are_none(tmp_path):
    cell, record, _ = sample()
    store = CellStore(tmp_path)
    store.write(cell, record)
    whole = store.path(cell).read_text()
    for text in ("", whole[: len(whole) // 2], "[]", whole.replace('"format": 1', '"format": 2')):
        store.path(cell).write_text(text)
        assert store.read(cell) is None
    store.path(cell).write_text(whole.replace(cell.key, "0" * 64))
    assert store.read(cell) is None
    store.path(cell).write_bytes(b"\xff\xfe")
    assert store.read(cell) is None
