"""Adversarial training: the inputs of every batch are attacked before the step."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from qmtl.methods._attack import Attack, evaluating, input_gradient
from qmtl.methods._method import Batch, Method, MethodSection, Step
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, chosen_tasks

__all__ = ["Adversarial"]


class Adversarial(Attack, MethodSection):
    """Section ``[training.adversarial]``, or ``adversarial = EPSILON``: train on attacked inputs.

    The attack raises the mean losses of its tasks at the present weights, with the model in
    evaluation mode. All tasks, auxiliary ones included, then learn from the same attacked rows, and
    the run's scalarizer or aggregator combines their gradients. For auxiliary tasks see
    `qmtl.methods.with_auxiliary_tasks`.

    Attributes:
        share: fraction of the rows of each batch that are attacked, drawn at random.

    Example:
        >>> from qmtl.training import TrainingSettings
        >>> TrainingSettings(adversarial=0.1).adversarial.epsilon
        0.1

    References:
        Madry et al., arXiv:1706.06083. With auxiliary tasks: Ghamizi et al., arXiv:2302.02907.
    """

    short: ClassVar[str | None] = "epsilon"
    one_process: ClassVar[str | None] = "its random starts and rows are those of a whole batch"
    trials: ClassVar[tuple[Any, ...]] = (0.01, 0.03)

    share: float = Field(1.0, ge=0, le=1)

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        """Build the method for the model and these tasks."""
        names = [task.name for task in tasks]
        chosen = chosen_tasks(self.tasks, names)
        return _AdversarialTraining(self, [names.index(name) for name in chosen])


class _AdversarialTraining(Method):
    def __init__(self, options: Adversarial, places: Sequence[int]) -> None:
        super().__init__()
        self.options, self.places = options, set(places)

    def change_batch(self, batch: Batch, step: Step) -> Batch:
        """The batch with attacked inputs."""
        if not self.options.epsilon or not self.options.share:
            return batch

        def gradient(inputs: Tensor) -> Tensor:
            given = inputs.detach().requires_grad_()
            losses = step.losses_of(replace(batch, inputs=given))
            kept = [n for n, place in enumerate(losses.places()) if place in self.places]
            return input_gradient(losses.values[kept].sum(), given) if kept else inputs * 0

        with evaluating(step.model), torch.enable_grad():
            moved = self.options.changed(batch.inputs, gradient, step.generator)
        if self.options.share < 1:
            drawn = torch.rand(len(moved), generator=step.generator) < self.options.share
            drawn = drawn.to(moved.device).view(-1, *[1] * (moved.ndim - 1))
            moved = torch.where(drawn, moved, batch.inputs)
        return replace(batch, inputs=moved.detach())
