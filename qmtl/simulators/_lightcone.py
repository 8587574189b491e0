"""LightConeSimulator: exact simulation of every task on its light cone only."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from qmtl._html import bytes_text
from qmtl.circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError, InvalidInputError, unknown_name
from qmtl.simulators._angles import TableBuilder
from qmtl.simulators._autograd import Step
from qmtl.simulators._chain import ChainEngine, chained_tasks
from qmtl.simulators._choice import choose_plan, engine_of
from qmtl.simulators._cones import wire_table
from qmtl.simulators._contract import (
    ANGLE_MAPS,
    Dependencies,
    Simulator,
    cause_of_size,
    check_angles,
    check_weights,
    memory_limit,
    output_layout,
)
from qmtl.simulators._engine import Engine, Program
from qmtl.simulators._explain import Explanation, GroupCost, largest_chunk
from qmtl.simulators._plan import Plan, build_plan
from qmtl.tasks import chosen_tasks

# Most cached plans. Random missing labels can need many plans of task subsets, which are small.
CACHED_PLANS = 64
ENGINES = ("compiled", "eager")


class LightConeSimulator(Simulator):
    """Exact, batched simulation of head circuits on the tasks' light cones.

    A task's outputs depend only on the gates and wires of its backward light cone. So each task is
    a state vector of a few wires, for any number of tasks, and tasks of equal structure run as one
    batch. Values and gradients are exact. If all cones cover the whole circuit (``all_to_all``),
    this is an exact batched state-vector simulator with one state for all tasks.

    Args:
        max_memory: bytes that a training step may take: larger batches run in chunks, and an error
            is raised if one sample does not fit. None for three quarters of the machine's (or
            accelerator's) memory.
        engine: ``"compiled"`` uses numba's kernels on the CPU if possible, and torch elsewhere;
            ``"eager"`` always uses torch on state vectors.

    Raises:
        InvalidInputError: for an unknown engine, or a memory that is not a number > 0.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> weights = torch.zeros(circuit.n_circuit_weights)
        >>> LightConeSimulator().values(circuit, torch.zeros(3, 4), weights)
        tensor([[1., 1.],
                [1., 1.],
                [1., 1.]])
    """

    def __init__(
        self, max_memory: int | None = None, engine: Literal["compiled", "eager"] = "compiled"
    ) -> None:
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
        is_number = isinstance(max_memory, int | float) and not isinstance(max_memory, bool)
        if max_memory is not None and not (is_number and max_memory > 0):
            raise InvalidInputError(f"max_memory must be bytes > 0, or None, got {max_memory!r}")
        self.max_memory = max_memory
        self.engine = engine
        self._programs = lru_cache(CACHED_PLANS)(self._new)
        self._steps = lru_cache(CACHED_PLANS)(self._new_step)
        # Usually the next step equals the last one, and reusing it saves a look-up.
        self._last: tuple[HeadCircuit, tuple[Any, ...], Step] | None = None

    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        if is_dynamo_compiling():
            # torch.compile would only make the kernels slower.
            from qmtl._uncompiled import uncompiled

            values: Tensor = uncompiled(self.values, circuit, angles, weights, tasks)
            return values
        chosen = check_angles(circuit, angles, tasks)
        check_weights(circuit, weights, angles)
        return self._step(circuit, angles, chosen, None)(angles, None, weights)

    def logits(
        self,
        circuit: HeadCircuit,
        features: Tensor,
        encoding: Tensor,
        blocks: Tensor,
        scales: Tensor,
        *,
        angle_map: str = "narrow",
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        if is_dynamo_compiling():
            from qmtl._uncompiled import uncompiled

            parts = features, encoding, blocks, scales
            logits: Tensor = uncompiled(
                self.logits, circuit, *parts, angle_map=angle_map, tasks=tasks
            )
            return logits
        chosen, kind = None if tasks is None else tuple(tasks), features.dtype
        step = self._step(circuit, features, chosen, angle_map)
        if not (scales.dtype is encoding.dtype is blocks.dtype is kind):
            raise InvalidInputError(
                f"features must be {encoding.dtype} as the head's weights are, got {kind} "
                f"(blocks {blocks.dtype}, scales {scales.dtype})"
            )
        lengths = (scales.numel(), encoding.numel(), blocks.numel())
        if lengths != step.lengths:
            raise InvalidInputError(
                f"scales, encoding and blocks must have {step.lengths} numbers, got {lengths}"
            )
        return step(features, scales, encoding, blocks)

    def dependencies(self, circuit: HeadCircuit) -> Dependencies:
        plan = self._prepare(circuit, None, joint=False).plan
        place = {task: i for i, task in enumerate(plan.tasks)}
        features, weights = [np.zeros((2, 0), np.int64)], [np.zeros((2, 0), np.int64)]
        for group in plan.groups:
            own, encoding = [place[task] for task in group.tasks], group.encoding.columns
            features += [_pairs(own, encoding.features), _pairs(own, group.block.columns.features)]
            weights.append(_pairs(own, encoding.weights))
        for task in plan.chain:
            gates = np.array(circuit.light_cone(task).positions, np.int64)
            angles = wire_table(circuit).angles.at(gates[None])
            features.append(_pairs([place[task]], angles.features))
            weights.append(_pairs([place[task]], angles.weights))
        return Dependencies(_distinct(features), _distinct(weights))

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Return cones, groups, amplitudes, bytes and operations of a step, without running one."""
        program = self._prepare(circuit, None)
        plan, engines = program.plan, program.engines
        limit = memory_limit(torch.device("cpu"), self.max_memory)
        size = (batch_size, dtype.itemsize, limit)
        costs = [
            GroupCost.of(group, engine, size)
            for group, engine in zip(plan.groups, engines, strict=False)
        ]
        if plan.chain:
            chain, n_wires = engines[-1], circuit.n_wires
            inner = max(len(circuit.register(task).wires) for task in plan.chain)
            costs.append(GroupCost.of_chain(plan.chain, chain, (n_wires, inner), size))
        return Explanation(len(plan.tasks), circuit.n_wires, batch_size, dtype, limit, tuple(costs))

    def to_dict(self) -> dict[str, Any]:
        return {"type": "lightcone", "max_memory": self.max_memory, "engine": self.engine}

    def plan(self, circuit: HeadCircuit, tasks: Sequence[str] | None = None) -> Plan:
        """Return the plan for these tasks (None: all), cached."""
        return self._prepare(circuit, tasks).plan

    def _prepare(
        self, circuit: HeadCircuit, tasks: Sequence[str] | None, *, joint: bool = True
    ) -> Program:
        chosen = None if tasks is None else tuple(tasks)
        # All tasks in the circuit's order have the same plan as None.
        chosen = None if chosen == tuple(circuit.registers) else chosen
        return self._programs(circuit, chosen, joint)

    def _new(self, circuit: HeadCircuit, tasks: tuple[str, ...] | None, joint: bool) -> Program:
        names = chosen_tasks(tasks, circuit.registers)
        compiled = self.engine == "compiled"
        chained = chained_tasks(circuit, names) if compiled else ()
        builder = TableBuilder()
        chain = [ChainEngine(circuit, names, chained, builder)] if chained else []
        plan = build_plan(circuit, names, chained, builder=builder)
        if joint and compiled and not chained:
            plan = choose_plan(circuit, names, plan)
        engines = [engine_of(group, compiled=compiled) for group in plan.groups]
        return Program(plan, [*engines, *chain])

    def _step(self, circuit: HeadCircuit, features: Tensor, *which: Any) -> Step:
        """Return the cached step for features of this kind and for `which` tasks and angle map."""
        shape, last = features.shape, self._last
        if shape and type(shape[0]) is not int:
            # In an exported program the batch size is a symbol, and torch operations ignore it.
            shape = torch.Size((0, *shape[1:]))
        key = (shape, features.dtype, features.device), *which
        if last is None or last[0] is not circuit or last[1] != key:
            self._last = last = circuit, key, self._steps(circuit, *key)
        return last[2]

    def _new_step(
        self,
        circuit: HeadCircuit,
        size: tuple[torch.Size, torch.dtype, torch.device],
        tasks: tuple[str, ...] | None,
        angle_map: str | None,
        joint: bool = True,
    ) -> Step:
        shape, dtype, device = size
        if len(shape) != 2 or shape[1] != circuit.n_features:
            raise InvalidInputError(
                f"features must have shape (batch, {circuit.n_features}), got {tuple(shape)}"
            )
        if angle_map is not None and angle_map not in ANGLE_MAPS:
            raise unknown_name("angle map", angle_map, ANGLE_MAPS)
        program = self._prepare(circuit, tasks, joint=joint)
        plan, engines = program.plan, program.engines
        samples, itemsize, limit = shape[0], dtype.itemsize, memory_limit(device, self.max_memory)
        chunk = largest_chunk(engines, samples, itemsize, limit)
        if samples and not chunk:
            _refuse(circuit, plan, engines, itemsize, limit)
        layout = None if angle_map is None else output_layout(circuit, plan.tasks)
        mapped = None if angle_map is None else ANGLE_MAPS[angle_map]
        is_joint = any(group.joint is not None for group in plan.groups)
        apart = partial(self._steps, circuit, size, tasks, angle_map, False) if is_joint else None
        return Step(circuit, program, mapped, layout, max(chunk, 1), apart)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_memory, self.engine)

    def __repr__(self) -> str:
        return f"LightConeSimulator(max_memory={self.max_memory}, engine={self.engine!r})"


