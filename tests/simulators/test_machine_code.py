"""From functions to machine code: precision, what is called, and what is refused."""

import ctypes
from importlib import import_module

import pytest

from qmtl.errors import QmtlError
from qmtl.simulators import machine_code


def test_code_runs():
    def run(words):
        words[1] = words[0] + words[1]

    words = (ctypes.c_int64 * 2)(40, 2)
    address = machine_code.loaded(machine_code.object_file(run))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(words)
    assert list(words) == [40, 42]


@pytest.mark.parametrize("name", ["pauli", "amplitudes"])
def test_single_precision_is_not_left(name):
    from numba import types

    kernel = import_module(f"qmtl.simulators.{name}.kernel")
    text, _ = machine_code._lowered(kernel.program(types.float32))
    assert "float" in text
    assert "double" not in text


def test_functions_of_their_own_are_refused():
    def run(words):
        words[0] = max(words[1], words[2])

    with pytest.raises(QmtlError, match=r"must not call .*max"):
        machine_code.object_file(run)


def test_code_that_calls_others_is_refused():
    text = """
declare i32 @puts(ptr)
define i32 @kernel(ptr %a, ptr %b, ptr %c) {
  %d = call i32 @puts(ptr %c)
  ret i32 0
}
"""
    with pytest.raises(QmtlError, match="puts"):
        machine_code._optimised(text, "kernel")
