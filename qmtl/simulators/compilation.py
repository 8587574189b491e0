"""Kernels: compiled by numba once per machine, kept as object files, run in torch's threads.

Loading an object file takes milliseconds and needs llvmlite only: processes after the first do not
even import numba. A kernel is a module with a function ``program(real)``; it returns what to
compile for a precision. That takes a pointer to 64-bit words and works on items until none is left,
while other threads do the same. The words are: how many threads and how many items have been taken,
how many items there are, the threads' own memory, and then what `words` made of the rest.
"""

import hashlib
import importlib
import os
from array import array
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.errors import QmtlError
from qmtl.files import write_bytes
from qmtl.simulators.machine_code import loaded, object_file
from qmtl.simulators.threads import Background, run_in_threads, thread_count

__all__ = ["Form", "Kernel", "words"]

_HERE = Path(__file__).parent
DIGEST_BYTES = 32
_one_at_a_time = RLock()


def words(*arguments: int | NDArray[Any] | Tensor) -> list[int]:
    """A kernel's arguments: integers as they are, arrays and tensors as address and shape.

    Raises:
        QmtlError: if an array's numbers are not in a row: the kernel would read others.

    Example:
        >>> words(5, np.zeros((2, 3)))[2:]
        [2, 3]
    """
    found: list[int] = []
    for argument in arguments:
        if isinstance(argument, int):
            found.append(argument)
            continue
        if isinstance(argument, Tensor):
            # Several times as quick to ask as an array.
            in_a_row, address = argument.is_contiguous(), argument.data_ptr()
        else:
            in_a_row = argument.flags.c_contiguous
            address = argument.__array_interface__["data"][0]
        if not in_a_row:
            raise QmtlError(f"an array of shape {tuple(argument.shape)} is not contiguous")
        found.append(address)
        found += argument.shape
    return found


class Kernel:
    """A compiled kernel, for both precisions; compiled or loaded when it first runs.

    Args:
        module: name of the module with its ``program``.
    """

    def __init__(self, module: str) -> None:
        self.module = module

    def call(
        self,
        dtype: np.dtype[Any],
        n_items: int,
        own: tuple[int, ...],
        arguments: list[int],
        arrays: tuple[object, ...],
        fewest: int | None = None,
    ) -> "Call":
        """The kernel and all that it works on.

        Args:
            dtype: the precision.
            n_items: how many items there are.
            own: shape of the memory that each thread works in.
            arguments: `words` of all else.
            arrays: all that the words are of. Ctrl-C may end a call before its threads.
            fewest: items that are worth a thread, see `thread_count`.
        """
        n_threads = thread_count(n_items, fewest)
        memory = np.empty((n_threads, *own), dtype)
        table = array("q", (0, 0, n_items, *words(memory), *arguments))
        return Call(_address(self.module, dtype), n_threads, table, (memory, *arrays))


class Form:
    """A kernel's call with the addresses of some tensors left open, for many calls of one shape.

    Asking arrays for addresses and shapes takes longer than a small kernel.

    Args:
        kernel: what is called.
        dtype: the precision.
        n_items: how many items there are.
        own: shape of the memory that each thread works in.
        arguments: all else: integers, arrays, and shapes of the tensors that `call` is given.
    """

    def __init__(
        self,
        kernel: Kernel,
        dtype: torch.dtype,
        n_items: int,
        own: tuple[int, ...],
        arguments: Sequence[int | NDArray[Any] | tuple[int, ...]],
    ) -> None:
        self._n_threads, self._dtype = thread_count(n_items), dtype
        self._own = (self._n_threads, *own)
        self._address = _address(kernel.module, np.dtype(str(dtype).removeprefix("torch.")))
        self._arguments = arguments  # arrays, which must live as long as their addresses
        self._words, self._open = array("q", (0, 0, n_items)), list[int]()
        for argument in (self._own, *arguments):
            if isinstance(argument, tuple):
                self._open.append(len(self._words))
                self._words.extend((0, *argument))
            else:
                self._words.extend(words(argument))

    def call(self, *tensors: Tensor) -> "Call":
        """The call with these tensors, whose numbers are in a row.

        Raises:
            QmtlError: for a tensor without memory of its own, as subclasses of torch's may be.
        """
        memory = torch.empty(self._own, dtype=self._dtype, device="cpu")
        table, arrays = self._words[:], (memory, *tensors)
        for place, tensor in zip(self._open, arrays, strict=True):
            table[place] = address = tensor.data_ptr()
            if not address and tensor.numel():
                kind = type(tensor).__name__
                raise QmtlError(f"the numbers of a {kind} are not in memory; give a plain tensor")
        return Call(self._address, self._n_threads, table, (self, *arrays))


class Call(NamedTuple):
    """A kernel's call, to be run once.

    Attributes:
        address: of the kernel.
        n_threads: how many threads there is memory for.
        table: the kernel's words.
        arrays: what it works on.
    """

    address: int
    n_threads: int
    table: "array[int]"
    arrays: tuple[object, ...]

    def run(self) -> None:
        """Run it to the end."""
        run_in_threads(self.address, self.table.buffer_info()[0], self.n_threads, held=self)

    def start(self) -> Background:
        """Begin in other threads."""
        return Background(self.address, self.table.buffer_info()[0], self.n_threads, held=self)


@cache
def _address(module: str, precision: np.dtype[Any]) -> int:
    """Where the kernel is in memory."""
    # Glibc gives memory back to the system, which steps then ask for page by page, again and again
    # (5 % of one with two threads), until something of this size has once been freed.
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
    dtype = precision.name
    with _one_at_a_time:
        name = f"{module}-{dtype}-{_key(module)}.o"
        files = [folder / name for folder in _folders()]
        code = next((code for file in files if (code := _kept(file)) is not None), None)
        if code is None:
            code = _compiled(module, dtype)
            _keep(code, files)
        return loaded(code)


def _key(module: str) -> str:
    """Changes with everything that the object file depends on.

    Beside the compiler and the processor these are the kernel, its steps in files called after
    it, and the module that it shares constants with: ``program``, or ``x`` of ``x_kernel``.
    """
    from llvmlite import binding

    path = Path(__file__).parents[2].joinpath(*module.split("."))
    names = ("*kernel*.py", "program.py", f"{path.name.removesuffix('_kernel')}.py")
    own = sorted({file for name in names for file in path.parent.glob(name)})
    sources = (*own, _HERE / "machine_code.py", _HERE / "kernel_parts.py")
    processor = (binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    versions = (version("numba"), version("llvmlite"))
    texts = (*versions, *processor, *(source.read_text() for source in sources))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _folders() -> list[Path]:
    """Where object files may be, as numba chooses it: here, or in the user's folder."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return [Path(given)]
    here = [_HERE / "__pycache__"]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # whoever runs this has none
        return here
    return [*here, home / "qmtl"]


def _kept(file: Path) -> bytes | None:
    """The code in a file; None if there is none, or not what was written: it would crash."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    code, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(code: bytes, files: list[Path]) -> None:
    """Write the code to the first place that can be written; without any, do nothing."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, code + hashlib.sha256(code).digest())
        except OSError:
            continue
        return


def _compiled(module: str, dtype: str) -> bytes:
    """The object file of a kernel."""
    from numba import types

    return object_file(importlib.import_module(module).program(getattr(types, dtype)))
