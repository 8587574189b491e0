"""What a noisy simulation costs before it runs, with noisy cones beside ideal ones."""

from collections.abc import Sequence

import torch

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.simulators.engine import Engine
from qmtl.simulators.explain import Explanation, GroupCost
from qmtl.simulators.memory import largest_chunk
from qmtl.simulators.noisy_cones import NoisyCone
from qmtl.simulators.noisy_vectors import programs_of

__all__ = ["explain_noisy", "seen_wires"]


def seen_wires(cone: NoisyCone) -> tuple[int, ...]:
    """The wires of all gates and noise that a task's outputs depend on.

    Fewer than the cone's: gates that leave alone what the outputs look at add none, unless their
    noise does.

    Example:
        >>> from qmtl import AngleEncoding, HeadCircuit, Task
        >>> from qmtl.noise import DeviceNoise
        >>> from qmtl.simulators.noisy_cones import noisy_cones
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(4)], AngleEncoding(1))
        >>> (cone,) = noisy_cones(circuit, DeviceNoise.uniform(0.01, 0.01), ["t1"])
        >>> len(seen_wires(cone)), len(circuit.light_cone("t1").wires)
        (6, 4)
    """
    seen: set[int] = set()
    for program in programs_of(cone):
        seen.update(wire for step in program.steps for wire in step.wires)
        seen.update(wire for wire, _ in program.read)
    return tuple(cone.wires[wire] for wire in sorted(seen))


def explain_noisy(
    circuit: HeadCircuit,
    groups: Sequence[tuple[Sequence[NoisyCone], Engine]],
    batch_size: int,
    dtype: torch.dtype,
    limit: int,
) -> Explanation:
    """The explanation of groups of noisy cones; see `NoisySimulator.explain`."""
    costs = [
        _cost(circuit, cones, engine, batch_size, dtype.itemsize, limit) for cones, engine in groups
    ]
    n_tasks = sum(len(cones) for cones, _ in groups)
    return Explanation(n_tasks, circuit.n_wires, batch_size, dtype, limit, tuple(costs))


def _cost(
    circuit: HeadCircuit,
    cones: Sequence[NoisyCone],
    engine: Engine,
    batch_size: int,
    itemsize: int,
    limit: int,
) -> GroupCost:
    chunk = largest_chunk(engine, batch_size, itemsize, limit)
    tasks = tuple(cone.task for cone in cones)
    return GroupCost(
        tasks=tasks,
        n_cones=len(cones),
        cone_wires=len(seen_wires(cones[0])),
        block_wires=len(circuit.register(tasks[0]).wires),
        amplitudes=0,
        engine=engine.name,
        chunk=chunk,
        bytes=engine.step_bytes(chunk or 1, itemsize),
        operations=engine.step_operations(batch_size),
        sizes=(),
        ideal_wires=max(len(circuit.light_cone(task).wires) for task in tasks),
        numbers=max(program.largest for program in programs_of(cones[0])),
    )
