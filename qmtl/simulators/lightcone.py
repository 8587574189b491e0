"""LightCone: exact simulation in which every task runs on its light cone only."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.simulators.explain import Explanation, check_memory
from qmtl.simulators.plan import Group, Plan, SlotTable, build_plan
from qmtl.simulators.simulator import check_inputs
from qmtl.simulators.statevector import apply_layers, encode, to_complex

__all__ = ["LightConeSimulator"]

# Plans of task subsets are small; random missing labels can ask for many different ones.
CACHED_PLANS = 64


class LightConeSimulator:
    """Exact, batched simulation of head circuits on the tasks' light cones.

    A task's outputs depend only on the gates and wires of its backward light cone, so each task is
    a state vector of a few wires whatever the number of tasks; tasks of equal structure run as one
    batch. Values and gradients are exact. When a cone covers the whole circuit (``cnot_ring``,
    ``all_to_all``), this is an exact batched state-vector simulator.

    Args:
        max_memory: bytes that a training step may take, by estimate, before an error is raised;
            None for three quarters of the machine's (or accelerator's) memory.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> weights = {"encoding": torch.zeros(4), "a": torch.zeros(6), "b": torch.zeros(6)}
        >>> values = LightConeSimulator().expectation_values(circuit, torch.zeros(3, 4), weights)
        >>> values["a"].flatten()
        tensor([1., 1., 1.])
    """

    def __init__(self, max_memory: int | None = None) -> None:
        self.max_memory = max_memory
        self._plans: OrderedDict[tuple[HeadCircuit, tuple[str, ...]], Plan] = OrderedDict()

    def plan(self, circuit: HeadCircuit, tasks: Sequence[str] | None = None) -> Plan:
        """The plan for these tasks, made once and kept."""
        key = (circuit, tuple(circuit.registers) if tasks is None else tuple(tasks))
        if key not in self._plans:
            self._plans[key] = build_plan(circuit, key[1])
            while len(self._plans) > CACHED_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Cones, groups, amplitudes, bytes and operations of a step, without running one."""
        return Explanation.of(circuit, self.plan(circuit), batch_size, dtype, self.max_memory)

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
        check_memory(circuit, plan, angles, self.max_memory)
        columns = angles.T.contiguous()
        values: dict[str, Tensor] = {}
        for group in plan.groups:
            outputs = _group_values(group, columns, weights)
            values.update(zip(group.tasks, outputs.permute(0, 2, 1).unbind(0), strict=True))
        return {name: values[name] for name in chosen}

    def __getstate__(self) -> dict[str, Any]:
        return {"max_memory": self.max_memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"LightConeSimulator(max_memory={self.max_memory})"


def _slot_angles(table: SlotTable, columns: Tensor, weights: Tensor) -> list[Tensor]:
    """Angles of every slot, each (cones, samples or 1), in radians.

    Args:
        table: where they come from.
        columns: features, shape (n_features, samples).
        weights: flat weights shared by all cones, or (cones, n_weights) with a row for each.
    """
    device = columns.device
    angles: dict[int, Tensor] = {}
    for slots, by_sample in ((table.feature_slots, True), (table.weight_slots, False)):
        if not len(slots):
            continue
        constants = torch.from_numpy(table.constants[:, slots, None]).to(columns)
        value = constants
        for factor in range(table.features.shape[2] if by_sample else 0):
            index = torch.from_numpy(table.features[:, slots, factor])
            chosen = columns[index.clamp(min=0).to(device)]
            present = (index >= 0).to(device)[..., None]
            value = value * (chosen if bool((index >= 0).all()) else chosen.where(present, 1.0))
        index = torch.from_numpy(table.weights[:, slots])
        if bool((index >= 0).any()):
            safe = index.clamp(min=0).to(device)
            chosen = weights[safe] if weights.ndim == 1 else weights.gather(1, safe)
            chosen = (
                chosen if bool((index >= 0).all()) else chosen.where((index >= 0).to(device), 1.0)
            )
            value = value * chosen[..., None]
        angles.update(zip(slots.tolist(), value.unbind(1), strict=True))
    return [angles[slot] for slot in range(len(angles))]


def _group_values(group: Group, columns: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Outputs of a group, shape (tasks, n_outputs, samples)."""
    n_tasks, samples = len(group.tasks), columns.shape[1]
    own = torch.stack([weights[name] for name in group.tasks])
    encoding = _slot_angles(group.encoding_slots, columns, weights["encoding"])
    state = encode(group.encoding, encoding, group.n_wires, columns)
    state = state.expand(group.n_cones, -1, -1, samples)
    block = _slot_angles(group.block_slots, columns, own)
    state = _apply_block(group, state, block)
    rest = 2 ** (group.n_wires - group.n_inner) * state.shape[2]
    inner = state.square().reshape(state.shape[0], 2**group.n_inner, rest, samples).sum(2)
    readout = torch.from_numpy(group.readout).to(columns)
    return (readout @ inner).expand(n_tasks, -1, -1)


def _apply_block(group: Group, state: Tensor, angles: Sequence[Tensor]) -> Tensor:
    """The tasks' blocks on the encoded states.

    Where the block is the same for all samples and has fewer columns than there are amplitudes
    beside it, its unitary is built once and applied as one batched product.
    """
    n_tasks, samples = len(group.tasks), state.shape[3]
    if not group.block:
        return state
    dim, rest = 2**group.n_inner, 2 ** (group.n_wires - group.n_inner)
    fixed = all(angle.shape[-1] == 1 for angle in angles)
    if not fixed or dim > rest * samples or dim > 64:
        return apply_layers(state.expand(n_tasks, -1, -1, -1), group.block, angles, group.n_wires)
    identity = torch.eye(dim, dtype=state.dtype, device=state.device)[None, :, None, :]
    unitary = apply_layers(identity, group.block, angles, group.n_inner)
    cones, _, parts, _ = state.shape
    columns = state.reshape(cones, dim, rest * parts * samples)
    real = torch.matmul(unitary[:, :, 0], columns)
    shape = (n_tasks, dim * rest, parts, samples)
    if unitary.shape[2] == 1:
        return real.reshape(shape)
    imaginary = torch.matmul(unitary[:, :, 1], columns)
    imaginary = imaginary.reshape(shape)
    real = to_complex(real.reshape(shape))
    if parts == 1:
        return real + torch.cat([torch.zeros_like(imaginary), imaginary], 2)
    re, im = imaginary.unbind(2)
    return real + torch.stack([-im, re], 2)
