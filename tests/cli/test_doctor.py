"""qmtl doctor: what it finds, and what it says is missing."""

import re
import sys

import pytest
import torch

from qmtl.cli import doctor
from qmtl.cli.doctor import needed


def test_a_healthy_installation(qmtl, monkeypatch):
    monkeypatch.setattr(
        doctor, "declared", lambda: ["torch>=2.6", "no-such-thing>=1; extra == 'odd'"]
    )
    shown = qmtl.good("doctor")
    lines = shown.splitlines()
    assert lines[0].startswith("qmtl 0.")
    assert any(line.split()[:1] == ["torch"] and ">=2.6" in line for line in lines)
    assert (
        '  odd  missing no-such-thing>=1: pip install -c scripts/constraints.txt -e ".[odd]"'
        in lines
    )
    assert "default.qubit" in shown
    assert "light cones: a first training step in" in shown
    steps = [line for line in lines if re.search(r"rows +[0-9.]+ ms with 1 thread", line)]
    assert [line.split(" rows")[0].split() for line in steps] == [
        ["5", "tasks,", "32"],
        ["128", "tasks,", "256"],
    ]
    assert torch.get_num_threads() == 1
    assert lines[-1] == "all is well"


def test_something_that_cannot_be_done_without(qmtl, monkeypatch):
    monkeypatch.setattr(doctor, "declared", lambda: ["no-such-thing>=1", "torch>=99"])
    answer = qmtl("doctor")
    assert answer.code == 1
    command = "pip install -c scripts/constraints.txt -e ."
    assert f"no-such-thing>=1 is missing; in the clone of qmtl: {command}" in answer.out
    assert "torch>=99 is unfit; 2." in answer.out
    assert "all is well" not in answer.out


def test_an_engine_that_does_not_work(qmtl, monkeypatch):
    monkeypatch.setattr(doctor, "declared", list)
    monkeypatch.setattr("qmtl.heads.QuantumHead", lambda *a, **k: 1 / 0)
    answer = qmtl("doctor")
    assert answer.code == 1
    assert "light cones: ZeroDivisionError: division by zero" in answer.out


def test_without_torch(qmtl, monkeypatch):
    monkeypatch.setattr(doctor, "declared", list)
    monkeypatch.setitem(sys.modules, "torch", None)
    answer = qmtl("doctor")
    assert answer.code == 1
    assert "torch cannot be imported" in answer.out
    assert "Traceback" not in answer.out + answer.err


@pytest.mark.parametrize(
    ("text", "extra", "state"),
    [
        ("torch>=2.6", "", "ok"),
        ("torch>=2.6,<2.7", "", "unfit"),
        ('torch>=2.6; extra == "x"', "x", "ok"),
        ('none-such>=1; extra == "x"', "x", "missing"),
        ('torch>=2.6; python_version >= "3.11" and extra == "x"', "x", "ok"),
    ],
)
def test_requirements(text, extra, state):
    (found,) = needed([text])
    assert (found.extra, found.state) == (extra, state)


def test_what_does_not_apply_is_left_out():
    assert needed(['torch; python_version < "3"', 'qmtl[x]; extra == "all"']) == []


def test_the_metadata_of_the_package_can_be_read():
    found = needed(doctor.declared())
    assert {"torch", "pennylane"} <= {one.name for one in found if not one.extra}
    assert {"ibm", "text", "ray"} <= {one.extra for one in found}
    assert doctor._extras([one for one in found if one.extra]).startswith("extras")
