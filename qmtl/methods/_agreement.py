"""Agreement: how much of a combined gradient enters the update; adapted momentum."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from qmtl.methods._method import Method, MethodSection, Step
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task


class Agreement(MethodSection):
    r"""Measures the cosine between update and combined gradient, and may adapt Adam's momentum.

    With Adam, a gradient from which conflicts were removed hardly enters the update, because the
    momentum of earlier steps dominates. The training metric ``update_cosine`` of the task ``all``
    is the mean over an epoch's steps of the cosine between the gradient of the shared parameters
    and the negative of their change.

    With `minimum` the decay of the momentum m follows its agreement with the gradient g of the
    step, :math:`\beta = \beta_{min} + (\beta_{max} - \beta_{min}) (1 + \cos(g, m)) / 2`, where
    :math:`\beta_{max}` is the optimiser's. The formula is qmtl's choice: the paper's public
    text says only that the momentum is adapted to the agreement. There is one cosine for all shared
    parameters. A task's own parameters have gradients that are not combined, and keep the plain
    momentum. Means are unbiased as in Adam: m is divided by one minus the product of all decays.

    ``agreement = true`` only measures; ``agreement = 0.5`` sets `minimum`.

    Attributes:
        minimum: :math:`\beta_{min}`, at most Adam's 0.9; None does not change the momentum.

    References:
        APT: arXiv:2604.08939.
    """

    short: ClassVar[str] = "minimum"
    trials: ClassVar[tuple[Any, ...]] = (0.3, 0.7)
    minimum: float | None = Field(None, ge=0, le=0.9)

    def check(self, settings: Any) -> None:
        if self.minimum is not None and settings.optimizer == "sgd":
            raise ValueError(
                f"agreement = {self.minimum} adapts the momentum of optimizer 'adam' or 'adamw', "
                f"got 'sgd'"
            )

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        return _AgreeingMomentum(len(model.shared_parameters()), self.minimum)


class _AgreeingMomentum(Method):
    products: Tensor
    """Product of the decays of all steps so far, for each shared parameter."""

    def __init__(self, n_shared: int, minimum: float | None) -> None:
        super().__init__()
        self.minimum = minimum
        self.register_buffer("products", torch.ones(n_shared, dtype=torch.float64))
        self._before: list[Tensor] = []
        self._cosines: list[Tensor] = []

    def before_step(self, optimizer: torch.optim.Optimizer, step: Step) -> None:
        self._before = [p.detach().clone() for p in step.shared]
        if self.minimum is not None:
            self._adapt(optimizer, step.shared, self.minimum)

    @torch.no_grad()
    def _adapt(self, optimizer: Any, parameters: Sequence[nn.Parameter], minimum: float) -> None:
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        moving = []
        for place, p in enumerate(parameters):
            state, group = optimizer.state.get(p), group_of[id(p)]
            if p.grad is None:
                continue
            if state:
                moving.append((place, p, state, group))
            else:
                # In its first step, the mean is the gradient.
                self.products[place] = group["betas"][0]
        if not moving:
            return
        cosine = _cosine([p.grad for _, p, _, _ in moving], [s["exp_avg"] for _, _, s, _ in moving])
        for place, p, state, group in moving:
            largest = group["betas"][0]
            beta = minimum + (largest - minimum) * (1 + float(cosine)) / 2
            before = float(self.products[place])
            self.products[place] = after = before * beta
            gradient: Any = p.grad
            if not group["decoupled_weight_decay"]:
                gradient = gradient + group["weight_decay"] * p
            # Adam will replace its moment e by b·e + (1 − b)·g, and divide by 1 − bᵗ. Set e so that
            # the result is the adapted, unbiased mean.
            t = float(state["step"]) + 1
            now, earlier = 1 - largest**t, 1 - largest ** (t - 1)
            keep, take = beta * (1 - before) / (1 - after), (1 - beta) / (1 - after)
            state["exp_avg"].mul_(keep * now / (earlier * largest))
            state["exp_avg"].add_(gradient, alpha=(take * now - (1 - largest)) / largest)

    @torch.no_grad()
    def after_step(self, batch: Any, step: Step) -> None:
        pairs = [
            (p.grad, before - p)
            for p, before in zip(step.shared, self._before, strict=True)
            if p.grad is not None
        ]
        self._before = []
        if pairs:
            gradients, updates = zip(*pairs, strict=True)
            self._cosines.append(_cosine(gradients, updates))

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        found, self._cosines = self._cosines, []
        return {"all": {"update_cosine": float(torch.stack(found).mean())}} if found else {}


def _cosine(first: Sequence[Any], second: Sequence[Any]) -> Tensor:
    """Return the cosine of two lists of tensors as long vectors; 0 if one of them is zero."""
    ours, theirs = (torch.cat([t.flatten() for t in tensors]) for tensors in (first, second))
    return nn.functional.cosine_similarity(ours, theirs, dim=0, eps=torch.finfo(ours.dtype).tiny)
