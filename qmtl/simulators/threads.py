"""Running a compiled function in several threads: those that torch has already.

After a parallel operation torch's OpenMP workers spin for some milliseconds, waiting for the next
one. Threads of our own would compete with them for the cores, so a kernel is handed to these very
workers, through the entry point of the OpenMP runtime that torch itself is linked to. Where there
is none (torch built with another runtime), or after a fork, whose child has lost OpenMP's workers,
a pool of threads does it.
"""

import ctypes
import os
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from qmtl.errors import QmtlError

__all__ = ["Background", "run_in_threads", "thread_count"]

# A thread for a few small items costs more than it saves.
ITEMS_PER_THREAD = 16
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PROCESS = os.getpid()
# The team that a thread has started and not yet ended.
_THREAD = threading.local()
# Teams that were forgotten, by the thread that alone can end them.
_ABANDONED: "dict[int, Background]" = {}


def thread_count(n_items: int, fewest: int | None = None) -> int:
    """How many threads to use for so many items: at most as many as torch itself uses.

    Args:
        n_items: how many there are.
        fewest: how many of them are worth a thread; None for `ITEMS_PER_THREAD`.

    Example:
        >>> thread_count(1)
        1
    """
    fewest = ITEMS_PER_THREAD if fewest is None else fewest
    return max(1, min(torch.get_num_threads(), n_items // fewest))


def run_in_threads(address: int, data: int, n_threads: int, held: object = None) -> None:
    """Call the C function ``void (*)(void *)`` at `address` with `data`, once in each thread.

    OpenMP may grant fewer threads: the function takes its work from a common counter. Threads hold
    what is `held`, since Ctrl-C may end the waiting before their work.
    """
    function = _FUNCTION(address)
    if n_threads == 1:
        function(data)
        return
    parallel = _openmp() if os.getpid() == _PROCESS else None
    if parallel is not None:
        parallel(address, data, n_threads, 0)
        return
    for part in _submitted(function, data, n_threads, held):
        part.result()


class Background:
    """The same call in all threads but this one, until `finish` lends this one, too.

    OpenMP's older entry points start a team without waiting for it. Until it ends, torch takes this
    thread for a member of the team, and its operations run in this thread alone. A thread has one
    such team at a time: a second one waits for the first.

    Args:
        address: of the function.
        data: its argument.
        n_threads: with this one.
        held: what must live as long as the function runs.
    """

    def __init__(self, address: int, data: int, n_threads: int, held: object = None) -> None:
        self._is_done = True
        self._thread: int | None = None
        self._local = _THREAD
        self._function, self._data, self._held = _FUNCTION(address), data, held
        self._parts: list[Future[None]] = []
        self._process = os.getpid()
        thread = threading.get_ident()
        abandoned = _ABANDONED.pop(thread, None)
        if abandoned is not None and abandoned._process == self._process:
            abandoned.finish()
        if n_threads == 1:
            self._is_done = False
            return
        before = getattr(_THREAD, "running", lambda: None)()
        if before is not None and before._process == self._process:
            before.finish()
        team = _team() if os.getpid() == _PROCESS else None
        if team is None:
            self._parts = _submitted(self._function, data, n_threads - 1, held)
            self._is_done = False
            return
        start, self._end = team
        self._thread, _THREAD.running = thread, weakref.ref(self)
        self._is_done = False
        try:
            start(address, data, n_threads)
        except BaseException:
            # Ctrl-C is raised after the call: the team is at work.
            self.finish()
            raise

    def finish(self) -> None:
        """Take part until all work is done.

        Raises:
            QmtlError: in a forked process, which has none of its parent's threads.
        """
        if self._is_done:
            return
        self._is_done = True
        if os.getpid() != self._process:
            raise QmtlError("a process forked within a step cannot go on with that step")
        self._join()

    def _join(self) -> None:
        try:
            self._function(self._data)
        finally:
            # Also after Ctrl-C: the team must not outlive its memory.
            if self._thread is not None:
                self._end()
                self._local.__dict__.pop("running", None)
        for part in self._parts:
            part.result()

    # By defaults, since at the end of the interpreter modules may be gone.
    def __del__(self, getpid: Any = os.getpid, thread: Any = threading.get_ident) -> None:
        if self._is_done or getpid() != self._process:
            return
        if self._thread is None or self._thread == thread():
            self._is_done = True
            self._join()
        else:
            # Only the thread that started the team can end it, when it starts its next one.
            _ABANDONED[self._thread] = self


@cache
def _openmp() -> Any:
    """`GOMP_parallel` of torch's own OpenMP runtime (LLVM's and Intel's have it, too), if any."""
    function = _of_runtime("GOMP_parallel")
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return function


@cache
def _team() -> tuple[Any, Any] | None:
    """What starts and what ends a team of threads that need not be waited for, if any."""
    start, end = _of_runtime("GOMP_parallel_start"), _of_runtime("GOMP_parallel_end")
    if start is None or end is None:
        return None
    start.argtypes, end.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint), ()
    return start, end


def _of_runtime(name: str) -> Any:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # Symbols are looked for in the libraries that torch's is linked to, too.
        function = getattr(ctypes.CDLL(str(library)), name)
    except (OSError, AttributeError):
        return None
    function.restype = None
    return function


def _submitted(function: Any, data: int, n: int, held: object) -> "list[Future[None]]":
    """Calls of the function in `n` threads of a pool."""

    def call(_: object) -> None:
        function(data)

    return [_pool(os.getpid(), n).submit(call, held) for _ in range(n)]


@cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="qmtl")
