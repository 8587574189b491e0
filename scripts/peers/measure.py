"""Measure a step inside a process: its time, and its memory above the start."""

import gc
import os
import platform
import resource
import time
from pathlib import Path

from peers.limits import emit, resident_bytes

MIN_STEPS, MAX_STEPS, WARM_UP = 3, 1000, 2


class PeakMemory:
    """The peak of a process's memory above its size when this object was made."""

    def __init__(self):
        gc.collect()
        try:
            # Clears the high-water mark: imports may have taken more memory than they keep.
            Path("/proc/self/clear_refs").write_text("5")
            self.cleared = True
        except OSError:
            self.cleared = False
        self.start = resident_bytes(os.getpid()) if self.cleared else _highest()

    def megabytes(self):
        return max(0, _highest() - self.start) / 1e6


def _highest():
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        factor = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def milliseconds(step):
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def time_steps(step, seconds):
    """Emit step times for about `seconds`, as soon as known, since a limit may end the process."""
    times = []
    # Two runs warm a step up; for a slow step, the first run counts.
    for _ in range(WARM_UP):
        warm = milliseconds(step)
        if warm > 1e3 * seconds:
            times.append(warm)
            emit("steps", ms=times)
            break
    while len(times) < MAX_STEPS and (len(times) < MIN_STEPS or sum(times) < 1e3 * seconds):
        times.append(milliseconds(step))
        if times[-1] > 100 or len(times) == MIN_STEPS:
            emit("steps", ms=times)
    emit("steps", ms=times)


def pin(cpu):
    """Keep this process on one CPU, where the system allows it, so that it runs one thread."""
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})


def machine_name():
    """The processor and its number of CPUs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} CPUs"
