"""The benchmark against peers: all compute the same, limits hold, and nothing is hidden."""

import csv
import hashlib
import importlib
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from peers.catalogue import NOT_RUN, PEERS, install_hint, own_environment
from peers.cell import errors
from peers.limits import Ran, one_thread, run_limited
from peers.ours import head_circuit, reference
from peers.problem import all_gates, n_weights, without_rot
from peers.rounds import TOLERANCES, Cell
from peers.table import (
    COLUMNS,
    as_csv,
    as_markdown,
    as_text,
    kept_beside,
    read_csv,
    rows_of,
)

from tests.scripts.conftest import load_script

ALWAYS = ("qmtl", "torch-cone", "pennylane-cone", "pennylane", "lightning")
BY_NAME = {peer.name: peer for peer in PEERS}


@pytest.fixture(scope="module")
def problems():
    return {n_tasks: reference(n_tasks, batch=3, seed=0) for n_tasks in (2, 3, 4)}


def run_peer(name, problem, dtype):
    module, _, function = BY_NAME[name].build.partition(":")
    step = getattr(importlib.import_module(f"peers.{module}"), function)(problem, dtype)
    # Two steps: gradients must not pile up.
    step()
    return errors(step(), problem)


@pytest.mark.parametrize("name", ALWAYS)
def test_peers_that_are_always_there_agree_with_the_reference(name, problems):
    assert max(run_peer(name, problems[2], "float64").values()) < TOLERANCES["float64"]


@pytest.mark.parametrize("name", ["qmtl", "torch-cone", "pennylane-cone"])
@pytest.mark.parametrize("n_tasks", [3, 4])
def test_cones_agree_when_they_wrap_around_the_ring(name, n_tasks, problems):
    assert max(run_peer(name, problems[n_tasks], "float64").values()) < TOLERANCES["float64"]


@pytest.mark.parametrize("name", ["qmtl", "torch-cone", "lightning"])
def test_single_precision_is_within_its_tolerance(name, problems):
    worst = max(run_peer(name, problems[2], "float32").values())
    assert 1e-10 < worst < TOLERANCES["float32"]


def test_our_circuit_is_the_one_that_peers_build():
    circuit = head_circuit(3)
    expected = without_rot(all_gates(3))
    assert sorted((g.name, g.wires) for g in circuit.gates() if g.name != "CZ") == sorted(
        (g.name, g.wires) for g in expected if g.name != "CZ"
    )
    pairs = [
        sorted(tuple(sorted(g.wires)) for g in gates if g.name == "CZ")
        for gates in (circuit.gates(), expected)
    ]
    assert pairs[0] == pairs[1]
    assert circuit.count_parameters().circuit == n_weights(3)


def test_every_peer_has_a_name_of_its_own_and_a_hint():
    assert len({peer.name for peer in PEERS}) == len({peer.label for peer in PEERS}) == len(PEERS)
    assert all(peer.pip in install_hint() for peer in PEERS if peer.group == "peer")


def python(code):
    return [sys.executable, "-S", "-c", code]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", "ok"),
        ("import time; time.sleep(60)", "over time"),
        ("import time; x = b'1' * 10**9; time.sleep(60)", "out of memory"),
        ("raise MemoryError('too much')", "out of memory"),
        ("raise ValueError('no such gate')", "failed: ValueError: no such gate"),
    ],
)
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory is watched through /proc")
def test_a_process_ends_as_it_should(code, status):
    seconds = 0.3 if status == "over time" else 30.0
    ran = run_limited(
        python(code), seconds=seconds, gigabytes=0.3, environment=one_thread(dict(os.environ))
    )
    assert ran.status == status


def test_what_was_measured_before_the_limit_is_kept():
    code = (
        'import time; print(\'chatter\'); print(\'{"event": "first", "ms": 7.0}\', flush=True);'
        "time.sleep(60)"
    )
    ran = run_limited(python(code), seconds=1.0, gigabytes=1.0, environment=dict(os.environ))
    assert (ran.status, ran.events) == ("over time", {"first": {"ms": 7.0}})


def ran_round(times, error=1e-12, status="ok"):
    events = {"first": {"ms": 50.0}, "end": {"peak_mb": 3.0}, "steps": {"ms": times}}
    events["check"] = dict.fromkeys(("outputs", "features", "weights"), error)
    return Ran(status, events)


def timed_cell(name, rounds, **changes):
    cell = Cell(BY_NAME[name], 2)
    for times in rounds:
        cell.add_round(ran_round(times, **changes))
    return cell


def test_ratios_are_taken_within_rounds():
    ours = timed_cell("qmtl", [[1.0, 1.0, 9.0], [2.0], [4.0]])
    peer = timed_cell("torch-cone", [[10.0], [20.0], [80.0]])
    assert (ours.step_ms, peer.step_ms, peer.ratio_to(ours)) == (2.0, 20.0, 10.0)


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_disagreement_is_reported_and_stays(error):
    cell = Cell(BY_NAME["torch-cone"], 2)
    cell.add_check(ran_round([], error), "float64")
    cell.add_round(ran_round([1.0]))
    assert cell.status == "disagrees"
    rows = rows_of([cell], {"batch": 1, "machine": "m", "date": "d"})
    assert "disagrees" in as_text(rows)
    assert "disagrees" in as_markdown(rows)
    assert rows[0]["tolerance"] == TOLERANCES["float64"]


