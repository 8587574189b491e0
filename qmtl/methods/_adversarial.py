"""Attacks on inputs (FGSM and PGD), for adversarial training and for robust metrics."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from qmtl._calls import evaluating
from qmtl._sections import Section
from qmtl.data import Split
from qmtl.encoders import Fusion
from qmtl.errors import InvalidInputError, check_type
from qmtl.methods._method import Batch, Method, MethodSection, Step
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, chosen_tasks, task_layout

# The total length of PGD's steps in units of the radius: enough to cross the ball and return.
REACH = 2.5
# Squares of larger inputs overflow in single precision.
LARGEST = 1e18


class Attack(Section):
    r"""A change of inputs by at most `epsilon` that raises losses.

    FGSM is one step of length `epsilon` along the losses' gradient with respect to the inputs: its
    sign for ``linf``, its direction for ``l2``. PGD starts at a random point within `epsilon`,
    takes `steps` smaller steps, and projects back into the ball after each.

    Attributes:
        attack: ``fgsm`` or ``pgd``.
        epsilon: the largest change, in the units of the inputs: of each input for ``linf``, of a
            row's Euclidean norm for ``l2``. With 0, inputs do not change.
        steps: (pgd) number of steps.
        step_size: (pgd) size of each step; None for ``2.5 * epsilon / steps``.
        norm: norm of the change, ``linf`` or ``l2``.
        low: lower limit of the inputs, for example of pixels; None for no limit.
        high: upper limit of the inputs.
        tasks: names of the tasks whose losses are raised; None for all.

    Example:
        >>> attack = Attack(attack="fgsm", epsilon=0.1)
        >>> attack.changed(torch.zeros(1, 2), lambda x: torch.tensor([[3.0, -1.0]]))
        tensor([[ 0.1000, -0.1000]])

    References:
        Goodfellow et al., arXiv:1412.6572 (FGSM). Madry et al., arXiv:1706.06083 (PGD).
    """

    attack: Literal["fgsm", "pgd"] = "pgd"
    epsilon: float = Field(0.03, ge=0, le=LARGEST)
    steps: int = Field(5, ge=1)
    step_size: float | None = Field(None, gt=0, le=LARGEST)
    norm: Literal["linf", "l2"] = "linf"
    low: float | None = Field(None, ge=-LARGEST, le=LARGEST)
    high: float | None = Field(None, ge=-LARGEST, le=LARGEST)
    tasks: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self

    def changed(
        self,
        inputs: Tensor,
        gradient: Callable[[Tensor], Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Change the inputs so that the losses are higher.

        Args:
            inputs: tensor of shape (rows, ...).
            gradient: function from inputs to the gradient of the losses with respect to them.
            generator: generator on the CPU for the random start of PGD; None for the seed 0.
        """
        if not self.epsilon:
            return inputs
        steps, length, found = 1, self.epsilon, inputs
        if self.attack == "pgd":
            steps, length = self.steps, self.step_size or REACH * self.epsilon / self.steps
            found = self._within(inputs + self._start(inputs, generator), inputs)
        for _ in range(steps):
            slope = gradient(found)
            along = slope.sign() if self.norm == "linf" else slope / _lengths(slope)
            found = self._within(found + length * along, inputs)
        return found

    def _start(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw a uniformly random point of the ball."""
        generator = generator or torch.Generator().manual_seed(0)
        if self.norm == "linf":
            drawn = 2 * torch.rand(inputs.shape, generator=generator) - 1
        else:
            drawn = torch.randn(inputs.shape, generator=generator)
            radii = torch.rand(len(inputs), *[1] * (inputs.ndim - 1), generator=generator)
            drawn = drawn / _lengths(drawn) * radii ** (1 / max(1, inputs[:1].numel()))
        return self.epsilon * drawn.to(inputs)

    def _within(self, changed: Tensor, inputs: Tensor) -> Tensor:
        """Return the nearest points within the ball around the inputs and within the limits."""
        moved = changed - inputs
        if self.norm == "linf":
            moved = moved.clamp(-self.epsilon, self.epsilon)
        else:
            moved = moved * (self.epsilon / _lengths(moved)).clamp(max=1)
        moved = inputs + moved
        limited = self.low is not None or self.high is not None
        return moved.clamp(self.low, self.high) if limited else moved


def _lengths(values: Tensor) -> Tensor:
    """Return Euclidean norms of rows, (rows, 1, ...), never zero."""
    flat = values.flatten(1).square().sum(1).sqrt()
    return flat.clamp(min=torch.finfo(values.dtype).tiny).view(-1, *[1] * (values.ndim - 1))


def _input_gradient(total: Tensor, inputs: Tensor) -> Tensor:
    found = None
    if total.requires_grad:
        (found,) = torch.autograd.grad(total, inputs, allow_unused=True)
    if found is None:
        raise InvalidInputError(
            "an attack needs the gradient of the losses with respect to the inputs, but the "
            "encoder's output does not depend on them smoothly, as with tokens of a text"
        )
    return found.detach()


def _check_inputs(model: MultiTaskModel) -> None:
    if any(isinstance(module, Fusion) for module in model.encoder.modules()):
        raise InvalidInputError(
            "an attack changes all inputs a little, but those of the encoder Fusion begin with "
            "flags that say which modalities are there"
        )


def attacked_split(
    model: MultiTaskModel, split: Split, attack: Attack, *, batch_size: int = 256
) -> Split:
    """Return the rows of a split, with inputs changed so that the model's losses are higher.

    The model runs in evaluation mode. PGD draws its random starts with the seed 0. Rows without a
    label of the attacked tasks get these starts, and no further change.

    Args:
        model: the model.
        split: rows with targets of the attacked tasks.
        attack: the attack.
        batch_size: number of rows at once.

    Raises:
        InvalidInputError: if the attack names an unknown task, or the encoder's output does not
            depend on its inputs smoothly, as with tokens or the flags of `Fusion`.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
        >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit, seed=0))
        >>> rows = Split(torch.zeros(3, 2), {"a": torch.tensor([0.0, 1.0, 1.0])})
        >>> moved = attacked_split(model, rows, Attack(epsilon=0.1)).inputs
        >>> float(moved.abs().max()) <= 0.1 + 1e-6
        True
    """
    _check_inputs(model)
    check_type("split", split, Split)
    by_name = {task.name: task for task in model.tasks if task.name in split.targets}
    names = chosen_tasks(attack.tasks, list(by_name))
    layout = task_layout(tuple(by_name[name] for name in names))
    reference = next(model.parameters())
    mean, std = model.target_scale(names)
    targets = (layout.join_targets(split.targets).to(mean) - mean) / std
    generator = torch.Generator().manual_seed(0)
    parts = []
    with evaluating(model), torch.enable_grad():
        for rows, wanted in zip(
            split.inputs.split(batch_size), targets.split(batch_size), strict=True
        ):

            def gradient(inputs: Tensor, wanted: Tensor = wanted) -> Tensor:
                given = inputs.detach().requires_grad_()
                sums, _ = layout.loss_terms(model(given, names, joined=True), wanted)
                return _input_gradient(sums.sum(), given)

            parts.append(attack.changed(rows.to(reference), gradient, generator).to(split.inputs))
    return replace(split, inputs=torch.cat(parts))


class Adversarial(Attack, MethodSection):
    """Section ``[training.adversarial]``, or ``adversarial = EPSILON``: train on attacked inputs.

    The attack raises the mean losses of its tasks at the current weights, with the model in
    evaluation mode. All tasks then learn from the same attacked rows, and the run's scalarizer or
    aggregator combines their gradients. For auxiliary tasks see
    `qmtl.methods.with_auxiliary_tasks`.

    Attributes:
        share: fraction of the rows of each batch that are attacked, drawn at random.

    References:
        Madry et al., arXiv:1706.06083. With auxiliary tasks: Ghamizi et al., arXiv:2302.02907.
    """

    short: ClassVar[str | None] = "epsilon"
    one_process: ClassVar[str | None] = "its random starts and rows are those of a whole batch"
    trials: ClassVar[tuple[Any, ...]] = (0.01, 0.03)

    share: float = Field(1.0, ge=0, le=1)

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        _check_inputs(model)
        names = [task.name for task in tasks]
        chosen = chosen_tasks(self.tasks, names)
        return _AdversarialTraining(self, [names.index(name) for name in chosen])


class _AdversarialTraining(Method):
    def __init__(self, options: Adversarial, places: Sequence[int]) -> None:
        super().__init__()
        self.options, self.places = options, set(places)

    def change_batch(self, batch: Batch, step: Step) -> Batch:
        if not self.options.epsilon or not self.options.share:
            return batch

        def gradient(inputs: Tensor) -> Tensor:
            given = inputs.detach().requires_grad_()
            losses = step.losses_of(replace(batch, inputs=given))
            kept = [n for n, place in enumerate(losses.places()) if place in self.places]
            return _input_gradient(losses.values[kept].sum(), given) if kept else inputs * 0

        with evaluating(step.model), torch.enable_grad():
            moved = self.options.changed(batch.inputs, gradient, step.generator)
        if self.options.share < 1:
            drawn = torch.rand(len(moved), generator=step.generator) < self.options.share
            drawn = drawn.to(moved.device).view(-1, *[1] * (moved.ndim - 1))
            moved = torch.where(drawn, moved, batch.inputs)
        return replace(batch, inputs=moved.detach())
