"""Train a new task's own block, on features that are computed once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from qmtl.heads import AddedBlock
from qmtl.tasks import Task

__all__ = ["train_block"]

# Weight decay of the linear map before the register.
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
    """Train a block in place by L-BFGS on all rows, which suits its few (some twenty) weights.

    Args:
        block: block of the task.
        features: output of the frozen encoder, shape (rows, n_features).
        targets: canonical targets, standardised for a regression.
        task: the task.
        weights: weights of the rows; None for 1 each.
        iterations: largest number of iterations.

    Example:
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> task = Task.binary("a")
        >>> targets = (x[:, 0] > 0).float()
        >>> block = train_block(AddedBlock(task, 4), x, targets, task)
        >>> bool(task.loss(block(x), targets) < 0.2)
        True
    """
    # Not torch.optim: its first step imports torch's compiler, which takes seconds.
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
