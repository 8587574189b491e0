"""Flatness: sharpness-aware minimisation for each task separately."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from qmtl.methods._method import Batch, Method, MethodSection, Step, TaskLosses
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task


class Flatness(MethodSection):
    r"""Option ``flatness = 0.05``: gradients at the worst point near the parameters, task by task.

    For each task t with gradient :math:`g_t` the parameters move by :math:`\varepsilon_t = \rho g_t
    / \lVert g_t \rVert`; the gradient there is :math:`g_t^{SAM}`. Shared parameters get :math:`A(g)
    + A(g^{SAM} - g)` with the run's aggregator A, which resolves conflicts of losses and conflicts
    of flatness separately. A scalarizer's weights depend only on the losses, so that this is the
    weighted sum of :math:`g_t^{SAM}`. A task's own parameters get their :math:`g_t^{SAM}`. Dropout
    drops the same units at both points. One ball of radius ρ surrounds a task's shared and own
    parameters together (qmtl's choice).

    For each task, a step takes a backward pass, and then a forward and backward pass of the encoder
    and the task's light cone.

    Attributes:
        rho: radius of the ball; 0 is plain training.

    References:
        Phan et al., arXiv:2211.13723.
    """

    short: ClassVar[str] = "rho"
    trials: ClassVar[tuple[Any, ...]] = (0.02, 0.1)
    rho: float = Field(0.05, ge=0, allow_inf_nan=False)

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        return _TaskSharpness(self.rho)


class _TaskSharpness(Method):
    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = rho
        self._random: list[Tensor] = []

    def change_batch(self, batch: Batch, step: Step) -> Batch:
        device = batch.inputs.device
        self._random = [torch.get_rng_state()]
        if device.type == "cuda":
            self._random.append(torch.cuda.get_rng_state(device))
        return batch

    def gradients(self, losses: TaskLosses, step: Step) -> None:
        n_shared, parameters = len(step.shared), [*step.shared, *step.own]
        plain: list[list[Tensor]] = []
        for value in losses.values:
            found = torch.autograd.grad(
                value, parameters, retain_graph=True, materialize_grads=True
            )
            plain.append([step.summed(g) for g in found])
        sharp = [
            self._sharp(losses.batch, place, own, step)
            for place, own in zip(losses.places(), plain, strict=True)
        ]
        rows = [torch.stack(one) for one in zip(*sharp, strict=True)]
        if not step.uses_jacobian:
            gradients = step.combined(losses, rows)
        else:
            shared = [torch.stack(one) for one in zip(*plain, strict=True)][:n_shared]
            flat = [a - b for a, b in zip(rows, shared, strict=False)]
            gradients = step.combined(losses, shared) if shared else []
            # Some aggregators do not accept a matrix of zeros.
            if any(bool(one.any()) for one in flat):
                more = step.combined(losses, flat)
                gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            gradients += [own.sum(0) for own in rows[n_shared:]]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    @torch.no_grad()
    def _sharp(self, batch: Batch, place: int, found: list[Tensor], step: Step) -> list[Tensor]:
        """Return a task's gradient after a step of length `rho` along it; then undo the step."""
        norm = torch.stack([g.norm() for g in found]).norm()
        if not self.rho or not float(norm):
            return found
        parameters = [*step.shared, *step.own]
        buffers = list(step.model.buffers())
        before = [tensor.clone() for tensor in (*parameters, *buffers)]
        try:
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.add_(gradient * (self.rho / norm))
            device = batch.inputs.device
            used = [device] if device.type == "cuda" else []
            with torch.enable_grad(), torch.random.fork_rng(used):
                torch.set_rng_state(self._random[0])
                if used:
                    torch.cuda.set_rng_state(self._random[1], device)
                (value,) = step.losses_of(batch, only=place).values
                gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        finally:
            # Buffers, too, because running batch statistics have seen this batch already.
            for tensor, old in zip((*parameters, *buffers), before, strict=True):
                tensor.copy_(old)
        return [step.summed(g) for g in gradients]
