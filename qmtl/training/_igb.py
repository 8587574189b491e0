"""IGB: improvable gap balancing, a scalarizer in the form of TorchJD's."""

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.scalarization import Scalarizer


class IGB(Scalarizer, Stateful):
    r"""Weighs the logarithm of each loss by the ratio of the loss to its mean in a base epoch.

    The value is :math:`\sum_t w_t \log \ell_t` with :math:`w = T\,\mathrm{softmax}(\ell_t / b_t)`.
    The ratios have no gradient, and :math:`b_t` is the mean training loss of task t in the epoch
    `base_epoch`. Until then all weights are 1. This is version 1 of improvable gap balancing;
    version 2 learns the weights by reinforcement learning.

    A task without labels has no term and no weight. A task without labels in the base epoch has
    weight 1 until an epoch with its labels ends, whose mean loss is its base. This rule is
    qmtl's; in the paper, each batch has labels of all tasks.

    Args:
        n_tasks: number of tasks.
        base_epoch: the epoch that sets the base; epochs count from 1.

    Raises:
        ValueError: for `base_epoch` below 1; on a call, for a negative loss.

    Example:
        >>> igb = IGB(2)
        >>> float(igb(torch.tensor([1.0, 1.0])))
        0.0
        >>> igb.step()  # The epoch ends, and its losses are the base.
        >>> losses = torch.tensor([1.0, 0.5], requires_grad=True)
        >>> igb(losses).backward()
        >>> (losses.grad * losses).detach()  # The weights: 2 · softmax of (1, ½).
        tensor([1.2449, 0.7551])

    References:
        Dai, Fei and Lu, arXiv:2307.15429.
    """

    takes_missing = True
    sums: Tensor | None
    """Sums of the losses since the epoch began, (tasks,); None before the first loss."""
    counts: Tensor | None
    """Numbers of losses in `sums`, (tasks,)."""
    base: Tensor | None
    """The mean losses of the base epoch, (tasks,), NaN where there was none."""

    def __init__(self, n_tasks: int, base_epoch: int = 1) -> None:
        if base_epoch < 1:
            raise ValueError(f"base_epoch must be at least 1, got {base_epoch}")
        super().__init__()
        self.n_tasks, self.base_epoch = n_tasks, base_epoch
        self.reset()

    def reset(self) -> None:
        self.epoch = 1
        for name in ("sums", "counts", "base"):
            self.register_buffer(name, None)

    def forward(self, values: Tensor, /) -> Tensor:
        """Return the weighted sum of the losses' logarithms; a task without labels has NaN."""
        places = (~values.isnan()).nonzero().flatten()
        values = values[places]
        losses = values.detach()
        if bool((losses < 0).any()):
            raise ValueError(f"the logarithm needs losses of at least 0, got {losses.min():g}")
        if self.sums is None or self.counts is None or self.base is None:
            # Created here to match the losses' type and device.
            self.sums, self.counts = losses.new_zeros(2, self.n_tasks).unbind()
            self.base = torch.full_like(self.sums, torch.nan)
        self.sums[places] += losses
        self.counts[places] += 1
        # A loss of 0 gets no gradient, and a finite logarithm.
        logs = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        return (self._weights(losses, self.base[places]) * logs).sum()

    @staticmethod
    def _weights(losses: Tensor, base: Tensor) -> Tensor:
        known = ~base.isnan()
        ratios = torch.where(known, losses / base, -torch.inf)
        weights = known.sum() * ratios.softmax(0)
        return torch.where(known, weights, 1.0)

    def step(self) -> None:
        """Mark the end of an epoch."""
        if self.sums is not None and self.counts is not None and self.base is not None:
            if self.epoch >= self.base_epoch:
                new = self.base.isnan() & (self.counts > 0)
                self.base = torch.where(new, self.sums / self.counts, self.base)
            self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        self.epoch += 1

    def __repr__(self) -> str:
        return f"IGB(n_tasks={self.n_tasks}, base_epoch={self.base_epoch})"
