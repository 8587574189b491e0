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

    Args:
        address: of the function.
        data: its argument.
        n_threads: with this one.
        held: what must live as long as the function runs.
    """

    # What Ctrl-C leaves half made has none.
    _team: "weakref.ref[_Team] | None" = None

    def __init__(self, address: int, data: int, n_threads: int, held: object = None) -> None:
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._is_done = False
        self._parts: list[Future[None]] = []
        function = _FUNCTION(address)
        self._own = _Part(function, data, held)
        _end_running()
        if n_threads == 1:
            return
        entries = _team_entries() if self._process == _PROCESS else None
        if entries is None:
            self._parts = _submitted(function, data, n_threads - 1, held)
            return
        try:
            self._team = weakref.ref(_Team(address, n_threads, self._own, entries))
        except BaseException:
            # Ctrl-C is raised after the call: the team is at work.
            _end_running()
            raise

    def finish(self) -> None:
        """Take part until all work is done.

        Raises:
            QmtlError: in a forked process, which has none of its parent's threads, or in another
                thread than the one that began it.
        """
        if self._is_done:
            return
        if os.getpid() != self._process:
            self._is_done = True
            raise QmtlError("a process forked within a step cannot go on with that step")
        if self._team is None:
            self._own.call()
            for part in self._parts:
                part.result()
        else:
            if self._thread != threading.get_ident():
                raise QmtlError("a step that one thread began cannot be ended by another one")
            team = self._team()
            if team is not None:
                team.finish()
        self._is_done = True

    # By defaults, since at the end of the interpreter modules may be gone.
    def __del__(self, getpid: Any = os.getpid, thread: Any = threading.get_ident) -> None:
        if self._team is None or getpid() != self._process or thread() != self._thread:
            return
        team = self._team()
        if team is not None:
            team.finish()


class _Part:
    """What a thread does of the work: it calls the function, once, whatever signals come."""

    def __init__(self, function: Any, data: int, held: object) -> None:
        self.function, self.data, self._held = function, data, held
        self._is_called = False

    def call(self) -> None:
        if not self._is_called:
            # Python looks at signals after calls: none comes between a flag and what it is for.
            self._is_called = True
            self.function(self.data)


class _Team:
    """Threads at work that need not be waited for, by OpenMP's older entry points.

    Until it ends, torch takes the thread that started it for a member of the team, and its
    operations run in this thread alone. That thread alone can end it, and alone keeps it, so that
    no Ctrl-C loses it, and that it is ended before the thread is (but for threads that the end of
    the interpreter leaves over). A thread has one team at a time.
    """

    _is_ended = True

    def __init__(self, address: int, n_threads: int, own: _Part, entries: tuple[Any, Any]) -> None:
        start, self._end = entries
        self._own, self._threads = own, _THREAD
        self.process, self._thread = os.getpid(), threading.get_ident()
        _THREAD.running = self
        self._is_ended = False
        start(address, own.data, n_threads)

    def finish(self) -> None:
        """Take part, and end it."""
        try:
            self._own.call()
        finally:
            # Also after Ctrl-C: the team must not outlive its memory.
            if not self._is_ended:
                self._is_ended = True
                try:
                    self._end()
                finally:
                    self._threads.__dict__.pop("running", None)

    # At the end of the interpreter the main thread drops what daemon threads have.
    def __del__(self, getpid: Any = os.getpid, thread: Any = threading.get_ident) -> None:
        if not self._is_ended and getpid() == self.process and thread() == self._thread:
            self.finish()


def _end_running() -> None:
    """End the team that this thread has started; of one of before a fork there is nothing left."""
    team = getattr(_THREAD, "running", None)
    if team is None:
        return
    if team.process == os.getpid():
        team.finish()
    _THREAD.__dict__.pop("running", None)


@cache
def _openmp() -> Any:
    """`GOMP_parallel` of torch's own OpenMP runtime (LLVM's and Intel's have it, too), if any."""
    function = _of_runtime("GOMP_parallel")
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return function


@cache
def _team_entries() -> tuple[Any, Any] | None:
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
