"""A block of its own for a new task, trained on features that are computed once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from qmtl.heads import AddedBlock
from qmtl.tasks import Task

__all__ = ["train_block"]

# Of the squared weights of the linear map before the register.
DECAY = 1e-3


def train_block(
    block: AddedBlock,
    features: Tensor,
    targets: Tensor,
    task: Task,
    weights: Tensor | None = None,
    *,
    iterations: int = 60,
) -> AddedBlock:
    """Train a block in place by L-BFGS on all rows: some twenty weights, and no noise of batches.

    Args:
        block: of the task.
        features: (rows, n_features) of the frozen encoder.
        targets: canonical ones, standardised for a regression.
        task: the task.
        weights: of the rows; None for 1 each.
        iterations: at most so many.

    Example:
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> task = Task.binary("a")
        >>> targets = (x[:, 0] > 0).float()
        >>> block = train_block(AddedBlock(task, 4), x, targets, task)
        >>> bool(task.loss(block(x), targets) < 0.2)
        True
    """
    # Not torch.optim, whose first step imports torch's compiler: seconds.
    from scipy.optimize import minimize

    parameters = [p for p in block.parameters() if p.requires_grad]

    def loss_and_gradient(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        vector_to_parameters(torch.from_numpy(values).to(parameters[0]), parameters)
        decay = block.inputs.weight.parameter.square().sum()
        loss = task.loss(block(features), targets, weights) + DECAY * decay
        gradients = torch.autograd.grad(loss, parameters)
        return float(loss.detach()), parameters_to_vector(gradients).double().numpy()

    start = parameters_to_vector(parameters).detach().double().numpy()
    options = {"maxiter": iterations}
    best = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    vector_to_parameters(torch.from_numpy(best.x).to(parameters[0]), parameters)
    return block
