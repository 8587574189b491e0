"""The Jacobian of the task losses with respect to the shared parameters, and its aggregation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from qmtl._calls import called_with
from qmtl.methods import tasks_apart
from qmtl.model import MultiTaskModel
from qmtl.training._sparse_rows import Places, SparseRows


class _Step(NamedTuple):
    """The tensors from which a step's rows are computed; views, on which the user has no hooks."""

    features: Tensor  # The encoder's output in a view, the input of the head.
    logits: Tensor
    output: Tensor
    parameters: dict[str, Tensor]  # Views of the encoder's trainable parameters, by name.
    layer: str | None  # The linear layer that computes the output, and its inputs.
    inputs: Tensor | None


class SharedJacobian:
    """Aggregates the Jacobian of a model's task losses; created once per training run.

    An aggregator that only weighs rows needs only their Gramian. One backward pass of the weighted
    losses then gives the gradient, and tensor hooks see this combined gradient once. The rows are
    computed with respect to views of features and parameters. One backward pass computes the rows
    of all tasks that share no feature and no weight: see `_sparse_rows`. With light cones, the
    number of these passes does not grow with the number of tasks.

    Args:
        model: the model of these losses.
        shared: parameters that several of the losses depend on.
        own: parameters whose entries each belong to one task.
        aggregator: a TorchJD aggregator.
        chunk: number of rows of the Jacobian to compute at once; None for all.

    Attributes:
        n_groups: number of groups of tasks that share nothing; None if rows are computed without
            groups. With groups, run the model by `forward`.
        unreached: shared parameters that no gradient reached in the first step, although their
            `.grad` is zeros and not None; None before that step.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary(f"t{i}") for i in range(12)])
        >>> model = qmtl.MultiTaskModel(nn.Linear(4, circuit.n_features), qmtl.QuantumHead(circuit))
        >>> own = [rows.parameter for rows in model.task_rows()]
        >>> aggregator = qmtl.training.make_aggregator("upgrad", 12)
        >>> jacobian = SharedJacobian(model, model.shared_parameters(), own, aggregator)
        >>> jacobian.n_groups
        3
    """

    def __init__(
        self,
        model: MultiTaskModel,
        shared: Sequence[nn.Parameter],
        own: Sequence[nn.Parameter],
        aggregator: Any,
        chunk: int | None = None,
    ) -> None:
        from torchjd.aggregation import Constant, GramianWeightedAggregator, Mean, Random, Sum

        self.model, self.shared, self.own = model, list(shared), list(own)
        self.aggregator, self.chunk = aggregator, chunk
        self.counts_rows = type(aggregator) in (Constant, Mean, Random, Sum)
        self.n_groups: int | None = None
        self.unreached: list[nn.Parameter] | None = None
        self._of_layer: dict[str, bool] = {}
        if isinstance(aggregator, GramianWeightedAggregator) and self.shared:
            self._find_groups()

    def _find_groups(self) -> None:
        """Group tasks that share nothing, if the head knows its dependencies and grouping helps."""
        head, encoder = self.model.head, self.model.encoder
        depends = head.dependencies() if hasattr(head, "dependencies") else None
        if depends is None:
            return
        encoders = {id(p) for p in encoder.parameters()}
        common = [p for p in self.shared if id(p) not in encoders]
        # The head's rows of the Jacobian are wrong for parameters that it shares with the encoder,
        # and for parameters from which the encoding is computed.
        plain = dict(head.named_parameters(recurse=False)).get("encoding")
        if any(p is not plain for p in common) or any(id(p) in encoders for p in head.parameters()):
            return
        tasks, n_features = self.model.tasks, head.n_features
        n_weights = 0 if plain is None else plain.numel()
        orders = [np.lexsort((place, task)) for task, place in depends]
        pairs = [(t[order], p[order]) for (t, p), order in zip(depends, orders, strict=True)]
        own = [np.split(p, np.searchsorted(t, np.arange(1, len(tasks)))) for t, p in pairs]
        columns = {
            task.name: [*features.tolist(), *(weights + n_features).tolist()]
            for task, features, weights in zip(tasks, *own, strict=True)
        }
        groups = tasks_apart(columns)
        if 2 * len(groups) > len(tasks):
            return
        self.n_groups = len(groups)
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        group = torch.tensor([group_of[task.name] for task in tasks])
        self._encoding = plain if common else None
        self._features, self._weights = (
            Places.of(torch.from_numpy(task), torch.from_numpy(place), group, n)
            for (task, place), n in zip(pairs, (n_features, n_weights), strict=True)
        )
        sizes = torch.tensor([task.n_outputs for task in tasks])
        self._mask = group.repeat_interleave(sizes) == torch.arange(self.n_groups)[:, None, None]
        self._layers = {
            name: module
            for name, module in encoder.named_modules()
            if type(module) is nn.Linear and module.out_features == n_features
        }

    def forward(self, inputs: Tensor) -> _Step:
        """Run the model; return the logits and all tensors from which the rows are computed."""
        encoder = self.model.encoder
        parameters = {n: p.view_as(p) for n, p in encoder.named_parameters() if p.requires_grad}
        seen: list[tuple[str, Any, Tensor, Any]] = []

        def record(name: str) -> Any:
            def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
                seen.append((name, arguments[0] if arguments else None, output, output.grad_fn))

            return hook

        # This hook comes before the user's, which may replace the output.
        hooks = [
            layer.register_forward_hook(record(name), prepend=True)
            for name, layer in self._layers.items()
        ]
        try:
            output = called_with(encoder, parameters, (inputs,))
        finally:
            for hook in hooks:
                hook.remove()
        features = output.view_as(output)
        if not features.requires_grad:
            features = features.detach().requires_grad_()
        layer, given = None, None
        for name, argument, result, node in seen:
            if result is output and node is output.grad_fn and argument is not None:
                once = sum(other == name for other, *_ in seen) == 1
                if once and self._is_last(name, argument, parameters):
                    layer, given = name, argument
        logits = self.model.head(features, joined=True)
        return _Step(features, logits, output, parameters, layer, given)

    def _is_last(self, name: str, inputs: Tensor, parameters: dict[str, Tensor]) -> bool:
        """Return whether this layer makes the features and shares no weight with an earlier one."""
        if name not in self._of_layer:
            layer = self._layers[name]
            own = dict(layer.named_parameters(recurse=False))
            # With pruning or weight norm, the weight is computed from another parameter.
            names = {"weight"} if layer.bias is None else {"weight", "bias"}
            trained = [_joined(name, key) for key, p in own.items() if p.requires_grad]
            self._of_layer[name] = (
                set(own) == names
                and inputs.ndim == 2
                and inputs.dtype == layer.weight.dtype
                and all(key in parameters for key in trained)
                and not _depends(inputs, [parameters[key] for key in trained])
            )
        return self._of_layer[name]

    def aggregate(self, losses: Tensor, present: Tensor | None, step: _Step | None) -> None:
        """Set ``.grad``: of shared parameters by the aggregator, of own ones from the losses' sum.

        Args:
            losses: losses of the tasks that are present, shape (present,), whose gradients must
                add up over processes.
            present: indices of these tasks, int64; None for all.
            step: the result of `forward`, if the losses come from its logits.
        """
        if not self.shared or self.counts_rows:
            self._set("own", losses.sum(), retain=True)
            if self.shared:
                empty = losses.detach().new_empty(len(losses), 0)
                self._set("shared", losses, self.aggregator.weighting(empty))
            return
        found = None if step is None else self.rows(losses, step)
        fails = losses.new_tensor(float(found is None))
        # All processes must take the same branch.
        if float(sum_over_processes(fails)) or found is None:
            self._plainly(losses)
            return
        by_name, own = found
        rows = list(by_name.values())
        set_gradients(self.own, own)
        if n_processes() > 1:
            # Other processes have other labels, and so other rows of the same losses.
            dense = (r.dense() if isinstance(r, SparseRows) else r for r in rows)
            rows = [sum_over_processes(r) for r in dense]
        gramian = _gramian(rows)
        if present is not None:
            gramian = gramian[present][:, present]
        self._set("shared", losses, self.aggregator.gramian_weighting(gramian).to(losses))

    def rows(
        self, losses: Tensor, step: _Step
    ) -> tuple[dict[str, Tensor | SparseRows], list[Tensor]] | None:
        """Return the Jacobian's rows, and the gradients of the losses' sum for own parameters.

        The rows are by name, for ``"encoding"`` and each parameter of the encoder: one per task,
        (tasks, *shape) unless they are sparse. The result is None if the head's rows do not fit
        the losses, for example if hooks change the head's inputs or outputs.
        """
        variables = [step.logits, step.features, *self.own]
        start, whole, *own = torch.autograd.grad(
            losses.sum(), variables, retain_graph=True, materialize_grads=True
        )
        device = start.device
        if self._mask.device != device:
            self._mask = self._mask.to(device)
            self._features, self._weights = self._features.to(device), self._weights.to(device)
        found = self.model.head.feature_rows(step.features.detach(), start * self._mask)
        if found is None:
            return None
        by_features, by_encoding = found
        if (by_features.sum(0) - whole).norm() > 1e-3 * whole.norm():
            return None
        rows: dict[str, Tensor | SparseRows] = {}
        if self._encoding is not None:
            rows["encoding"] = SparseRows(by_encoding, self._weights)
        if step.parameters and step.output.requires_grad:
            rows |= self._encoder_rows(step, by_features.transpose(1, 2))
        return rows, own

    def _encoder_rows(self, step: _Step, joint: Tensor) -> dict[str, Tensor | SparseRows]:
        """Return the encoder's rows from `joint` rows of features, (groups, features, batch)."""
        places, inputs = self._features, step.inputs
        if step.layer is None or inputs is None:
            rows = places.apart(joint).transpose(1, 2)
            return self._pulled_back(step.output, step.parameters, rows)
        weight, bias = _joined(step.layer, "weight"), _joined(step.layer, "bias")
        found: dict[str, Tensor | SparseRows] = {}
        if weight in step.parameters:
            found[weight] = SparseRows(joint @ inputs.detach(), places)
        if bias in step.parameters:
            found[bias] = SparseRows(joint.sum(2), places)
        rest = {name: p for name, p in step.parameters.items() if name not in found}
        if rest and inputs.requires_grad:
            features, real = places.padded()
            own = joint[places.group[:, None], features] * real.unsqueeze(2)
            # Rows with respect to the layer's inputs, (tasks, batch, inputs).
            below = own.transpose(1, 2) @ self._layers[step.layer].weight.detach()[features]
            found |= self._pulled_back(inputs, rest, below)
        return found

    def _pulled_back(
        self, outputs: Tensor, parameters: dict[str, Tensor], rows: Tensor
    ) -> dict[str, Tensor | SparseRows]:
        """Multiply the rows by the Jacobian of the outputs with respect to each parameter."""
        inputs = list(parameters.values())

        def gradients(row: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                outputs, inputs, row, retain_graph=True, materialize_grads=True
            )

        pulled = torch.vmap(gradients, chunk_size=self.chunk)(rows)
        return dict(zip(parameters, pulled, strict=True))

    def _set(
        self, of: str, outputs: Tensor, weights: Tensor | None = None, *, retain: bool = False
    ) -> None:
        """Set the gradients of the ``own`` or ``shared`` parameters, in one backward pass."""
        parameters: list[nn.Parameter] = getattr(self, of)
        if parameters:
            gradients = torch.autograd.grad(
                outputs, parameters, weights, retain_graph=retain, allow_unused=True
            )
            set_gradients(parameters, gradients)

    def _plainly(self, losses: Tensor) -> None:
        """Aggregate by TorchJD's autojac; hooks see each task's row, not the combination."""
        from torchjd.autojac import jac, jac_to_grad

        self._set("own", losses.sum(), retain=True)
        if self.unreached is None:
            found = torch.autograd.grad(
                losses.sum(), self.shared, retain_graph=True, allow_unused=True
            )
            self.unreached = [p for p, g in zip(self.shared, found, strict=True) if g is None]
        jacobians = jac(losses, self.shared, parallel_chunk_size=self.chunk)
        tensors: Any = self.shared
        for parameter, rows in zip(tensors, jacobians, strict=True):
            parameter.jac = sum_over_processes(rows)
        jac_to_grad(tensors, self.aggregator)


