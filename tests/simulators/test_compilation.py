"""Kernels on disk: found again by later processes, which need no numba; never half written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qmtl import HeadCircuit, Task
from qmtl.errors import QmtlError
from qmtl.simulators import LightConeSimulator, compilation
from tests.strategies import random_angles, random_weights

FIRST_STEP = """
import sys, torch
from qmtl import HeadCircuit, QuantumHead, Task
head = QuantumHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]), seed=0)
head(torch.zeros(2, head.n_features))
print("numba" in sys.modules)
"""


def test_later_processes_do_not_import_numba():
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
    angles, weights = random_angles(circuit, 2, torch.float32), random_weights(circuit)
    weights = {name: weight.float() for name, weight in weights.items()}
    LightConeSimulator().expectation_values(circuit, angles, weights)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "False", done.stderr


def test_arrays_that_a_kernel_could_not_read_are_refused():
    with pytest.raises(QmtlError, match=r"\(3, 2\) is not contiguous"):
        compilation.words(np.zeros((2, 3)).T)


def test_the_first_folder_that_can_be_written_is_used(tmp_path):
    (tmp_path / "file").write_text("")
    files = [tmp_path / "file" / "k.o", tmp_path / "new" / "k.o", tmp_path / "other" / "k.o"]
    compilation._keep(b"code", files)
    assert files[1].read_bytes() == b"code"
    assert not files[2].exists()


def test_without_a_place_nothing_is_kept():
    file = Path("/proc/none/k.o")
    compilation._keep(b"code", [file])
    assert not file.exists()


def test_folders_follow_the_environment(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert compilation._folders() == [Path("/elsewhere")]
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert compilation._folders()[1] == Path("/caches/qmtl")


def test_the_key_changes_with_the_kernel():
    pauli, amplitudes = (f"qmtl.simulators.{name}.kernel" for name in ("pauli", "amplitudes"))
    assert compilation._key(pauli) == compilation._key(pauli)
    assert compilation._key(pauli) != compilation._key(amplitudes)
