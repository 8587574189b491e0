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
    assert compilation._kept(files[1]) == b"code"
    assert not files[2].exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"x" + content[1:],
        lambda content: content + b"x",
    ],
)
def test_a_file_with_other_code_is_as_none(tmp_path, change):
    file = tmp_path / "k.o"
    compilation._keep(b"machine code", [file])
    assert compilation._kept(file) == b"machine code"
    file.write_bytes(change(file.read_bytes()))
    assert compilation._kept(file) is None


def test_what_cannot_be_read_is_as_none(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert compilation._kept(tmp_path / "k.o") is None


def test_without_a_home_the_package_is_the_only_folder(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert len(compilation._folders()) == 1


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


def test_the_key_changes_with_the_module_that_constants_are_from(monkeypatch):
    before, read = compilation._key("qmtl.training.pivoting_kernel"), Path.read_text

    def changed(path, *arguments, **options):
        return read(path, *arguments, **options) + "#" * (path.name == "pivoting.py")

    monkeypatch.setattr(Path, "read_text", changed)
    assert compilation._key("qmtl.training.pivoting_kernel") != before