def _pairs(tasks: Sequence[int], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pair each task with its values, shape (2, pairs); values have a row per task, or one row."""
    rows = values.reshape(len(values), -1)
    every = np.broadcast_to(rows, (len(tasks), rows.shape[1]))
    return np.stack([np.repeat(np.array(tasks, np.int64), rows.shape[1]), every.ravel()])


def _distinct(parts: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pairs = np.concatenate(parts, axis=1)
    tasks, indices = np.unique(pairs[:, pairs[1] >= 0], axis=1)
    return tasks, indices


def _refuse(
    circuit: HeadCircuit, plan: Plan, engines: Sequence[Engine], itemsize: int, limit: int
) -> None:
    """Raise an error that names the task whose cone is too large, and the reason.

    Raises:
        CircuitTooLargeError: always.
    """
    needed = [engine.step_bytes(1, itemsize) for engine in engines]
    worst = max(range(len(engines)), key=needed.__getitem__)
    if worst >= len(plan.groups):
        task, wires = plan.chain[0], circuit.n_wires
        inner = len(circuit.register(task).wires)
        what = f"its light cone is a chain of up to {wires} wires"
    else:
        group = plan.groups[worst]
        task, wires = group.tasks[0], group.structure.n_wires
        inner = len(circuit.register(task).wires) if group.joint else group.structure.n_inner
        what = f"its light cone has {wires} of {circuit.n_wires} wires"
    raise CircuitTooLargeError(
        f"task {task!r}: {what}; a step of one sample would take about "
        f"{bytes_text(needed[worst])}, the limit is {bytes_text(limit)}. "
        f"{cause_of_size(circuit, task, wires, inner)}"
    )
