"""Jacobian rows of tasks that look at a few features each, in a few passes through the head.

Rows of tasks without a feature or shared weight in common can be differentiated as one and taken
apart again, since it is known where each is zero (Curtis, Powell and Reid, IMA J. Appl. Math. 13,
1974). On light cones the number of such passes does not grow with the number of tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from qmtl.heads.quantum import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.simulators import LightConeSimulator
from qmtl.training.last_layer import last_layer, leads_to
from qmtl.training.sparse_rows import Places, SparseRows

__all__ = ["Locality", "linearised", "local_rows"]


@dataclass(frozen=True)
class Locality:
    """What each task's loss depends on, and which tasks have nothing in common.

    Attributes:
        model: whose encoder gives the features.
        features: shape (tasks, features), whether a task depends on a feature.
        weights: shape (tasks, weights), whether it depends on a weight of the head's `encoding`.
        groups: shape (tasks,), tasks of a group have nothing in common.
        n_groups: how many there are.
    """

    model: MultiTaskModel
    features: Tensor
    weights: Tensor
    groups: Tensor
    n_groups: int

    @cached_property
    def places(self) -> tuple[Places, Places]:
        """The same of features and of weights, as places of rows."""
        features, weights = (
            Places.of(mask, self.groups, self.n_groups) for mask in (self.features, self.weights)
        )
        return features, weights

    @property
    def encoding(self) -> Tensor:
        """The head's parameter that tasks share."""
        return cast("QuantumHead", self.model.head).encoding

    def holds(self, features: Tensor) -> bool:
        """Whether rows may be put on top of each other: no hook would see them, or see any twice.

        It is asked in every step, since hooks come and go. Those of the graph's nodes
        (`torch.autograd.graph.Node.register_hook`) cannot be seen.

        Example:
            >>> import qmtl
            >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary(f"t{i}") for i in range(12)])
            >>> encoder = nn.Linear(4, circuit.n_features)
            >>> locality = Locality.of(qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit)))
            >>> features = encoder(torch.ones(1, 4))
            >>> locality.holds(features)
            True
            >>> _ = features.register_hook(print)
            >>> locality.holds(features)
            False
        """
        head, encoder = self.model.head, self.model.encoder
        if not features.requires_grad or features._backward_hooks:
            return False
        if head._forward_pre_hooks or head._forward_hooks:
            return False
        # Torch's older hooks, too, sit where the gradients of such rows would pass.
        modules = (head, *encoder.modules())
        if any(module._backward_hooks or module._backward_pre_hooks for module in modules):
            return False
        return not any(parameter._backward_hooks for parameter in head.parameters())

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
        if not _are_apart(model.encoder, head):
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
        return cls(model, features, weights, groups, n_groups)


def _are_apart(encoder: nn.Module, head: QuantumHead) -> bool:
    """Whether parameters are the encoder's or the head's own."""
    encoders = {id(p) for p in encoder.parameters()}
    if any(id(p) in encoders for p in head.parameters()):
        return False
    # Pruning computes the encoding from another parameter.
    return all(p is head.encoding for p in head.shared_parameters())


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
) -> tuple[list[Tensor | SparseRows], list[Tensor]]:
    """The losses' Jacobian by the shared parameters, and the tasks' own gradients.

    Args:
        losses: shape (tasks,).
        logits: for each loss the logits that it depends on.
        features: the encoder's output that all logits were computed from, (batch, features).
        shared: the encoder's parameters and the head's shared ones.
        own: parameters that one loss alone depends on.
        locality: of these tasks.

    Returns:
        For each shared parameter its rows, shape (tasks, *shape) where they are not sparse, and
        for each own one its gradient.
    """
    starts = torch.autograd.grad(losses.sum(), logits, retain_graph=True, allow_unused=True)
    sums = linearised(logits, starts, locality.groups.tolist(), locality.n_groups)
    before = [p for p in shared if p is not locality.encoding]
    within = [p for p in shared if p is locality.encoding]
    each = torch.eye(locality.n_groups).to(sums)
    inputs = [*([features] if before else []), *within, *own]
    found = list(_pulled_back(sums, inputs, each))
    of_features, of_weights = (places.to(features.device) for places in locality.places)
    rows: dict[int, Tensor | SparseRows] = {}
    if before:
        rows |= _through_encoder(features, found.pop(0), before, of_features)
    if within:
        rows[id(within[0])] = SparseRows(found.pop(0), of_weights)
    # A task's own parameters have a gradient in its group's sum only.
    return [rows[id(p)] for p in shared], [part.sum(0) for part in found]


def _through_encoder(
    features: Tensor, joint: Tensor, parameters: Sequence[nn.Parameter], places: Places
) -> dict[int, Tensor | SparseRows]:
    """Rows by the encoder's parameters, by their ids.

    Args:
        features: the encoder's output, (batch, features).
        joint: the groups' rows by the features, (groups, batch, features).
        parameters: of the encoder.
        places: which features each task depends on.
    """
    layer = last_layer(features)
    by_feature = joint.transpose(1, 2)
    last = [] if layer is None else [p for p in layer[1:] if p is not None]
    rest = [p for p in parameters if not any(p is other for other in last)]
    if layer is None or len(rest) + len(last) > len(parameters) or leads_to(layer.inputs, last):
        rows = places.apart(by_feature).transpose(1, 2)
        return dict(zip(map(id, parameters), _pulled_back(features, parameters, rows), strict=True))
    found: dict[int, Tensor | SparseRows] = {
        id(layer.weight): SparseRows(by_feature @ layer.inputs.detach(), places)
    }
    if layer.bias is not None:
        found[id(layer.bias)] = SparseRows(by_feature.sum(2), places)
    if not layer.inputs.requires_grad:
        return found | {id(p): SparseRows.zero(p, len(places.group)) for p in rest}
    if rest:
        rows = _below(by_feature, layer.weight.detach(), places)
        found |= zip(map(id, rest), _pulled_back(layer.inputs, rest, rows), strict=True)
    return found


def _below(by_feature: Tensor, weight: Tensor, places: Places) -> Tensor:
    """Rows (tasks, batch, inputs) of a linear layer's inputs from the groups' by its features."""
    features, real = places.padded()
    own = by_feature[places.group[:, None], features] * real.unsqueeze(2)
    rows: Tensor = own.transpose(1, 2) @ weight[features]
    return rows


def _pulled_back(outputs: Tensor, inputs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
    """The rows times the Jacobian of the outputs by each input."""

    def gradients(row: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs, inputs, row, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    pulled: tuple[Tensor, ...] = torch.vmap(gradients)(rows)
    return pulled
