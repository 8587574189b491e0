"""Jacobian rows of tasks that look at a few features each, in a few passes through the head.

Rows of tasks without a feature or shared weight in common can be differentiated as one and taken
apart again, since it is known where each is zero (Curtis, Powell and Reid, IMA J. Appl. Math. 13,
1974). On light cones the number of such passes does not grow with the number of tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qmtl.heads.quantum import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.simulators import LightConeSimulator

__all__ = ["Locality", "linearised", "local_rows"]


@dataclass(frozen=True)
class Locality:
    """What each task's loss depends on, and which tasks have nothing in common.

    Attributes:
        encoding: the head's parameter that tasks share.
        features: shape (tasks, features), whether a task depends on a feature.
        weights: shape (tasks, weights), whether it depends on a weight of `encoding`.
        groups: shape (tasks,), tasks of a group have nothing in common.
        n_groups: how many there are.
    """

    encoding: nn.Parameter
    features: Tensor
    weights: Tensor
    groups: Tensor
    n_groups: int

    def of_tasks(self, present: Sequence[int]) -> "Locality":
        """The same for some of the tasks, by their places."""
        if len(present) == len(self.groups):
            return self
        some = list(present)
        return replace(
            self,
            features=self.features[some],
            weights=self.weights[some],
            groups=self.groups[some],
        )

    @classmethod
    def of(cls, model: MultiTaskModel) -> "Locality | None":
        """The locality of a quantum head on exact light cones; None where it does not help.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary(f"t{i}") for i in range(12)])
            >>> encoder = qmtl.encoders.MLP(4, out_features=circuit.n_features)
            >>> Locality.of(qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit))).n_groups
            3
        """
        head = model.head
        # Noise and transpiled circuits have wider cones than the circuit's own.
        if type(head) is not QuantumHead or type(head.simulator) is not LightConeSimulator:
            return None
        within = {id(p) for p in head.parameters()}
        if any(id(p) in within for p in model.encoder.parameters()):
            return None
        features = torch.zeros(len(head.tasks), head.n_features, dtype=torch.bool)
        weights = torch.zeros(len(head.tasks), head.encoding.numel(), dtype=torch.bool)
        for i, task in enumerate(head.tasks):
            for gate in head.circuit.light_cone(task.name).encoding:
                if gate.angle is not None:
                    features[i, list(gate.angle.features)] = True
                    if gate.angle.weight is not None:
                        weights[i, gate.angle.weight] = True
        groups = _groups(torch.cat([features, weights], dim=1))
        n_groups = int(groups.max()) + 1
        if 2 * n_groups > len(groups):
            return None
        return cls(head.encoding, features, weights, groups, n_groups)


def _groups(depends: Tensor) -> Tensor:
    """Each task's group, by putting it into the first one in which it meets nobody."""
    taken: list[Tensor] = []
    groups = []
    for row in depends:
        group = next((i for i, t in enumerate(taken) if not bool((t & row).any())), len(taken))
        if group == len(taken):
            taken.append(torch.zeros_like(row))
        taken[group] |= row
        groups.append(group)
    return torch.tensor(groups)


def linearised(
    outputs: Sequence[Tensor], starts: Sequence[Tensor | None], rows: Sequence[int], n: int
) -> Tensor:
    """Sums of losses that are linear in the outputs: cheap to differentiate many times.

    Args:
        outputs: tensors that the losses depend on.
        starts: the losses' gradients by them; None for zero.
        rows: which of the results each tensor counts to.
        n: number of results.

    Example:
        >>> linearised([torch.ones(2), torch.ones(3)], [torch.ones(2), None], [1, 0], 2)
        tensor([0., 2.])
    """
    start = torch.cat(
        [
            (torch.zeros_like(values) if given is None else given).flatten()
            for values, given in zip(outputs, starts, strict=True)
        ]
    )
    owner = torch.tensor(rows).repeat_interleave(torch.tensor([v.numel() for v in outputs]))
    terms = torch.cat([values.flatten() for values in outputs]) * start
    return terms.new_zeros(n).index_add(0, owner.to(terms.device), terms)


def local_rows(
    losses: Tensor,
    logits: Sequence[Tensor],
    features: Tensor,
    shared: Sequence[nn.Parameter],
    own: Sequence[nn.Parameter],
    locality: Locality,
) -> tuple[list[Tensor], list[Tensor]]:
    """The losses' Jacobian by the shared parameters, and the tasks' own gradients.

    Args:
        losses: shape (tasks,).
        logits: for each loss the logits that it depends on.
        features: the encoder's output that all logits were computed from, (batch, features).
        shared: the encoder's parameters and the head's shared ones.
        own: parameters that one loss alone depends on.
        locality: of these tasks.

    Returns:
        For each shared parameter its rows, shape (tasks, *shape), and for each own one its
        gradient.
    """
    starts = torch.autograd.grad(losses.sum(), logits, retain_graph=True, allow_unused=True)
    groups = locality.groups
    sums = linearised(logits, starts, groups.tolist(), locality.n_groups)
    before = [p for p in shared if p is not locality.encoding]
    within = [p for p in shared if p is locality.encoding]
    each = torch.eye(locality.n_groups).to(sums)
    inputs = [*([features] if before else []), *within, *own]
    found = list(_pulled_back(sums, inputs, each))
    rows: dict[int, Tensor] = {}
    if before:
        below = _apart(found.pop(0), groups, locality.features)
        rows |= zip(map(id, before), _pulled_back(features, before, below), strict=True)
    if within:
        rows[id(within[0])] = _apart(found.pop(0), groups, locality.weights)
    # A task's own parameters have a gradient in its group's sum only.
    return [rows[id(p)] for p in shared], [part.sum(0) for part in found]


def _pulled_back(outputs: Tensor, inputs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
    """The rows times the Jacobian of the outputs by each input."""

    def gradients(row: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs, inputs, row, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    pulled: tuple[Tensor, ...] = torch.vmap(gradients)(rows)
    return pulled


def _apart(joint: Tensor, groups: Tensor, depends: Tensor) -> Tensor:
    """Rows (tasks, ..., n) from rows (groups, ..., n), zero where a task does not depend."""
    rows = joint.new_zeros(len(groups), *joint.shape[1:])
    task, place = depends.nonzero().to(joint.device).unbind(1)
    group = groups.to(joint.device)[task]
    rows.movedim(-1, 1)[task, place] = joint.movedim(-1, 1)[group, place]
    return rows
