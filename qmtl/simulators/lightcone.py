"""LightCone: exact simulation in which every task runs on its light cone only."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import unknown_name
from qmtl.simulators.autograd import are_plain, engine_values, full_precision
from qmtl.simulators.chain import chain_applies, chain_cost, chain_values
from qmtl.simulators.engine import Engine
from qmtl.simulators.engine_choice import choose_plan, engine_of
from qmtl.simulators.explain import Explanation
from qmtl.simulators.memory import check_chain, fitted, memory_limit
from qmtl.simulators.plan import Group, Plan, build_plan
from qmtl.simulators._bridge import _Bridge
from qmtl.simulators.simulator import check_angles, checked_weights, stacked_weights

__all__ = ["LightConeSimulator"]

# Plans of task subsets are small; random missing labels can ask for many different ones.
CACHED_PLANS = 64
# Cones of fewer wires are not worth the question.
LONG_CHAIN = 9
ENGINES = ("compiled", "eager")


class LightConeSimulator(_Bridge):
    """Exact, batched simulation of head circuits on the tasks' light cones.

    A task's outputs depend only on the gates and wires of its backward light cone, so each task is
    a state vector of a few wires whatever the number of tasks; tasks of equal structure run as one
    batch. Values and gradients are exact. When all cones cover the whole circuit (``all_to_all``),
    this is an exact batched state-vector simulator, with one state for all tasks.

    Args:
        max_memory: bytes that a training step may take, by estimate, before an error is raised;
            None for three quarters of the machine's (or accelerator's) memory.
        engine: ``"compiled"`` uses the numba kernel on the CPU where it can, and torch elsewhere;
            ``"eager"`` always torch.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> weights = {"encoding": torch.zeros(4), "a": torch.zeros(6), "b": torch.zeros(6)}
        >>> values = LightConeSimulator().expectation_values(circuit, torch.zeros(3, 4), weights)
        >>> values["a"].flatten()
        tensor([1., 1., 1.])
    """

    def __init__(
        self, max_memory: int | None = None, engine: Literal["compiled", "eager"] = "compiled"
    ) -> None:
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
        self.max_memory = max_memory
        self.engine = engine
        self._lock = Lock()
        self._plans: OrderedDict[tuple[HeadCircuit, tuple[str, ...], bool], Plan] = OrderedDict()

    def plan(
        self, circuit: HeadCircuit, tasks: Sequence[str] | None = None, *, joint: bool = True
    ) -> Plan:
        """The plan for these tasks, made once and kept.

        Args:
            circuit: the head circuit.
            tasks: their names; None for all.
            joint: whether they may run on one state; never by the torch engine.
        """
        joint = joint and self.engine == "compiled"
        key = (circuit, tuple(circuit.registers) if tasks is None else tuple(tasks), joint)
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                chain = _chain(circuit, key[1]) if self.engine == "compiled" else ()
                plan = (choose_plan if joint else build_plan)(circuit, key[1], chain)
                self._plans[key] = plan
                while len(self._plans) > CACHED_PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
        return plan

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Cones, groups, amplitudes, bytes and operations of a step, without running one."""
        plan = self.plan(circuit)
        engines = [engine_of(group, compiled=self.engine == "compiled") for group in plan.groups]
        limit = memory_limit(torch.device("cpu"), self.max_memory)
        return Explanation.of(circuit, plan, engines, batch_size, dtype, limit)

    def _by_task(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Each task's outputs, shape (batch, n_outputs); see `Simulator`."""
        chosen = check_angles(circuit, angles, tasks)
        values, plan = self._values(circuit, angles, weights, chosen)
        return dict(zip(chosen, values.split(plan.sizes, dim=1), strict=True))

    def joined_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Tensor:
        """The same in one tensor, (batch, outputs of all tasks), in the order of the tasks.

        With hundreds of tasks, hundreds of small tensors cost more than the simulation. What the
        caller has to do with torch for each of them, `meanwhile` may do while threads are at work;
        it need not be called.
        """
        chosen = check_angles(circuit, angles, tasks)
        return self._values(circuit, angles, weights, chosen, meanwhile)[0]

    def _values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        chosen: tuple[str, ...],
        meanwhile: Callable[[], object] | None = None,
    ) -> tuple[Tensor, Plan]:
        def own(names: Sequence[str]) -> list[Tensor]:
            return checked_weights(circuit, weights, names, angles.dtype)

        with full_precision(angles):
            (encoding,) = own(("encoding",))
            plain = are_plain(angles, encoding, others=lambda: own(chosen))
            on_cpu = angles.device.type == "cpu" and len(angles) > 0
            plan = self.plan(circuit, chosen, joint=plain and on_cpu)
            if plan.is_joint and not torch.cat(own(chosen)).isfinite().all():
                # What is wrong with one task must not reach the others.
                plan = self.plan(circuit, chosen, joint=False)
            engines = self._engines(circuit, plan, angles, plain=plain)
            # The tasks' weights are looked at while threads are at work on the encoding.
            parts = [
                engine_values(
                    engine,
                    angles,
                    encoding,
                    meanwhile=None if i else meanwhile,
                    **_of_members(group, circuit, weights, angles.dtype),
                )
                for i, (engine, group) in enumerate(zip(engines, plan.groups, strict=True))
            ]
            if plan.chain:
                own(plan.chain)
                limit = memory_limit(angles.device, self.max_memory)
                chained = chain_values(circuit, angles, weights, plan.chain, limit)
                parts += [chained[task] for task in plan.chain]
            if not parts:
                return angles.new_zeros(len(angles), 0), plan
            values = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            if plan.order is not None:
                values = values[:, torch.from_numpy(plan.order).to(values.device)]
            return values, plan

    def _engines(
        self, circuit: HeadCircuit, plan: Plan, angles: Tensor, *, plain: bool
    ) -> list[Engine]:
        compiled = self.engine == "compiled" and plain and angles.device.type == "cpu"
        compiled = compiled and len(angles) > 0
        limit = memory_limit(angles.device, self.max_memory)
        itemsize, samples = angles.dtype.itemsize, len(angles)
        step = (samples, itemsize, limit, torch.get_num_threads(), plain, compiled)
        engines: list[Engine] | None = plan.kept.get(step)
        if engines is None:
            if samples:
                check_chain(circuit, plan, itemsize, limit)
            engines = [engine_of(group, compiled=compiled) for group in plan.groups]
            if plain:
                # Chunks are functions of their own, which torch cannot transform.
                engines = fitted(circuit, plan, engines, samples, itemsize, limit)
            if len(plan.kept) > CACHED_PLANS:
                plan.kept.clear()
            plan.kept[step] = engines
        return engines

    def __getstate__(self) -> dict[str, Any]:
        return {"max_memory": self.max_memory, "engine": self.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"LightConeSimulator(max_memory={self.max_memory}, engine={self.engine!r})"


def _of_members(
    group: Group, circuit: HeadCircuit, weights: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Callable[..., Any]]:
    """What gives `engine_values` the weights of each member, and checks them."""
    if len(group.members) == len(group.tasks):
        return {
            "own": lambda: list(map(weights.get, group.tasks)),
            "stacked": partial(stacked_weights, circuit, weights, group.tasks, dtype),
        }
    return {
        "own": lambda: [
            torch.cat(checked_weights(circuit, weights, member, dtype)) for member in group.members
        ]
    }


def _chain(circuit: HeadCircuit, tasks: Sequence[str]) -> tuple[str, ...]:
    """Tasks to run as matrix products, if that takes fewer operations than their cones."""
    # Cones along a chain grow with the wires; a few tell, and all of them would take long to find.
    some = {*tasks[:1], *tasks[len(tasks) // 2 :][:1], *tasks[-1:]}
    cones = [circuit.light_cone(task) for task in some]
    if max((len(cone.wires) for cone in cones), default=0) < LONG_CHAIN:
        return ()
    chained = tuple(task for task in tasks if chain_applies(circuit, task))
    if not chained:
        return ()
    amplitudes = sum(28 * len(cone.gates) << len(cone.wires) for cone in cones) // len(cones)
    cost = chain_cost(circuit, 1, 4, chained)
    return chained if cost.operations < len(chained) * amplitudes else ()
