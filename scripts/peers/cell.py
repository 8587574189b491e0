"""One cell of the table, in a process of its own: ``python -m peers.cell PEER PROBLEM DTYPE``.

Prints events as JSON: ``ready``, ``first`` (building and the first step, compilation included),
``check`` (largest errors against the reference), ``steps`` (times), ``end`` (peak of memory above
the imports).
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import sys
import time

import numpy as np

from peers.catalogue import PEERS
from peers.limits import emit
from peers.measure import PeakMemory, pin, time_steps
from peers.problem import Problem


def versions(peer):
    """Versions of what the peer needs, by the names of the distributions."""
    by_package = importlib.metadata.packages_distributions()
    wanted = [name for part in (*peer.needs, "torch") for name in by_package.get(part, [part])]
    found = {}
    for distribution in dict.fromkeys(wanted):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[distribution] = importlib.metadata.version(distribution)
    return found


def errors(result, problem):
    pairs = {
        "outputs": (result.outputs, problem.outputs),
        "features": (result.feature_gradient, problem.feature_gradient),
        "weights": (result.weight_gradient, problem.weight_gradient),
    }
    return {
        name: float(np.abs(np.asarray(got, dtype=np.float64) - expected).max())
        for name, (got, expected) in pairs.items()
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=[peer.name for peer in PEERS])
    parser.add_argument("problem")
    parser.add_argument("dtype", choices=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=0.0, help="0: check only")
    parser.add_argument("--cpu", type=int)
    arguments = parser.parse_args()
    pin(arguments.cpu)
    peer = next(peer for peer in PEERS if peer.name == arguments.peer)
    module, _, function = peer.build.partition(":")
    build = getattr(importlib.import_module(f"peers.{module}"), function)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    problem = Problem.load(arguments.problem)
    emit("ready", versions=versions(peer))
    memory = PeakMemory()
    start = time.perf_counter()
    step = build(problem, arguments.dtype)
    result = step()
    emit("first", ms=1e3 * (time.perf_counter() - start))
    if result is not None:
        emit("check", **errors(result, problem))
    if arguments.seconds:
        time_steps(step, arguments.seconds)
    emit("end", peak_mb=memory.megabytes())


if __name__ == "__main__":
    main()
