"""The step of the peers that torch differentiates; each supplies only its forward pass."""

import torch

from peers.problem import Result


def torch_step(problem, dtype, forward):
    """A step around ``forward(features, weights) -> (batch, tasks)``."""
    kind = getattr(torch, dtype)
    features = torch.tensor(problem.features, dtype=kind, requires_grad=True)
    weights = torch.tensor(problem.weights, dtype=kind, requires_grad=True)
    targets = torch.tensor(problem.targets, dtype=kind)

    def step():
        features.grad = weights.grad = None
        outputs = forward(features, weights)
        torch.nn.functional.mse_loss(outputs.to(kind), targets).backward()
        return Result(outputs.detach(), features.grad, weights.grad)

    return step
