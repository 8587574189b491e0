"""The losses of a batch, and the gradients of a training step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError, QmtlError
from qmtl.methods import Batch, Method, TaskLosses, using
from qmtl.model import MultiTaskModel
from qmtl.tasks import TaskLayout, task_layout
from qmtl.training._combine import has_state, scalarize
from qmtl.training._jacobian import SharedJacobian, n_processes, set_gradients, sum_over_processes
from qmtl.training._optimizers import TrainedParameters
from qmtl.training._settings import TrainingSettings

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class TrainingStep:
    """Computes the losses and gradients of batches; implements `qmtl.methods.Step`.

    Attributes:
        epoch: epoch of the next batch, counted from 0.
        number: number of the next step, for messages.
        generator: random generator for the methods.
        last_losses: each task's last loss, (tasks,), for scalarizers that keep state.
        target_scale: the model's target scale, read in the first step of training; None before.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        settings: TrainingSettings,
        parameters: TrainedParameters,
        combiner: Any,
        weights: Sequence[nn.Parameter],
        methods: Mapping[str, Method],
    ) -> None:
        self.model, self.settings, self.tasks = model, settings, parameters.tasks
        self.combiner, self.weights = combiner, list(weights)
        self.names = [task.name for task in self.tasks] if parameters.only else None
        self.layout = task_layout(self.tasks)
        self.dtype = next(model.parameters()).dtype
        self.uses_jacobian = settings.aggregator is not None
        self.epoch, self.number = 0, 0
        self.generator = torch.Generator()
        self.last_losses = torch.ones(len(self.tasks))
        self.target_scale: tuple[Tensor, Tensor] | None = None
        self.train(parameters)
        self._find_hooks(methods)
        embeddings: Any = [m for m in model.modules() if isinstance(m, EMBEDDINGS) and m.sparse]
        self._sparse = embeddings if self.uses_jacobian or self._gradients else []

    def train(self, parameters: TrainedParameters) -> None:
        self.shared, self.own = parameters.shared, parameters.own
        self.jacobian: SharedJacobian | None = None
        if self.uses_jacobian:
            chunk = self.settings.jacobian_chunk
            self.jacobian = SharedJacobian(self.model, self.shared, self.own, self.combiner, chunk)

    def _find_hooks(self, methods: Mapping[str, Method]) -> None:
        used = methods.values()
        self._change, self._extra = using(used, "losses"), using(used, "extra_loss")
        self._by_features = any(m.needs_features for m in used)
        self._head, self._terms, self._gradients = (
            _one(methods, hook) for hook in ("logits", "loss_terms", "gradients")
        )
        if self._gradients is not None and self.uses_jacobian and has_state(self.combiner):
            name = next(key for key, method in methods.items() if method is self._gradients)
            raise InvalidInputError(
                f"{name} does not go together with aggregator {self.settings.aggregator!r}, which "
                f"keeps state from one call to the next"
            )
        # The head's rows fit the losses only if no method replaces logits, losses or gradients.
        self._plain = not (self._change or self._head or self._gradients)
        self._whole = bool(methods)

    def losses_of(self, batch: Batch, *, only: int | None = None) -> TaskLosses:
        return self._losses(batch, rows=False, only=only)

    def losses(self, batch: Batch) -> TaskLosses:
        """Return the losses that a step combines, with the tensors for their Jacobian."""
        found = self._losses(batch, rows=self._plain)
        for method in self._change:
            found = method.losses(found, self)
        return found

    def _losses(self, batch: Batch, *, rows: bool, only: int | None = None) -> TaskLosses:
        targets = self.standardised(batch.targets)
        logits = features = kept = None
        # Methods expect the logits of all tasks.
        if only is None and not (batch.complete or self.uses_jacobian or self._whole):
            only = self._only_task(batch.targets)
        with self._where(batch):
            if only is None:
                logits, features, kept = self._logits(batch, rows=rows)
            else:
                sums, counts = self._terms_of(only, batch, targets)
        if logits is not None:
            sums, counts = self._terms_in(self.layout, logits, targets, batch)
        present, alone = None, n_processes() == 1
        total = sum_over_processes(torch.stack([sums.detach(), counts]))
        if not alone:
            counts = total[1]
            sums = sums + (total[0] - sums).detach()
        if not (batch.complete and alone and only is None) and not bool(counts.all()):
            present = counts.nonzero().flatten()
            sums, counts = sums[present], counts[present]
        losses = sums / counts
        self._check_finite(losses, present)
        return TaskLosses(losses, present, batch, total, features, logits, kept)

    def loss_terms_of(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._terms_in(self.layout, logits, self.standardised(batch.targets), batch)

    def standardised(self, targets: Tensor) -> Tensor:
        if self.layout.dtype != torch.float64:
            return targets
        if self.target_scale is None:
            self.target_scale = self.model.target_scale(self.names)
        mean, std = self.target_scale
        return (targets - mean) / std

    def _only_task(self, targets: Tensor) -> int | None:
        """Return the index of the only task with labels in a batch; None if there are several."""
        labelled = self.layout.labelled(targets).any(dim=0)
        return int(labelled.int().argmax()) if int(labelled.sum()) == 1 else None

    def _terms_of(self, only: int, batch: Batch, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss terms of all tasks: those of task `only`, and zeros for the others."""
        task = self.tasks[only]
        if self._head is None:
            logits = self.model(self._inputs(batch), [task.name], joined=True)
        else:
            whole, _, _ = self._logits(batch, rows=False)
            logits = whole[:, self.layout.output_slices[task.name]]
        own = targets[:, self.layout.column_slices[task.name]]
        place = torch.tensor([only], device=logits.device)
        sums, counts = self._terms_in(task_layout((task,)), logits, own, batch)
        zeros = sums.new_zeros(len(self.tasks))
        return zeros.index_copy(0, place, sums), zeros.index_copy(0, place, counts)

    def _terms_in(
        self, layout: TaskLayout, logits: Tensor, targets: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        given: dict[str, Any] = {"complete": batch.complete, "sample_weight": batch.sample_weight}
        if self._terms is None:
            return layout.loss_terms(logits, targets, **given)
        terms: tuple[Tensor, Tensor] = self._terms.loss_terms(logits, targets, layout, **given)
        return terms

    def _inputs(self, batch: Batch) -> Tensor:
        # Data are float32, but a float64 model needs inputs in its own type.
        return batch.inputs.to(self.dtype)

    def evaluated(self, batch: Batch) -> Tensor:
        """Return the joined logits of all trained tasks, as used for predictions."""
        with self._where(batch):
            logits: Tensor = self.model(self._inputs(batch), self.names, joined=True)
        return logits

    def _logits(self, batch: Batch, *, rows: bool) -> tuple[Tensor, Tensor | None, Any]:
        """Return joined logits, features, and the tensors for the Jacobian's rows."""
        inputs = self._inputs(batch)
        if rows and self.jacobian is not None and self.jacobian.n_groups is not None:
            kept = self.jacobian.forward(inputs)
            return kept.logits, kept.features, kept
        if self._head is None and not self._by_features:
            return self.model(inputs, self.names, joined=True), None, None
        features = self.model.encoder(inputs)
        if self._head is not None:
            return self._head.logits(features, self), features, None
        return self.model.logits(features, self.names), features, None

    @contextmanager
    def _where(self, batch: Batch) -> Iterator[None]:
        """Add the epoch and step to errors that parts of the model raise.

        Inside, sparse embeddings get dense gradients, which the Jacobian's rows need.
        """
        for embedding in self._sparse:
            embedding.sparse = False
        try:
            yield
        except InvalidInputError as error:
            # A data set's inputs are finite; if features are not, training diverged.
            hint = "; if the encoder diverged, try a smaller learning rate or gradient_clip"
            names = ", ".join(repr(task.name) for task in self.tasks)
            raise InvalidInputError(
                f"tasks {names}, epoch {self.epoch + 1}, step {self.number}: {error}"
                f"{hint if 'must be finite' in str(error) else ''}"
            ) from None
        except ValueError as error:
            if len(batch.inputs) > 1:
                raise
            raise InvalidInputError(
                f"epoch {self.epoch + 1}, step {self.number}: the batch has a single "
                f"row, which the model does not take ({error}); use a larger batch_size"
            ) from None
        finally:
            for embedding in self._sparse:
                embedding.sparse = True

    def _check_finite(self, losses: Tensor, present: Tensor | None) -> None:
        if math.isfinite(float(losses.detach().sum())):
            return
        places = range(len(losses)) if present is None else present.tolist()
        for place, loss in zip(places, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise QmtlError(
                    f"the loss of task {self.tasks[place].name!r} is {loss} in epoch "
                    f"{self.epoch + 1}, step {self.number}; try a smaller learning rate or "
                    f"gradient_clip"
                )

    def set_gradients(self, losses: TaskLosses) -> None:
        """Set ``.grad`` of all trained parameters; parameters without a gradient get None.

        Raises:
            InvalidInputError: if the combiner does not accept such losses or gradients.
        """
        parameters = [*self.shared, *self.own]
        for parameter in (*parameters, *self.weights):
            parameter.grad = None
        extra = self._extra_losses(losses)
        more: list[Tensor | None] = []
        if extra is not None:
            found = torch.autograd.grad(extra, parameters, retain_graph=True, allow_unused=True)
            set_gradients(parameters, found)
            more = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                parameter.grad = None
        if not losses.values.requires_grad:
            pass  # everything that these tasks depend on is frozen
        elif self._gradients is not None:
            self._gradients.gradients(losses, self)
        elif self.jacobian is None:
            self._scalarize(losses)
        else:
            try:
                self.jacobian.aggregate(losses.values, losses.present, losses.rows)
            except ValueError as error:
                raise self._named(error) from None
        for parameter, own in zip(parameters, more, strict=False):
            if own is not None:
                parameter.grad = own if parameter.grad is None else parameter.grad + own

    def _extra_losses(self, losses: TaskLosses) -> Tensor | None:
        found = [method.extra_loss(losses, self) for method in self._extra]
        terms = [term for term in found if term is not None]
        if isinstance(self.model.encoder, TaskEncoder):
            own = self.model.encoder.extra_loss()
            # Every process computes this same loss, and gradients are summed over processes.
            if own is not None and own.requires_grad:
                terms.append(own / n_processes())
        return torch.stack(terms).sum() if terms else None

    def _named(self, error: ValueError) -> InvalidInputError:
        """Return the combiner's error as an InvalidInputError with the combiner's name."""
        kind = "aggregator" if self.uses_jacobian else "scalarizer"
        reason = " ".join(str(error).split())
        return InvalidInputError(f"{kind} {getattr(self.settings, kind)!r}: {reason}")

    def _scalarized(self, losses: Tensor, present: Tensor | None) -> Tensor:
        try:
            return scalarize(self.combiner, losses, present, self.last_losses)
        except ValueError as error:
            raise self._named(error) from None

    def _scalarize(self, losses: TaskLosses) -> None:
        parameters = [*self.shared, *self.own]
        total = self._scalarized(losses.values, losses.present)
        gradients = torch.autograd.grad(total, [*parameters, *self.weights], allow_unused=True)
        set_gradients(parameters, gradients[: len(parameters)])
        # The scalarizer saw the losses of all processes, so this gradient is complete.
        for weight, gradient in zip(self.weights, gradients[len(parameters) :], strict=True):
            weight.grad = None if gradient is None else gradient.contiguous()

    @staticmethod
    def summed(values: Tensor) -> Tensor:
        return sum_over_processes(values)

    def combined(self, losses: TaskLosses, rows: Sequence[Tensor]) -> list[Tensor]:
        # Autocast is off here: the rows are combined in their own precision.
        with torch.autocast(losses.values.device.type, enabled=False):
            if self.jacobian is None:
                values = losses.values.detach().requires_grad_()
                total = self._scalarized(values, losses.present)
                weights, *own = torch.autograd.grad(
                    total, [values, *self.weights], materialize_grads=True
                )
                for weight, gradient in zip(self.weights, own, strict=True):
                    weight.grad = gradient.contiguous()
                return [torch.tensordot(weights.to(r.dtype), r, dims=1) for r in rows]
            matrix = torch.cat([row.flatten(1) for row in rows], dim=1)
            try:
                vector = self.combiner(matrix)
            except ValueError as error:
                raise self._named(error) from None
        parts = vector.split([row[0].numel() for row in rows])
        return [part.view(row.shape[1:]) for part, row in zip(parts, rows, strict=True)]


def _one(methods: Mapping[str, Method], hook: str) -> Any:
    """Return the only method that defines a hook, or None; raise if several do."""
    found = {name: m for name, m in methods.items() if using([m], hook)}
    if len(found) > 1:
        raise InvalidInputError(
            f"{' and '.join(found)} do not go together: both define the step's {hook}"
        )
    return next(iter(found.values()), None)