def _gramian(parts: Sequence[Tensor | SparseRows]) -> Any:
    matrices = (p if isinstance(p, SparseRows) else p.unsqueeze(1).flatten(1) for p in parts)
    return sum(m.gramian() if isinstance(m, SparseRows) else m @ m.T for m in matrices)


def _joined(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _depends(tensor: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Return whether a tensor was computed from one of the parameters."""
    if not tensor.requires_grad or not parameters:
        return False
    found = torch.autograd.grad(
        tensor, parameters, torch.zeros_like(tensor), retain_graph=True, allow_unused=True
    )
    return any(gradient is not None for gradient in found)


def n_processes() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of all processes' tensors, the same on each of them."""
    if n_processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def set_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Set ``.grad`` to the sum over all processes; where no process has a gradient, leave it.

    Processes exchange one flat tensor per type. Sparse gradients (of
    ``nn.Embedding(sparse=True)``) become dense, which every optimiser accepts.
    """
    several = n_processes() > 1
    found = [
        (p, torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g, g is not None)
        for p, g in zip(parameters, gradients, strict=True)
        if several or g is not None
    ]
    if several:
        for dtype in dict.fromkeys(g.dtype for _, g, _ in found):
            same = [each for each in found if each[1].dtype == dtype]
            # The flat tensor ends with the number of processes that have each gradient.
            counts = same[0][1].new_tensor([float(known) for *_, known in same])
            flat = sum_over_processes(torch.cat([*(g.flatten() for _, g, _ in same), counts]))
            *parts, counts = flat.split([*(g.numel() for _, g, _ in same), len(same)])
            for (parameter, _, _), part, count in zip(same, parts, counts.tolist(), strict=True):
                if count:
                    parameter.grad = part.view(parameter.shape)
        return
    seen = set[int]()
    for parameter, gradient, _ in found:
        # Gradients from autograd may share memory, which would break in-place clipping.
        place = gradient.untyped_storage().data_ptr()
        apart = place not in seen and gradient.is_contiguous()
        seen.add(place)
        parameter.grad = (
            gradient if apart else gradient.clone(memory_format=torch.contiguous_format)
        )