def test_a_truncated_peer_may_differ_and_is_marked():
    cell = timed_cell("tensorcircuit-pauliprop", [[1.0]], error=0.02)
    assert cell.status == "truncated"
    rows = rows_of([cell], {"batch": 1, "machine": "m", "date": "d"})
    assert "(truncated, error 0.02)" in as_markdown(rows)
    assert "truncated" in as_text(rows)


def test_an_environment_is_made_once_and_pins_everything(tmp_path):
    own = [peer for peer in PEERS if peer.environment]
    assert all("==" in wanted for peer in own for wanted in peer.environment)
    torches = {wanted for peer in own for wanted in peer.environment if "torch==" in wanted}
    assert torches == {"torch==2.13.0"}
    name = hashlib.sha256(" ".join(own[0].environment).encode()).hexdigest()[:12]
    (tmp_path / name).mkdir()
    (tmp_path / name / "ready").touch()
    assert own_environment(own[0], tmp_path) == str(tmp_path / name / "bin" / "python")


def test_peers_that_are_not_run_have_a_reason():
    labels = {peer.label for peer in PEERS}
    assert all(len(reason) > 20 and name not in labels for name, reason in NOT_RUN.items())


def test_a_linear_layer_is_timed_and_not_compared(problems):
    step = importlib.import_module("peers.linear").build(problems[2], "float32")
    assert step() is None


def test_a_cell_that_ends_early_says_why():
    cell = Cell(BY_NAME["pennylane"], 2)
    cell.add_round(Ran("out of memory", {}))
    rows = rows_of([cell], {"batch": 1, "machine": "m", "date": "d"})
    assert (rows[0]["status"], rows[0]["step_ms"]) == ("out of memory", None)
    assert "| out of memory |" in as_markdown(rows)


def test_ratios_in_the_same_precision_use_our_double_precision():
    cells = [timed_cell("qmtl", [[1.0]]), timed_cell("qmtl-double", [[2.0]])]
    cells += [timed_cell("pennylane", [[10.0]]), timed_cell("lightning", [[30.0]])]
    rows = rows_of(cells, {})
    assert [row["ratio"] for row in rows] == [1, 2, 10, 30]
    assert [row["ratio_same_precision"] for row in rows] == [1, 1, 5, 30]


def test_csv_has_the_columns_and_reads_back():
    text = as_csv(rows_of([timed_cell("qmtl", [[1.5]])], {"date": "2026-01-01"}))
    (row,) = csv.DictReader(text.splitlines())
    assert tuple(row) == COLUMNS
    assert (row["step_ms"], row["wires"], row["date"]) == ("1.5", "4", "2026-01-01")


def test_earlier_runs_are_kept_beside_a_new_one():
    cells = [timed_cell("qmtl", [[1.5]]), timed_cell("pennylane", [[9.0]])]
    facts = {"seed": 0, "batch": 32, "machine": "m"}
    before = rows_of(cells, facts | {"date": "2026-01-01"})
    again = read_csv(as_csv(before))
    assert again == read_csv(as_csv(again))
    new = rows_of(
        [timed_cell("qmtl", [[2.0]])], {"date": "2026-01-02", "batch": 32, "machine": "m"}
    )
    found = kept_beside(new, again)
    assert [(row["peer"], row["date"], row["step_ms"], row["ratio"]) for row in found] == [
        ("qmtl", "2026-01-02", 2.0, 1),
        ("pennylane", "2026-01-01", 9.0, 6),
    ]
    assert "2026-01-01, 2026-01-02" in as_markdown(found)


def test_nothing_is_compared_with_itself(problems):
    wrong = replace(problems[2], outputs=problems[2].outputs + 1e-6)
    assert max(run_peer("torch-cone", wrong, "float64").values()) > 1e-7


@pytest.mark.slow
def test_one_command_writes_the_table_and_the_plot(tmp_path, monkeypatch):
    out = tmp_path / "new" / "peers.csv"
    options = ["--tasks", "2", "--large", "--rounds", "1", "--seconds", "0.01"]
    command = ["bench_peers", "--peers", "torch-cone", *options, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    load_script("bench_peers").main()
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["peer"], row["status"], row["error_dtype"]) == ("torch-cone", "ok", "float64")
    assert np.isfinite([float(row[key]) for key in ("step_ms", "first_ms", "peak_mb")]).all()
    assert "torch" in row["versions"]
    assert out.with_suffix(".md").read_text().startswith("| ms per step |")
    monkeypatch.setattr(sys, "argv", ["plot_bench", str(out), "--out", str(tmp_path / "peers.png")])
    load_script("plot_bench").main()
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
