"""How a method takes part in a training step: its options, its hooks, and what these are given.

A method that is switched on is a small module beside the model. `qmtl.training` calls those of its
hooks that its class defines, in this order: in each step `change_batch`, `logits`, `loss_terms`,
`losses`, `extra_loss`, `gradients`, `before_step`, `after_step`; once per epoch `epoch_end` and
`metrics`.
"""

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

__all__ = ["Batch", "Method", "MethodSection", "Step", "TaskLosses", "using"]


@dataclass(frozen=True)
class Batch:
    """Some rows: their inputs, and the targets of all tasks side by side.

    Attributes:
        inputs: (rows, ...).
        targets: joined, (rows, columns), NaN where missing: see `qmtl.tasks.TaskLayout`.
        complete: whether no label is missing in the whole split that the rows are of.
        sample_weight: of the rows in losses and metrics, (rows,), in parts of the largest of their
            split; None for 1 each.
    """

    inputs: Tensor
    targets: Tensor
    complete: bool = False
    sample_weight: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; in float32 on MPS, which has no float64."""
        if self.inputs.device == device == self.targets.device:
            return self

        def moved(values: Tensor) -> Tensor:
            return values.to(device, torch.float32 if device.type == "mps" else values.dtype)

        weights = None if self.sample_weight is None else moved(self.sample_weight)
        return Batch(self.inputs.to(device), moved(self.targets), self.complete, weights)


@dataclass(frozen=True)
class TaskLosses:
    """The losses of a batch, and what they were computed from.

    A loss is this process's share of the mean over the labels of all processes: values are global
    and gradients local, so that the sum of all gradients is the gradient of the mean.

    Attributes:
        values: of the tasks with labels, (present,), with a graph.
        present: the places of these tasks, int64; None for all tasks.
        batch: the batch.
        totals: sums of losses and what to divide them by, (2, tasks), of all processes.
        features: what the encoder made of the inputs, (rows, features); None if no method that is
            on has `needs_features`.
        logits: of all trained tasks side by side, (rows, outputs); None if only one task's were
            computed.
        rows: what the rows of the Jacobian are taken from; None if they are not wanted.
    """

    values: Tensor
    present: Tensor | None
    batch: Batch
    totals: Tensor
    features: Tensor | None = None
    logits: Tensor | None = None
    rows: Any = None

    def places(self) -> list[int]:
        """The places of the tasks that `values` are of."""
        return list(range(len(self.values))) if self.present is None else self.present.tolist()


class Step(Protocol):
    """What a method may use in a training step.

    Attributes:
        model: what is trained.
        tasks: the tasks that are trained, in the order of joined tensors.
        layout: of their joined logits and targets.
        shared: trainable parameters that several tasks depend on.
        own: trainable parameters of which each entry belongs to one task, and those of methods.
        epoch: the first is 0.
        uses_jacobian: whether an aggregator combines gradients, and not a scalarizer losses.
        generator: on the CPU, seeded from the run's seed and the epoch: draw from this one, and
            runs resume bit for bit.
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
        """The losses of a batch with the parameters of now, before methods change them.

        Args:
            batch: the rows.
            only: the place of the only task to compute, which must have labels; None for all.
        """

    def standardised(self, targets: Tensor) -> Tensor:
        """Joined targets as losses see them: those of regressions standardised."""

    def loss_terms_of(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums of losses and what to divide them by, (tasks,), of joined logits of a batch."""

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, which all of them must ask for; without a graph."""

    def combined(self, losses: TaskLosses, rows: Sequence[Tensor]) -> list[Tensor]:
        """What the run's aggregator, or the scalarizer's weights, make of rows of a Jacobian.

        Args:
            losses: of which the rows are; a scalarizer weighs the rows by what it makes of them.
            rows: for each parameter, (present, *its shape), summed over processes.

        Returns:
            For each parameter a gradient of its shape.
        """


class Method(nn.Module):
    """A method at work. Every hook may be left out, and costs nothing then.

    Its buffers and parameters are in the run's checkpoints; other state goes there by torch's
    ``get_extra_state`` and ``set_extra_state``. Parameters in `trained` are stepped by the run's
    optimiser.
    """

    needs_features: ClassVar[bool] = False
    """Whether `TaskLosses.features` has to be there."""

    def trained(self) -> list[nn.Parameter]:
        """The parameters for the run's optimiser, at its `learning_rate`; by default all."""
        return [p for p in self.parameters() if p.requires_grad]

    def setup(self, step: Step, train: Split) -> None:
        """Before the first step, also of a run that resumes: depends on the rows alone."""

    def change_batch(self, batch: Batch, step: Step) -> Batch:
        """Other inputs or targets in the place of a batch's."""
        return batch

    def logits(self, features: Tensor, step: Step) -> Tensor:
        """Joined logits of the trained tasks from features. One method at most defines it."""
        raise NotImplementedError

    def loss_terms(
        self,
        logits: Tensor,
        targets: Tensor,
        layout: TaskLayout,
        *,
        complete: bool,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `qmtl.tasks.TaskLayout.loss_terms`. One method at most defines it."""
        raise NotImplementedError

    def losses(self, losses: TaskLosses, step: Step) -> TaskLosses:
        """Other losses in the place of a batch's, of the same tasks."""
        return losses

    def extra_loss(self, losses: TaskLosses, step: Step) -> Tensor | None:
        """What is added to the objective: this process's share, so that gradients add up."""

    def gradients(self, losses: TaskLosses, step: Step) -> None:
        """Set ``.grad`` of `step.shared` and `step.own`, summed over processes.

        One method at most defines it. It does not see a scalarizer's own weights.
        """
        raise NotImplementedError

    def before_step(self, optimizer: torch.optim.Optimizer, step: Step) -> None:
        """Before the optimiser's step, when all gradients are set."""

    def after_step(self, batch: Batch, step: Step) -> None:
        """After the optimiser's step; the batch is the one that `change_batch` has made."""

    def epoch_end(self, step: Step) -> None:
        """After an epoch's last step."""

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Training metrics of the epoch: task → metric → value."""
        return {}


def using(methods: Iterable[Any], hook: str) -> list[Any]:
    """Those methods whose class defines a hook.

    Example:
        >>> class Quiet(Method):
        ...     def losses(self, losses, step):
        ...         return losses
        >>> len(using([Quiet()], "losses")), using([Quiet()], "logits")
        (1, [])
    """
    return [m for m in methods if getattr(type(m), hook) is not getattr(Method, hook)]


class MethodSection(Section):
    """The options of a method in a recipe, such as ``[training.adversarial]``.

    In the place of a table a recipe may have the value of `short` alone, ``flatness = 0.05``, or
    ``true`` for a table without a key.
    """

    short: ClassVar[str | None] = None
    """The option that a value alone gives; None if there is none."""
    excludes: ClassVar[tuple[str, ...]] = ()
    """Settings that must not be set beside this method."""
    one_process: ClassVar[str | None] = None
    """Why it does not train in several processes; None if it does."""
    trials: ClassVar[tuple[Any, ...]] = (True,)
    """Values of the key that a comparison tries, 1, 2 or 4 of them; True is for the defaults."""

    def check(self, settings: Any) -> None:
        """Raise a ValueError if these options do not go together with the training settings."""

    @abstractmethod
    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        """The method at work.

        Args:
            model: what is trained.
            tasks: those of its tasks that are trained.
            seed: of everything random in it that is drawn before training.

        Raises:
            InvalidInputError: if model and tasks are not what the method is for.
        """

    @model_serializer(mode="wrap")
    def _short_form(self, handler: SerializerFunctionWrapHandler) -> Any:
        table = handler(self)
        others = [name for name in table if name != self.short]
        fields = type(self).model_fields
        if not all(getattr(self, name) == fields[name].default for name in others):
            return table
        value = table.get(self.short)
        return value if value is not None else table if others else True
