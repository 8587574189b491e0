"""A block of its own for a new task, trained on features that are computed once."""

import torch
from torch import Tensor

from qmtl.heads import AddedBlock
from qmtl.tasks import Task

__all__ = ["train_block"]

# Of the squared weights of the linear map before the register.
DECAY = 1e-3


def train_block(
    block: AddedBlock, features: Tensor, targets: Tensor, task: Task, *, iterations: int = 60
) -> AddedBlock:
    """Train a block in place by L-BFGS on all rows: some twenty weights, and no noise of batches.

    Args:
        block: of the task.
        features: (rows, n_features) of the frozen encoder.
        targets: canonical ones, standardised for a regression.
        task: the task.
        iterations: at most so many.

    Example:
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> task = Task.binary("a")
        >>> targets = (x[:, 0] > 0).float()
        >>> block = train_block(AddedBlock(task, 4), x, targets, task)
        >>> bool(task.loss(block(x), targets) < 0.2)
        True
    """
    parameters = [p for p in block.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(parameters, max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = block.inputs.weight.parameter.square().sum()
        loss = task.loss(block(features), targets) + DECAY * decay
        loss.backward()
        return loss

    optimizer.step(closure)
    return block
