"""The interface between a method and a training step: options, hooks, and the hooks' arguments."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from qmtl._sections import Section
from qmtl.data import Split
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, TaskLayout


@dataclass(frozen=True)
class Batch:
    """A batch of rows: their inputs, and the joined targets of all tasks.

    Attributes:
        inputs: inputs, shape (rows, ...).
        targets: joined targets (rows, columns), NaN where missing: see `qmtl.tasks.TaskLayout`.
        complete: whether no label is missing in the whole split of these rows.
        sample_weight: weights of the rows in losses and metrics, (rows,), relative to the largest
            in the split; None for 1 each.
    """

    inputs: Tensor
    targets: Tensor
    complete: bool = False
    sample_weight: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; in float32 on MPS, which has no float64."""
        if self.inputs.device == device == self.targets.device:
            return self

        def moved(values: Tensor) -> Tensor:
            return values.to(device, torch.float32 if device.type == "mps" else values.dtype)

        weights = None if self.sample_weight is None else moved(self.sample_weight)
        return Batch(self.inputs.to(device), moved(self.targets), self.complete, weights)


@dataclass(frozen=True)
class TaskLosses:
    """The losses of a batch, with the tensors from which they were computed.

    A loss is a mean over the labels of all processes. Its value is global and its gradient local,
    so that the sum of all processes' gradients is the gradient of the mean.

    Attributes:
        values: losses of the tasks with labels, (present,), with a graph.
        present: indices of these tasks, int64; None for all tasks.
        batch: the batch.
        totals: sums of losses and their divisors, (2, tasks), over all processes.
        features: the encoder's features, (rows, features); None if no active method has
            `needs_features`.
        logits: logits of all trained tasks side by side, (rows, outputs); None if only one task's
            were computed.
        rows: tensors from which the Jacobian's rows are computed; None if they are not needed.
    """

    values: Tensor
    present: Tensor | None
    batch: Batch
    totals: Tensor
    features: Tensor | None = None
    logits: Tensor | None = None
    rows: Any = None

    def places(self) -> list[int]:
        """Return the indices of the tasks of `values`."""
        return list(range(len(self.values))) if self.present is None else self.present.tolist()


