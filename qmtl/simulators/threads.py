"""Running a compiled function in several threads: those that torch has already.

After a parallel operation torch's OpenMP workers spin for some milliseconds, waiting for the next
one. Threads of our own would compete with them for the cores, so a kernel is handed to these very
workers, through the entry point of the OpenMP runtime that torch itself is linked to. Where there
is none (torch built with another runtime), or after a fork, whose child has lost OpenMP's workers,
a pool of threads does it.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["run_in_threads", "thread_count"]

# A thread for a few items costs more than it saves.
ITEMS_PER_THREAD = 16
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()


def thread_count(n_items: int) -> int:
    """How many threads to use for so many items: at most as many as torch itself uses.

    Example:
        >>> thread_count(1)
        1
    """
    return max(1, min(torch.get_num_threads(), n_items // ITEMS_PER_THREAD))


def run_in_threads(address: int, data: int, n_threads: int) -> None:
    """Call the C function ``void (*)(void *)`` at `address` with `data`, once in each thread.

    OpenMP may grant fewer threads: the function takes its work from a common counter.
    """
    function = _FUNCTION(address)
    if n_threads == 1:
        function(data)
        return
    process = os.getpid()
    parallel = _openmp() if process == _PROCESS else None
    if parallel is not None:
        parallel(address, data, n_threads, 0)
        return
    pool = _pool(process, n_threads)
    for part in [pool.submit(function, data) for _ in range(n_threads)]:
        part.result()


@cache
def _openmp() -> Any:
    """`GOMP_parallel` of torch's own OpenMP runtime (LLVM's and Intel's have it, too), if any."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # Symbols are looked for in the libraries that torch's is linked to, too.
        function = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    function.restype = None
    return function


@cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="qmtl")
