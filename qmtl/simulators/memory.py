"""Fitting a step into memory: the whole batch at once, or in chunks, or not at all."""

import os
from collections.abc import Sequence
from functools import cache

import torch

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators.cause_of_size import cause_of_size
from qmtl.simulators.chain import chain_cost
from qmtl.simulators.chunks import ChunkedEngine
from qmtl.simulators.engine import Engine
from qmtl.simulators.plan import Plan

__all__ = ["bytes_text", "check_chain", "fitted", "largest_chunk", "memory_limit"]


def memory_limit(device: torch.device, max_memory: int | None) -> int:
    """Bytes that a step may take on `device`."""
    if max_memory is not None:
        return max_memory
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1] * 0.75)
    return int(_machine_memory() * 0.75)


@cache
def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def largest_chunk(engine: Engine, samples: int, itemsize: int, limit: int) -> int:
    """How many samples a chunk may have; 0 if not even one sample fits."""
    while samples and engine.step_bytes(samples, itemsize) > limit:
        samples //= 2
    return samples


def fitted(
    circuit: HeadCircuit,
    plan: Plan,
    engines: Sequence[Engine],
    samples: int,
    itemsize: int,
    limit: int,
) -> list[Engine]:
    """The engines of a plan's groups, on chunks of the batch if the whole batch does not fit.

    Raises:
        CircuitTooLargeError: not even one sample fits; the cause is named.
    """
    if sum(engine.step_bytes(samples, itemsize) for engine in engines) <= limit:
        return list(engines)
    found: list[Engine] = []
    for group, engine in zip(plan.groups, engines, strict=True):
        chunk = largest_chunk(engine, samples, itemsize, limit)
        if not chunk:
            task, wires = group.tasks[0], group.n_wires
            is_joint = len(group.members[0]) > 1
            inner = len(circuit.register(task).wires) if is_joint else group.n_inner
            raise CircuitTooLargeError(
                f"task {task!r}: its light cone has {wires} of {circuit.n_wires} wires; a step of "
                f"one sample would take about {bytes_text(engine.step_bytes(1, itemsize))}, the "
                f"limit is {bytes_text(limit)}. "
                f"{cause_of_size(circuit, task, wires, inner)}"
            )
        found.append(ChunkedEngine(engine, chunk))
    return found


def check_chain(circuit: HeadCircuit, plan: Plan, itemsize: int, limit: int) -> None:
    """Raise `CircuitTooLargeError` if a chain's matrix products do not fit for one sample."""
    if not plan.chain:
        return
    cost = chain_cost(circuit, 1, itemsize, plan.chain)
    if cost.bytes > limit:
        task = plan.chain[0]
        raise CircuitTooLargeError(
            f"task {task!r}: its light cone is a chain of up to {circuit.n_wires} wires, whose "
            f"matrix products have bonds of {cost.bond}; a step of one sample would take about "
            f"{bytes_text(cost.bytes)}, the limit is {bytes_text(limit)}. "
            f"{cause_of_size(circuit, task, circuit.n_wires, len(circuit.register(task).wires))}"
        )


def bytes_text(number: float) -> str:
    """A number of bytes to three digits.

    Example:
        >>> bytes_text(1_234_567)
        '1.23 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} EB"