class Step(Protocol):
    """The parts of a training step that a method may use.

    Attributes:
        model: the model that is trained.
        tasks: the tasks that are trained, in the order of joined tensors.
        layout: layout of their joined logits and targets.
        shared: trainable parameters that several tasks depend on.
        own: trainable parameters whose entries each belong to one task, and those of methods.
        epoch: epoch, counted from 0.
        uses_jacobian: whether an aggregator combines gradients (True) or a scalarizer combines
            losses.
        generator: generator on the CPU, seeded from the run's seed and the epoch; a method that
            draws from it resumes bit for bit.
    """

    model: MultiTaskModel
    tasks: tuple[Task, ...]
    layout: TaskLayout
    shared: list[nn.Parameter]
    own: list[nn.Parameter]
    epoch: int
    uses_jacobian: bool
    generator: torch.Generator

    def losses_of(self, batch: Batch, *, only: int | None = None) -> TaskLosses:
        """Return the losses of a batch at the present parameters, before methods change them.

        Args:
            batch: the rows.
            only: index of the only task to compute, which must have labels; None for all.
        """

    def standardised(self, targets: Tensor) -> Tensor:
        """Return joined targets as losses use them, with standardised regression targets."""

    def loss_terms_of(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sums of losses and their divisors, (tasks,), from joined logits of a batch."""

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, without a graph; every process must call it."""

    def combined(self, losses: TaskLosses, rows: Sequence[Tensor]) -> list[Tensor]:
        """Combine rows of a Jacobian by the run's aggregator, or by the scalarizer's weights.

        Args:
            losses: losses of these rows, from which a scalarizer computes the weights of the rows.
            rows: for each parameter, one gradient per loss, (losses, *parameter shape), summed over
                processes. The result has one gradient per parameter.
        """


class Method(nn.Module):
    """A method during training: a small module beside the model, with hooks.

    Each step calls `change_batch`, `logits`, `loss_terms`, `losses`, `extra_loss`, `gradients`,
    `before_step` and `after_step`, in this order; each epoch then calls `epoch_end` and `metrics`.
    A hook that the class does not define costs nothing. Buffers and parameters are saved
    in the run's checkpoints, and other state by torch's ``get_extra_state`` and
    ``set_extra_state``. The run's optimiser steps the parameters in `trained`.
    """

    needs_features: ClassVar[bool] = False
    """Whether the method reads `TaskLosses.features`."""

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters for the run's optimiser, at its `learning_rate`; by default all."""
        return [p for p in self.parameters() if p.requires_grad]

    def setup(self, step: Step, train: Split) -> None:
        """Prepare the method before the first step, also of a resumed run; use the rows only."""

    def change_batch(self, batch: Batch, step: Step) -> Batch:
        """Return a batch with other inputs or targets."""
        return batch

    def logits(self, features: Tensor, step: Step) -> Tensor:
        """Return joined logits of the trained tasks, from features. One method may define this."""
        return step.model.logits(features, [task.name for task in step.tasks])

    def loss_terms(
        self,
        logits: Tensor,
        targets: Tensor,
        layout: TaskLayout,
        *,
        complete: bool,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Do what `qmtl.tasks.TaskLayout.loss_terms` does. At most one method defines this hook."""
        return layout.loss_terms(logits, targets, complete=complete, sample_weight=sample_weight)

    def losses(self, losses: TaskLosses, step: Step) -> TaskLosses:
        """Return the losses to use instead of a batch's losses, for the same tasks."""
        return losses

    def extra_loss(self, losses: TaskLosses, step: Step) -> Tensor | None:
        """Return a term to add to the objective: this process's share, so that gradients add up."""

    def gradients(self, losses: TaskLosses, step: Step) -> None:
        """Set ``.grad`` of `step.shared` and `step.own`, summed over processes.

        At most one method defines this hook. It does not set gradients of a scalarizer's weights.
        """

    def before_step(self, optimizer: torch.optim.Optimizer, step: Step) -> None:
        """Act before the optimiser's step, when all gradients are set."""

    def after_step(self, batch: Batch, step: Step) -> None:
        """Act after the optimiser's step on a batch, which `change_batch` returned."""

    def epoch_end(self, step: Step) -> None:
        """Act after an epoch's last step."""

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Return the epoch's training metrics: for each task, values by name."""
        return {}


def using(methods: Iterable[Any], hook: str) -> list[Any]:
    """Return the methods whose class defines a hook."""
    return [m for m in methods if getattr(type(m), hook) is not getattr(Method, hook)]


class MethodSection(Section):
    """The options of a method in a recipe, such as ``[training.adversarial]``.

    Instead of a table, a recipe may give the value of `short` alone, as in ``flatness = 0.05``, or
    ``true`` for a table without keys.
    """

    short: ClassVar[str | None] = None
    """The option that a recipe may set by a value alone, without a table; None for no option."""
    excludes: ClassVar[tuple[str, ...]] = ()
    """Settings that must not be set beside this method."""
    one_process: ClassVar[str | None] = None
    """Why the method needs a single process; None if it also trains in several."""
    trials: ClassVar[tuple[Any, ...]] = (True,)
    """One, two or four values of the key that a comparison tries; True means the defaults."""

    def check(self, settings: Any) -> None:
        """Raise a ValueError if these options do not fit the training settings."""

    @abstractmethod
    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        """Build the method for a model and the tasks that are trained.

        The seed is for random numbers that are drawn before training.

        Raises:
            InvalidInputError: if the method does not suit model and tasks.
        """

    @model_serializer(mode="wrap")
    def _short_form(self, handler: SerializerFunctionWrapHandler) -> Any:
        table = handler(self)
        others = [name for name in table if name != self.short]
        fields = type(self).model_fields
        if any(getattr(self, name) != fields[name].default for name in others):
            return table
        value = table.get(self.short)
        return value if value is not None else table if others else True
