"""LightCone: exact simulation in which every task runs on its light cone only."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import unknown_name
from qmtl.simulators.angles import by_slot, fixed_angles, sample_angles
from qmtl.simulators.compiled import compiled_values
from qmtl.simulators.eager import eager_values
from qmtl.simulators.explain import Explanation, check_memory
from qmtl.simulators.plan import Group, Plan, build_plan
from qmtl.simulators.program import Program, program_of
from qmtl.simulators.simulator import check_inputs

__all__ = ["LightConeSimulator"]

# Plans of task subsets are small; random missing labels can ask for many different ones.
CACHED_PLANS = 64
ENGINES = ("compiled", "eager")


class LightConeSimulator:
    """Exact, batched simulation of head circuits on the tasks' light cones.

    A task's outputs depend only on the gates and wires of its backward light cone, so each task is
    a state vector of a few wires whatever the number of tasks; tasks of equal structure run as one
    batch. Values and gradients are exact. When a cone covers the whole circuit (``cnot_ring``,
    ``all_to_all``), this is an exact batched state-vector simulator.

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
        self._plans: OrderedDict[tuple[HeadCircuit, tuple[str, ...]], Plan] = OrderedDict()

    def plan(self, circuit: HeadCircuit, tasks: Sequence[str] | None = None) -> Plan:
        """The plan for these tasks, made once and kept."""
        key = (circuit, tuple(circuit.registers) if tasks is None else tuple(tasks))
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = build_plan(circuit, key[1])
                while len(self._plans) > CACHED_PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
        return plan

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Cones, groups, amplitudes, bytes and operations of a step, without running one."""
        plan = self.plan(circuit)
        compiled = self.engine == "compiled"
        return Explanation.of(circuit, plan, batch_size, dtype, self.max_memory, compiled=compiled)

    def expectation_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Each task's outputs, shape (batch, n_outputs); see `Simulator`."""
        chosen = check_inputs(circuit, angles, weights, tasks)
        plan = self.plan(circuit, chosen)
        compiled = self.engine == "compiled" and _plain_cpu(angles, *weights.values())
        compiled = compiled and len(angles) > 0
        check_memory(circuit, plan, angles, self.max_memory, compiled=compiled)
        columns = angles.T.contiguous()
        parts: dict[str, list[tuple[tuple[int, ...], Tensor]]] = {name: [] for name in chosen}
        for group in plan.groups:
            program = program_of(group) if compiled else None
            outputs = _group_values(group, program, columns, weights)
            members = zip(group.tasks, group.outputs, outputs.permute(0, 2, 1), strict=True)
            for name, which, part in members:
                parts[name].append((which, part))
        return {name: _joined(found) for name, found in parts.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"max_memory": self.max_memory, "engine": self.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"LightConeSimulator(max_memory={self.max_memory}, engine={self.engine!r})"


def _joined(parts: list[tuple[tuple[int, ...], Tensor]]) -> Tensor:
    """A task's outputs in order, from the parts that were run apart."""
    if len(parts) == 1:
        return parts[0][1]
    return torch.cat([part for _, part in sorted(parts, key=lambda found: found[0])], dim=1)


def _plain_cpu(*tensors: Tensor) -> bool:
    """Whether the compiled kernel can read these: on the CPU, and not being transformed."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(
        tensor.device.type == "cpu" and forward_ad.unpack_dual(tensor).tangent is None
        for tensor in tensors
    )


def _group_values(
    group: Group, program: Program | None, columns: Tensor, weights: Mapping[str, Tensor]
) -> Tensor:
    """Outputs of a group, shape (tasks, n_outputs, samples)."""
    own = torch.stack([weights[name] for name in group.tasks])
    cone_fixed = fixed_angles(group.encoding_slots, weights["encoding"])
    if program is not None and program.row_index is not None:
        task_fixed = fixed_angles(group.block_slots, own)
        return compiled_values(program, columns, cone_fixed, task_fixed)
    sample = sample_angles(group.encoding_slots, columns, weights["encoding"])
    task_fixed = fixed_angles(group.block_slots, own)
    if program is not None:
        return compiled_values(program, sample.flatten(0, 1), cone_fixed, task_fixed)
    block_sample = sample_angles(group.block_slots, columns, own)
    return eager_values(
        group, sample, cone_fixed, by_slot(group.block_slots, block_sample, task_fixed)
    )
