"""Attacks on inputs: FGSM and PGD, for training against them and for robust metrics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from qmtl._sections import Section
from qmtl.data import Split
from qmtl.errors import InvalidInputError
from qmtl.model import MultiTaskModel
from qmtl.tasks import chosen_tasks, task_layout

__all__ = ["Attack", "attacked_split", "evaluating", "input_gradient"]

# A step of PGD, times steps, in radii: it can cross the ball and come back.
REACH = 2.5


class Attack(Section):
    r"""How inputs are changed so that losses rise, by at most `epsilon`.

    FGSM is one step of length `epsilon` along the gradient of the losses by the inputs: its sign
    for ``linf``, its direction for ``l2``. PGD begins at a random point within `epsilon`, takes
    `steps` smaller steps, and goes back into the ball after each.

    Attributes:
        attack: ``fgsm`` or ``pgd``.
        epsilon: the largest change, in the units of the inputs: of each input for ``linf``, of a
            row's Euclidean norm for ``l2``. With 0 nothing is changed.
        steps: (pgd) their number.
        step_size: (pgd) of each; None for ``2.5 * epsilon / steps``.
        norm: ``linf`` or ``l2``.
        low: inputs stay at or above it, as for pixels; None for no limit.
        high: inputs stay at or below it; None for no limit.
        tasks: those whose losses rise, by name; None for all.

    Example:
        >>> attack = Attack(attack="fgsm", epsilon=0.1)
        >>> attack.changed(torch.zeros(1, 2), lambda x: torch.tensor([[3.0, -1.0]]))
        tensor([[ 0.1000, -0.1000]])

    References:
        Goodfellow et al., arXiv:1412.6572 (FGSM). Madry et al., arXiv:1706.06083 (PGD).
    """

    attack: Literal["fgsm", "pgd"] = "pgd"
    epsilon: float = Field(0.03, ge=0, allow_inf_nan=False)
    steps: int = Field(5, ge=1)
    step_size: float | None = Field(None, gt=0, allow_inf_nan=False)
    norm: Literal["linf", "l2"] = "linf"
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
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
        """Inputs at which the losses are higher.

        Args:
            inputs: (rows, ...).
            gradient: of the losses by inputs of that shape, at the inputs that it is given.
            generator: on the CPU, for the random start of PGD; None for one with the seed 0.

        Returns:
            Of the shape and type of the inputs.
        """
        if not self.epsilon:
            return inputs
        if self.attack == "fgsm":
            return self._within(inputs + self.epsilon * self._direction(gradient(inputs)), inputs)
        length = self.step_size or REACH * self.epsilon / self.steps
        found = self._within(inputs + self._start(inputs, generator), inputs)
        for _ in range(self.steps):
            found = self._within(found + length * self._direction(gradient(found)), inputs)
        return found

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else gradient / _lengths(gradient)

    def _start(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """A random point of the ball, uniformly."""
        generator = generator or torch.Generator().manual_seed(0)
        if self.norm == "linf":
            drawn = 2 * torch.rand(inputs.shape, generator=generator) - 1
        else:
            drawn = torch.randn(inputs.shape, generator=generator)
            radii = torch.rand(len(inputs), *[1] * (inputs.ndim - 1), generator=generator)
            drawn = drawn / _lengths(drawn) * radii ** (1 / max(1, inputs[:1].numel()))
        return self.epsilon * drawn.to(inputs)

    def _within(self, changed: Tensor, inputs: Tensor) -> Tensor:
        """The nearest points of the ball around the inputs, and of the limits."""
        moved = changed - inputs
        if self.norm == "linf":
            moved = moved.clamp(-self.epsilon, self.epsilon)
        else:
            moved = moved * (self.epsilon / _lengths(moved)).clamp(max=1)
        if self.low is None and self.high is None:
            return inputs + moved
        return (inputs + moved).clamp(self.low, self.high)


def _lengths(values: Tensor) -> Tensor:
    """Euclidean norms of rows, (rows, 1, ...), never zero."""
    flat = values.flatten(1).square().sum(1).sqrt()
    return flat.clamp(min=torch.finfo(values.dtype).tiny).view(-1, *[1] * (values.ndim - 1))


def input_gradient(total: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of a number by the inputs that it was computed from.

    Raises:
        InvalidInputError: if it does not depend on them smoothly, as with an encoder of tokens.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> input_gradient((x * x).sum(), x)
        tensor([[2., 2.]])
    """
    found = None
    if total.requires_grad:
        (found,) = torch.autograd.grad(total, inputs, allow_unused=True)
    if found is None:
        raise InvalidInputError(
            "an attack needs the gradient of the losses by the inputs, but the encoder's output "
            "does not depend on them smoothly, as with tokens of a text"
        )
    return found.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and then each of its modules in the mode that it had.

    Example:
        >>> model = nn.Sequential(nn.Dropout())
        >>> with evaluating(model):
        ...     model[0].training
        False
        >>> model[0].training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def attacked_split(
    model: MultiTaskModel, split: Split, attack: Attack, *, batch_size: int = 256
) -> Split:
    """The rows of a split with inputs at which the model's losses are higher.

    The start of PGD has the seed 0. A row without a label of the attacked tasks stays as it is, but
    for that start.

    Args:
        model: in evaluation mode during the attack.
        split: rows with targets of the attacked tasks.
        attack: what is done to them.
        batch_size: rows at once.

    Raises:
        InvalidInputError: if the attack names an unknown task, or the encoder's output does not
            depend on its inputs smoothly.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
        >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit, seed=0))
        >>> rows = Split(torch.zeros(3, 2), {"a": torch.tensor([0.0, 1.0, 1.0])})
        >>> moved = attacked_split(model, rows, Attack(epsilon=0.1)).inputs
        >>> float(moved.abs().max()) <= 0.1 + 1e-6
        True
    """
    there = [task.name for task in model.tasks if task.name in split.targets]
    names = chosen_tasks(attack.tasks, there)
    by_name = {task.name: task for task in model.tasks}
    layout = task_layout(tuple(by_name[name] for name in names))
    reference = next(model.parameters())
    mean, std = model.target_scale(names)
    joined = layout.join_targets({name: split.targets[name] for name in names})
    targets = (joined.to(mean) - mean) / std
    generator = torch.Generator().manual_seed(0)
    parts = []
    with evaluating(model), torch.enable_grad():
        for rows, wanted in zip(
            split.inputs.split(batch_size), targets.split(batch_size), strict=True
        ):

            def gradient(inputs: Tensor, wanted: Tensor = wanted) -> Tensor:
                given = inputs.detach().requires_grad_()
                logits = model(given, names, joined=True)
                sums, _ = layout.loss_terms(logits, wanted)
                return input_gradient(sums.sum(), given)

            moved = attack.changed(rows.to(reference), gradient, generator)
            parts.append(moved.to(split.inputs))
    return replace(split, inputs=torch.cat(parts))
