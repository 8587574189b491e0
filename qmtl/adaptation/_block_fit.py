"""Train a new task's own block or vector, on features that are computed once."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from qmtl.adaptation._linear_fits import signs
from qmtl.heads import (
    AddedBlock,
    AddedVector,
    ExtendedHead,
    QuantumHead,
    cone_columns,
    hosts_for,
)
from qmtl.tasks import Task

__all__ = ["best_host", "train_block", "train_vector"]

# Weight decay of the linear map before the register, and of a vector, which has few numbers.
DECAY, VECTOR_DECAY = 1e-3, 1e-5


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
    decayed = block.inputs.weight.parameter
    _minimise(
        block,
        lambda: block(features),
        targets,
        task,
        weights,
        lambda: DECAY * decayed.square().sum(),
        iterations,
    )
    return block


def train_vector(
    extended: ExtendedHead,
    features: Tensor,
    targets: Tensor,
    task: Task,
    weights: Tensor | None = None,
    *,
    iterations: int = 60,
) -> None:
    """Train the vector and the scale of an extended head's last vector task in place, by L-BFGS."""
    added, base = extended.vectors[-1], extended.base
    assert isinstance(added, AddedVector)
    assert isinstance(base, QuantumHead)
    decayed = added.vector.parameter
    _minimise(
        added,
        lambda: added(base, features),
        targets,
        task,
        weights,
        lambda: VECTOR_DECAY * decayed.square().sum(),
        iterations,
    )


def best_host(
    base: QuantumHead, task: Task, features: Tensor, targets: Tensor, weights: Tensor | None = None
) -> str:
    """The task on whose register to measure a new task, among tasks with outputs like it.

    It is the task whose light cone has the features that fit the labels best, by least squares.
    """
    columns = cone_columns(base.circuit)
    share = np.ones(len(features)) if weights is None else weights.numpy()
    x = features.double().numpy()
    y = np.nan_to_num(signs(task, targets))

    def loss(host: str) -> float:
        inputs = np.column_stack([x[:, columns[host]], np.ones(len(x))])
        root = np.sqrt(share)[:, None]
        found, *_ = np.linalg.lstsq(root * inputs, root * y, rcond=1e-6)
        return float(np.square(root * (y - inputs @ found)).sum())

    return min(hosts_for(task, base), key=loss)


def _minimise(
    module: nn.Module,
    logits: Callable[[], Tensor],
    targets: Tensor,
    task: Task,
    weights: Tensor | None,
    penalty: Callable[[], Tensor],
    iterations: int,
) -> None:
    """Minimise a task's loss and a penalty over a module's parameters, in place."""
    # Not torch.optim: its first step imports torch's compiler, which takes seconds.
    from scipy.optimize import minimize

    parameters = [p for p in module.parameters() if p.requires_grad]

    def loss_and_gradient(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        vector_to_parameters(torch.from_numpy(values).to(parameters[0]), parameters)
        loss = task.loss(logits(), targets, weights) + penalty()
        gradients = torch.autograd.grad(loss, parameters)
        return float(loss.detach()), parameters_to_vector(gradients).double().numpy()

    start = parameters_to_vector(parameters).detach().double().numpy()
    options = {"maxiter": iterations}
    best = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    vector_to_parameters(torch.from_numpy(best.x).to(parameters[0]), parameters)
