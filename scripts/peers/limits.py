"""Run a command in a process of its own, under limits of time and memory."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.02
NO_MEMORY = ("MemoryError", "can't allocate memory", "Unable to allocate", "RESOURCE_EXHAUSTED")


@dataclass(frozen=True)
class Ran:
    """How a process ended, and the events that it printed until then, by name (the last of each).

    `status` is ``ok``, ``over time``, ``out of memory`` or ``failed: `` and the error's last line.
    """

    status: str
    events: dict


def one_thread(environment, threads=1):
    """The environment, with variables that limit numerical libraries to `threads` threads."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA", "VECLIB_MAXIMUM", "NUMEXPR", "RAYON")
    held = {f"{name}_NUM_THREADS": str(threads) for name in names}
    flags = f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}"
    folder = str(Path(__file__).resolve().parent.parent)
    return {
        **environment,
        **held,
        "QISKIT_PARALLEL": "FALSE",
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": folder,
    }


def run_limited(command, *, seconds, gigabytes, environment):
    """Run `command`; each JSON object that it prints on a line of its own is an event."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        try:
            status = _wait(process, time.monotonic() + seconds, gigabytes * 1e9)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0), err.seek(0)
        events = _events(out.read().decode(errors="replace"))
        if status is None:
            status = _ending(process.returncode, err.read().decode(errors="replace"))
    return Ran(status, events)


def _wait(process, deadline, limit):
    """Return None when the process has ended by itself, or the reason to stop it."""
    while process.poll() is None:
        if time.monotonic() > deadline:
            return "over time"
        if resident_bytes(process.pid) > limit:
            return "out of memory"
        time.sleep(POLL_SECONDS)
    return None


def _ending(code, errors):
    if code == 0:
        return "ok"
    if any(sign in errors for sign in NO_MEMORY) or code == -signal.SIGKILL:
        return "out of memory"
    last = errors.strip().splitlines()[-1:] or [f"exit status {code}"]
    return f"failed: {last[0][:200]}"


def _events(text):
    events = {}
    for line in text.splitlines():
        # Libraries print, too.
        if line.startswith('{"event": '):
            event = json.loads(line)
            events[event.pop("event")] = event
    return events


def resident_bytes(pid):
    """Memory of a process in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def emit(event, **values):
    """Print an event for the process that waits for it."""
    print(json.dumps({"event": event, **values}), flush=True)


def output_of(command):
    """Return the output of a short command, or nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{command[0]}: {done.stderr.strip()[-200:]}", file=sys.stderr)
    return done.stdout.strip()
