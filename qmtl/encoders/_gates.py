"""Gates: the weight of each expert for each task, and checks of how experts are used."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.errors import InvalidInputError, check_integer

Shares = Mapping[str, Mapping[str, float]]

# An expert has almost no weight below the share LEAST of an equal weight, and almost all weight
# above the share MOST of the total.
LEAST, MOST = 0.1, 0.9
# LEAN: the size of z at the start. PACE: the factor from a bit's parameter to z; with 1, Adam would
# decide bits before the experts learn. OVERLAP: the weight of the selectors' overlap, relative to
# the weight of the entropy.
LEAN, PACE, OVERLAP = 0.02, 0.3, 0.1


class Gate(nn.Module, ABC):
    """Weights of experts for each task; the first axis of a gate's parameters is the task."""

    sees: Tensor
    """Which experts each task may have, bool (tasks, experts)."""

    def __init__(self, sees: Tensor) -> None:
        super().__init__()
        self.register_buffer("sees", sees, persistent=False)

    @abstractmethod
    def forward(self, inputs: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (batch, tasks, experts), or (1, tasks, experts) if they ignore the inputs.

        Inputs are (batch, width); tasks are indices, int64.
        """

    def open(self) -> Tensor:
        """Return which experts each task may give a weight other than 0, bool (tasks, experts)."""
        return self.sees

    def start_epoch(self, progress: float) -> None:
        pass

    def extra_loss(self) -> Tensor | None:
        return None

    def undecayed(self) -> list[nn.Parameter]:
        return []


class SoftmaxGate(Gate):
    r"""``softmax(W_t x)`` over the experts that task t sees, as in MMoE.

    The experts of `own` have a second weight, as in HoME: a softmax over them, or a sigmoid if
    there is only one. The sum of both weights counts, so that these experts always have a gradient.

    Args:
        sees: which experts each task may have, bool (tasks, experts).
        width: width of the inputs.
        own: which experts have the second weight, bool (tasks, experts); None for none.
    """

    own: Tensor | None

    def __init__(self, sees: Tensor, width: int, *, own: Tensor | None = None) -> None:
        super().__init__(sees)
        self.register_buffer("own", own, persistent=False)
        shape = (*sees.shape, width)
        self.weight = nn.Parameter(_uniform(shape, width))
        self.self_weight = None if own is None else nn.Parameter(_uniform(shape, width))

    def forward(self, inputs: Tensor, tasks: Tensor) -> Tensor:
        weights = _masked_softmax(_scores(self.weight[tasks], inputs), self.sees[tasks])
        if self.self_weight is None or self.own is None:
            return weights
        own = self.own[tasks]
        scores = _scores(self.self_weight[tasks], inputs)
        alone = own & (own.sum(1, keepdim=True) == 1)
        several = torch.where(alone, scores.sigmoid(), _masked_softmax(scores, own))
        return weights + several * own


class SelectGate(Gate):
    r"""DSelect-k: k experts for each task, the same for all inputs.

    A task has k selectors. Selector i is a product distribution over the bits of an expert's
    number, with probability ``S(z_ij)`` that bit j is set. S is the smooth step: 0 below -1/2, 1
    above 1/2, ``-2z³ + 3z/2 + 1/2`` between, with z in units of the step's width. The weights are
    the selectors' distributions, mixed by a softmax over the task's k logits. A distribution is
    one-hot once all its bits are 0 or 1. The entropy of the selectors, times `entropy`, is added to
    the losses. In evaluation mode bits are rounded, so that a task never has more than k experts.

    This gate differs from the paper in several points. The step's width falls from 1 at the start
    of training to 0 in the last epoch, with the square of the fraction of epochs done. With a fixed
    width, bits may be undecided when training ends, and the experts have not been trained with
    rounded bits. The entropy's weight grows with the same square, because a bit that is decided
    before the experts have learned does not change any more. The paper has a penalty for numbers
    beyond the last expert; here these numbers stand for the experts from the first one on. The
    overlap of a task's selectors is added to the losses, and selectors start with a bias to k
    different experts, so that they rarely choose the same one. If they do, the task has fewer than
    k experts.

    Args:
        n_tasks: number of tasks.
        n_experts: number of experts.
        k: number of experts that each task chooses.
        entropy: weight of the entropy in the losses.
    """

    codes: Tensor
    """Bits of each expert's number, bool (2^bits, bits)."""

    def __init__(self, n_tasks: int, n_experts: int, k: int, entropy: float) -> None:
        super().__init__(torch.ones(n_tasks, n_experts, dtype=torch.bool))
        self.entropy, self.progress = entropy, 0.0
        n_bits = max(1, math.ceil(math.log2(n_experts)))
        codes = torch.arange(2**n_bits)[:, None] >> torch.arange(n_bits) & 1
        self.register_buffer("codes", codes.bool(), persistent=False)
        first = torch.stack([torch.randperm(n_experts)[:k] for _ in range(n_tasks)])
        self.bits = nn.Parameter(LEAN / PACE * (codes[first] - 0.5))
        self.logits = nn.Parameter(torch.zeros(n_tasks, k))

    @property
    def step_width(self) -> float:
        """Width of the smooth step: 1 at the start, 0 in the last epoch of training."""
        return 1 - self.progress**2

    def positions(self) -> Tensor:
        """Return the z of each bit, (tasks, k, bits)."""
        return PACE * self.bits

    def selectors(self) -> Tensor:
        """Return each selector's distribution over experts, (tasks, k, experts)."""
        return self._folded(self._over_codes())

    def _over_codes(self) -> Tensor:
        z = self.positions()
        steps = (smooth_step(z, self.step_width) if self.training else (z > 0).to(z))[:, :, None]
        return torch.where(self.codes, steps, 1 - steps).prod(-1)

    def _folded(self, chosen: Tensor) -> Tensor:
        n_experts = self.sees.shape[1]
        first, rest = chosen[..., :n_experts], chosen[..., n_experts:]
        return first + nn.functional.pad(rest, (0, n_experts - rest.shape[-1]))

    def weights(self) -> Tensor:
        """Return the weights of all tasks, (tasks, experts)."""
        return (self.logits.softmax(1)[:, :, None] * self.selectors()).sum(1)

    def forward(self, inputs: Tensor, tasks: Tensor) -> Tensor:
        return self.weights()[tasks][None]

    def open(self) -> Tensor:
        return self.weights().detach() != 0

    def start_epoch(self, progress: float) -> None:
        """Set the share of epochs that are done at the end of this one."""
        self.progress = progress

    def extra_loss(self) -> Tensor:
        """Return the entropies and overlaps of the selectors, times `entropy`."""
        codes = self._over_codes()
        # There is no gradient at 0, where a bit is decided.
        entropies = torch.special.entr(torch.where(codes > 0, codes, 1.0)).sum()
        chosen = self._folded(codes)
        overlaps = chosen @ chosen.transpose(1, 2)
        parts = self.progress**2 * entropies + OVERLAP * overlaps.triu(1).sum()
        total: Tensor = self.entropy * parts
        return total

    def undecayed(self) -> list[nn.Parameter]:
        """Return the bits, which weight decay would make undecided again."""
        return [self.bits]


class FeatureGate(nn.Module):
    """An expert's view of the inputs: ``x · 2σ(x B A)``, with B and A of low rank, as in HoME.

    The gate starts as the identity.

    Args:
        width: width of the inputs.
        rank: rank of the product B A.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(_uniform((width, rank), width))
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, (batch, width), each times a number between 0 and 2."""
        return inputs * 2 * (inputs @ self.down @ self.up).sigmoid()


def smooth_step(z: Tensor, width: float = 1.0) -> Tensor:
    """Rise from 0 below -width/2 to 1 above width/2, along a cubic with slope 0 at both ends."""
    if width <= 0:
        return (z > 0).to(z)
    z = z / width
    inside = z.clamp(-0.5, 0.5)
    step = -2 * inside**3 + 1.5 * inside + 0.5
    # Exact at the ends, despite rounding.
    return torch.where(z >= 0.5, 1.0, torch.where(z <= -0.5, 0.0, step))


def exclusive_owners(
    tasks: Sequence[str], n_experts: int, n_exclusive: int | None
) -> list[tuple[str, ...] | None]:
    """Return the task of each expert, None for all tasks; tasks in turn own the last experts."""
    number = n_experts // 2 if n_exclusive is None else n_exclusive
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= n_experts:
        raise InvalidInputError(
            f"exclusive must be the number of experts that one task only sees, 0 to {n_experts}, "
            f"got {number!r}"
        )
    if number == n_experts and number < len(tasks):
        raise InvalidInputError(
            f"exclusive = {number} leaves no expert to all tasks, and {len(tasks)} tasks cannot "
            f"have one each"
        )
    common: list[tuple[str, ...] | None] = [None] * (n_experts - number)
    return common + [(tasks[i % len(tasks)],) for i in range(number)]


def group_owners(
    tasks: Sequence[str], n_experts: int, groups: Any, shared: int
) -> list[tuple[str, ...] | None]:
    """Return the tasks that see each expert, None for all; groups in turn own the last experts."""
    if not isinstance(groups, Sequence) or isinstance(groups, str) or not groups:
        raise InvalidInputError(
            f"gate 'home' needs groups of tasks, such as [{', '.join(repr([t]) for t in tasks)}], "
            f"got {groups!r}"
        )
    named = [name for group in groups for name in group]
    for name in named:
        if name not in tasks:
            raise InvalidInputError(f"groups name the task {name!r}; the tasks are {list(tasks)}")
    for task in tasks:
        if named.count(task) != 1:
            raise InvalidInputError(
                f"each task must be in one group, task {task!r} is in {named.count(task)}"
            )
    shared = check_integer("shared", shared, 0)
    if n_experts - shared < len(groups):
        raise InvalidInputError(
            f"{len(groups)} groups and {shared} shared experts need {len(groups) + shared} experts "
            f"at least, got {n_experts}"
        )
    common: list[tuple[str, ...] | None] = [None] * shared
    return common + [tuple(groups[i % len(groups)]) for i in range(n_experts - shared)]


def collapsed(shares: Shares, sees: Tensor, k: int | None = None) -> list[str]:
    """Describe problems in the use of experts, one sentence each.

    An expert has collapsed if no task that sees it gives it a tenth of an equal share, or if all
    tasks that see others as well give it nine tenths of their weight. An expert of several tasks
    that has nine tenths of its weight from one of them serves that task alone (HoME calls it
    degradation). `k` is the number of experts that a task should have chosen.
    """
    weights = torch.tensor([list(own.values()) for own in shares.values()], dtype=torch.float64)
    names, found = list(shares), []
    visible = sees.cpu().sum(1)
    for expert in range(weights.shape[1]):
        mine = sees[:, expert].cpu()
        own = weights[mine, expert]
        if not len(own):
            continue
        with_others = weights[mine & (visible > 1), expert]
        if len(with_others) and float(with_others.min()) >= MOST:
            share = float(with_others.mean())
            found.append(f"expert {expert} has {share:.0%} of the weight of its tasks")
        elif bool((own < LEAST / visible[mine]).all()):
            found.append(f"expert {expert} has almost no weight")
        elif k is None and len(own) > 1 and float(own.max()) >= MOST * float(own.sum()):
            task = names[int(weights[:, expert].argmax())]
            found.append(f"expert {expert} serves task {task} alone")
    if k is not None:
        for name, row in zip(names, weights, strict=True):
            number = int((row > 0).sum())
            if number != k:
                found.append(f"task {name} has {number} experts, not {k}")
    return found


def _uniform(shape: Sequence[int], width: int) -> Tensor:
    """Draw values from the distribution that torch uses for a linear layer of this input width."""
    return (2 * torch.rand(*shape) - 1) / math.sqrt(width)


def _scores(weight: Tensor, inputs: Tensor) -> Tensor:
    """Return scores (batch, tasks, experts), from weights (tasks, experts, width)."""
    scores = nn.functional.linear(inputs, weight.flatten(0, 1))
    return scores.view(inputs.shape[0], *weight.shape[:2])


def _masked_softmax(scores: Tensor, sees: Tensor) -> Tensor:
    """Return the softmax over the experts that a task sees, and 0 for the others."""
    some = sees | ~sees.any(-1, keepdim=True)
    weights: Tensor = scores.masked_fill(~some, -math.inf).softmax(-1) * sees
    return weights
