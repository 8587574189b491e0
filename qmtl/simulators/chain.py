"""Matrix-product path: exact outputs of CNOT chains, in time and memory linear in the wires.

The light cones of a ``cnot_line`` or ``cnot_ring`` encoding are the whole chain, but every layer
adds only one bond of dimension 2 between neighbours. A register's reduced density matrix is its own
sites between a left and a right environment; products of transfer matrices over a balanced tree
give the environments of all registers at once, in a number of operations that grows with the
logarithm of the number of wires. Everything is real: operators are expanded in Pauli matrices.

Entries of a transfer matrix of any length are overlaps of states of norm at most one, so that
nothing overflows or needs to be normalised, however long the chain is.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.simulators.angles import by_slot, fixed_angles, sample_angles
from qmtl.simulators.chain_cost import CHUNK_BYTES, ChainCost, chain_cost, samples_at_once
from qmtl.simulators.chain_parts import task_parts
from qmtl.simulators.chain_plan import ChainPlan, Part, bonds_of, chain_plan
from qmtl.simulators.chain_sites import SiteTensor, site_tensor
from qmtl.simulators.pauli_basis import conjugate, rotate

__all__ = ["ChainCost", "chain_applies", "chain_cost", "chain_values"]


def chain_applies(circuit: HeadCircuit, task: str) -> bool:
    """Whether `chain_values` can compute a task's outputs.

    It can in the partitioned layout, for an encoding of one-wire gates, CNOT and CZ, the latter
    between neighbours on a line or ring and at most four on each pair, if no output depends on
    more than eight wires of the register through the task's block.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> circuit = HeadCircuit([Task.binary("a")], AngleEncoding(entangler="cnot_ring"))
        >>> chain_applies(circuit, "a")
        True
    """
    if bonds_of(circuit) is None:
        return False
    try:
        task_parts(circuit, task)
    except InvalidInputError:
        return False
    return True


def chain_values(
    circuit: HeadCircuit,
    angles: Tensor,
    weights: Mapping[str, Tensor],
    tasks: Sequence[str] | None = None,
    limit: int = CHUNK_BYTES,
) -> dict[str, Tensor]:
    """Each task's outputs, shape (batch, n_outputs), exact and differentiable to any order.

    Args:
        circuit: a circuit to which `chain_applies`.
        angles: encoding angles in radians, shape (batch, n_features).
        weights: ``"encoding"`` and the tasks' names to flat vectors, in gate order.
        tasks: those to evaluate; None for all.
        limit: bytes that a step may take, by estimate; samples run in chunks to stay within.

    Raises:
        InvalidInputError: if the circuit is no such chain, or a task's block is too wide.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> tasks = [Task.binary(f"t{i}") for i in range(100)]
        >>> circuit = HeadCircuit(tasks, AngleEncoding(entangler="cnot_ring"))
        >>> weights = {"encoding": torch.zeros(200), "t7": torch.zeros(6)}
        >>> chain_values(circuit, torch.zeros(3, 200), weights, ["t7"])["t7"].flatten()
        tensor([1., 1., 1.])

    References:
        Schollwöck, The density-matrix renormalization group in the age of matrix product states,
        arXiv:1008.3477; operators in the Pauli basis: Greenbaum, arXiv:1509.02921.
    """
    plan = chain_plan(circuit, tuple(circuit.registers) if tasks is None else tuple(tasks))
    vectors = [weights[name] for name in ("encoding", *plan.tasks)]
    at_once = samples_at_once(plan, angles.element_size(), limit)
    run = partial(_chunk_values, plan)
    if at_once < len(angles) and _may_recompute(angles, *vectors):
        run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
    chunks = [run(part, *vectors) for part in angles.split(at_once)]
    outputs = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
    return dict(zip(plan.tasks, outputs, strict=True))


def _may_recompute(*tensors: Tensor) -> bool:
    """Whether a backward pass will follow that allows to run a chunk again."""
    transformed = torch._C._are_functorch_transforms_active()
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return recorded and not transformed


def _chunk_values(plan: ChainPlan, angles: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    """Outputs of some samples, one tensor per task of the plan."""
    columns = angles.T.contiguous()
    weights = dict(zip(("encoding", *plan.tasks), vectors, strict=True))
    groups = [
        [site_tensor(site, columns, weights["encoding"], plan.width) for site in group.sites]
        for group in plan.groups
    ]
    order = torch.cat([torch.from_numpy(group.places) for group in plan.groups]).argsort()
    transfers = torch.cat([_register_transfer(sites) for sites in groups])
    left, right = _environments(transfers[order.to(columns.device)], plan)
    found: dict[str, list[Tensor]] = {name: [] for name in plan.tasks}
    for group, sites in zip(plan.groups, groups, strict=True):
        if not group.parts:
            continue
        places = torch.from_numpy(group.places).to(columns.device)
        own = torch.stack([weights[name] for name in group.tasks])
        environments = left[places], right[places]
        for part in group.parts:
            density = _density(*environments, sites, part.wires)
            values = _expectations(_observables(part, columns, own), density)
            for name, value in zip(group.tasks, values.transpose(1, 2).unbind(0), strict=True):
                found[name].append(value)
    # Parts follow the order of outputs.
    return tuple(v[0] if len(v) == 1 else torch.cat(v, 1) for v in found.values())


def _register_transfer(sites: Sequence[SiteTensor]) -> Tensor:
    """Registers that nobody looks at, from their left to their right bonds."""
    transfer = sites[0].transfer()
    for site in sites[1:]:
        transfer = transfer @ site.transfer()
    return transfer


def _environments(transfers: Tensor, plan: ChainPlan) -> tuple[Tensor, Tensor]:
    """What is left and right of every register.

    Args:
        transfers: of the registers along the chain, shape (registers, samples, width, width).
        plan: the chain; its closing edge's bonds are the rows of what is left of a register and
            the columns of what is right of it.
    """
    levels = [transfers]
    while len(levels[-1]) > 1:
        last = levels[-1]
        even = len(last) - len(last) % 2
        levels.append(torch.cat([last[0:even:2] @ last[1:even:2], last[even:]]))
    samples, width, closing = transfers.shape[1], plan.width, 4**plan.closing
    edge = torch.eye(closing, width, dtype=transfers.dtype, device=transfers.device)
    left = edge.expand(1, samples, closing, width)
    right = edge.T.expand(1, samples, width, closing)
    for level in reversed(levels[:-1]):
        pairs, even = len(level) // 2, len(level) - len(level) % 2
        after = torch.stack([left[:pairs], left[:pairs] @ level[0:even:2]], 1).flatten(0, 1)
        before = torch.stack([level[1:even:2] @ right[:pairs], right[:pairs]], 1).flatten(0, 1)
        left, right = torch.cat([after, left[pairs:]]), torch.cat([before, right[pairs:]])
    return left, right


def _density(
    left: Tensor, right: Tensor, sites: Sequence[SiteTensor], wires: Sequence[int]
) -> Tensor:
    """Reduced density matrices of `wires`, shape (registers, 4^wires Pauli strings, samples)."""
    middle = wires[len(wires) // 2]
    closed = left.shape[2] > 1
    # On a ring both environments are matrices: joined, they are needed on one side only.
    first = (right @ left if closed else left)[..., None, :]
    for place in range(middle):
        first = sites[place].after(first, read=place in wires)
    last = None if closed else right[..., None, :]
    for place in reversed(range(middle, len(sites))):
        last = sites[place].before(last, read=place in wires)
    assert last is not None
    first = first.transpose(2, 3).flatten(3, 4)
    last = last.permute(0, 1, 4, 2, 3).flatten(2, 3)
    return (first @ last).flatten(2, 3).transpose(1, 2)


def _observables(part: Part, columns: Tensor, weights: Tensor) -> Tensor:
    """The readout taken back through the block: (registers, outputs, samples or 1, strings)."""
    sample = sample_angles(part.slots, columns, weights)
    angles = by_slot(part.slots, sample, fixed_angles(part.slots, weights))
    # Wires first; then outputs, registers and samples.
    values = torch.from_numpy(part.readout).to(columns).movedim(0, -1)[..., None, None]
    for step in reversed(part.steps):
        if len(step.wires) == 2:
            values = conjugate(values, step.name, (step.wires[0], step.wires[1]))
        else:
            angle = None if step.slot is None else -angles[step.slot]
            values = rotate(values, step.name, angle, step.wires[0])
    values = values.flatten(0, len(part.wires) - 1).permute(2, 1, 3, 0)
    return values.expand(len(weights), -1, -1, -1)


def _expectations(observables: Tensor, density: Tensor) -> Tensor:
    """Values of shape (registers, outputs, samples)."""
    if observables.shape[2] == 1:
        return observables[:, :, 0] @ density
    return torch.einsum("nosp,nps->nos", observables, density)
