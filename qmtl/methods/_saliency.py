"""Saliency: terms that separate, or align, the tasks' gradients with respect to features."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from qmtl._calls import called_with
from qmtl.errors import InvalidInputError
from qmtl.heads import Head, QuantumHead, cone_columns
from qmtl.methods._isolation import tasks_apart
from qmtl.methods._method import Method, MethodSection, Step, TaskLosses
from qmtl.model import MultiTaskModel
from qmtl.simulators import ShotSimulator
from qmtl.tasks import Task

# The largest step of a feature in finite differences: in double precision, truncation and rounding
# errors are then about 1e-9.
STEP = 1e-4


class Saliency(MethodSection):
    r"""Section ``[training.saliency]``: two terms on :math:`S_t = \partial\ell_t/\partial z`.

    The features z are those of the encoder, and S is called the saliency. The gradient of these
    terms is of second order.

    * *Entropy.* At each feature, :math:`P_t` is task t's share of the mean absolute saliency in the
      batch. The mean over features of :math:`-\sum_t P_t \log P_t` is added to the loss, so that a
      feature matters to few tasks.
    * *Alignment.* If a sample has labels of several tasks, its saliency for one of them should be
      more similar to its own mean saliency for the others than to that of other samples. The term
      is the cross-entropy of the softmax over samples of cosines / `temperature`, averaged over
      tasks and samples.

    The paper's public text does not define the means, the samples and the form of the contrast;
    those here are qmtl's choice. A task without labels takes no part. The alignment needs a
    sample with two labels, and the entropy labels of two tasks. Weights of rows count in the first
    term; in the second all samples count equally.

    The second derivative is a central difference of the losses' gradients along the terms' gradient
    with respect to S, in double precision. It is exact to about seven digits, and as fast as
    first-order gradients. Simulators with shots are refused, because their noise would exceed the
    difference. Tasks whose light cones do not overlap are computed together.

    Attributes:
        entropy: weight of the first term.
        alignment: weight of the second.
        temperature: temperature of the second term.

    References:
        Rep-MTL: arXiv:2507.21049.
    """

    excludes: ClassVar[tuple[str, ...]] = ("isolation",)
    one_process: ClassVar[str] = "samples are contrasted with all of the batch"
    trials: ClassVar[tuple[Any, ...]] = (
        {"entropy": 0.001, "alignment": 0.01},
        {"entropy": 0.01, "alignment": 0.1},
    )

    entropy: float = Field(0.1, ge=0, allow_inf_nan=False)
    alignment: float = Field(0.1, ge=0, allow_inf_nan=False)
    temperature: float = Field(0.5, gt=0, allow_inf_nan=False)

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        head, names = model.head, [task.name for task in tasks]
        if not isinstance(head, Head):
            raise InvalidInputError(f"saliency needs a head of qmtl, got {type(head).__name__}")
        for part in head.modules():
            simulator = getattr(part, "simulator", None)
            if isinstance(simulator, ShotSimulator):
                raise InvalidInputError(
                    f"saliency needs exact values, got the simulator {simulator!r}"
                )
        seen: dict[str, Sequence[int]] = dict.fromkeys(names, range(head.n_features))
        if isinstance(head, QuantumHead):
            cones = cone_columns(head.circuit)
            seen = {name: cones[name] for name in names}
        return _SaliencyTerms(self, seen, head.n_features)


class _SaliencyTerms(Method):
    needs_features = True
    seen: Tensor
    """Which features each task depends on, bool (tasks, features)."""

    def __init__(
        self, options: Saliency, columns: Mapping[str, Sequence[int]], n_features: int
    ) -> None:
        super().__init__()
        self.options, names = options, list(columns)
        self.groups = [[names.index(name) for name in group] for group in tasks_apart(columns)]
        seen = torch.zeros(len(names), n_features, dtype=torch.bool)
        for mask, own in zip(seen, columns.values(), strict=True):
            mask[list(own)] = True
        self.register_buffer("seen", seen, persistent=False)

    def extra_loss(self, losses: TaskLosses, step: Step) -> Tensor | None:
        places = losses.places()
        if losses.features is None or not losses.features.requires_grad or len(places) < 2:
            return None
        saliency = self._saliency(losses, places).requires_grad_()
        labelled = step.layout.labelled(losses.batch.targets)[:, places].T
        entropy, alignment = self.options.entropy, self.options.alignment
        total = entropy * entropy_of_tasks(saliency)
        total = total + alignment * alignment_of_tasks(saliency, labelled, self.options.temperature)
        (along,) = torch.autograd.grad(total, saliency)
        size = float(along.abs().max())
        return self._slope(losses, places, along, STEP / size, step) if size else None

    def _present(self, places: list[int]) -> list[list[int]]:
        """Restrict the groups of tasks to tasks with labels; drop empty groups."""
        groups = ([place for place in group if place in places] for group in self.groups)
        return [group for group in groups if group]

    def _saliency(self, losses: TaskLosses, places: list[int]) -> Tensor:
        """Return the saliency, shape (present, rows, features)."""
        assert losses.features is not None
        found: dict[int, Tensor] = {}
        for group in self._present(places):
            total = torch.stack([losses.values[places.index(place)] for place in group]).sum()
            (joint,) = torch.autograd.grad(
                total, losses.features, retain_graph=True, materialize_grads=True
            )
            found |= {place: joint * self.seen[place] for place in group}
        return torch.stack([found[place] for place in places])

    def _slope(
        self, losses: TaskLosses, places: list[int], along: Tensor, size: float, step: Step
    ) -> Tensor:
        """Return a scalar with the terms' gradient: the losses' slope along directions.

        The directions `along` are (present, rows, features).
        """
        features, head = losses.features, step.model.head
        assert features is not None
        exact = features.dtype if features.device.type == "mps" else torch.float64
        groups = self._present(places)
        moves = torch.stack([
            torch.stack([along[places.index(place)] for place in group]).sum(0) for group in groups
        ])  # fmt: skip
        moves = size * torch.cat([moves, -moves]).to(exact)
        points = (features.to(exact) + moves).flatten(0, 1)
        parameters = {name: p.to(exact) for name, p in head.named_parameters()}
        names = [task.name for task in step.tasks]
        logits = called_with(head, parameters, (points, names), {"joined": True})
        total = torch.zeros((), dtype=exact, device=features.device)
        for place, own in enumerate(logits.view(len(moves), len(features), -1)):
            sums, counts = step.loss_terms_of(own, losses.batch)
            group = groups[place % len(groups)]
            sign = 1 if place < len(groups) else -1
            total = total + sign * (sums[group] / counts[group]).sum()
        return (total / (2 * size)).to(features.dtype)


def entropy_of_tasks(saliency: Tensor) -> Tensor:
    """Return the mean over features of the entropy of the tasks' shares of absolute saliency."""
    sizes = saliency.abs().mean(1)
    total = sizes.sum(0)
    shares = sizes / torch.where(total > 0, total, 1.0)
    # The logarithm has no gradient at 0, and there is nothing to train there.
    entropies = torch.special.entr(torch.where(sizes > 0, shares, 1.0)).sum(0)
    mean: Tensor = entropies.sum() / (total > 0).sum().clamp(min=1)
    return mean


def alignment_of_tasks(saliency: Tensor, labelled: Tensor, temperature: float) -> Tensor:
    """Return the contrastive loss between samples' saliencies for one task and for the others.

    The saliency is (tasks, rows, features); `labelled` are bool (tasks, rows).
    """
    tiny = torch.finfo(saliency.dtype).tiny
    known = labelled & (saliency != 0).any(2)

    def unit(vectors: Tensor) -> Tensor:
        return vectors / (vectors.square().sum(-1, keepdim=True) + tiny).sqrt()

    # For zeros the quotient is 0, but its gradient would be huge.
    own = torch.where(known[:, :, None], unit(torch.where(known[:, :, None], saliency, 1.0)), 0.0)
    others = own.sum(0) - own
    counted = known & (known.sum(0) > 1) & (others.detach() != 0).any(2)
    if not bool(counted.any()):
        return saliency.sum() * 0
    others = unit(torch.where(counted[:, :, None], others, 1.0))
    terms = []
    for mine, theirs, rows in zip(own, others, counted, strict=True):
        if bool(rows.any()):
            scores = mine[rows] @ theirs[rows].T / temperature
            terms.append(-scores.log_softmax(1).diagonal())
    return torch.cat(terms).mean()
