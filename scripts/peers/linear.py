"""A dense linear layer of the same widths: the cost of a step that simulates nothing."""

import torch


def build(problem, dtype):
    kind = getattr(torch, dtype)
    layer = torch.nn.Linear(problem.n_wires, problem.n_tasks, dtype=kind)
    features = torch.tensor(problem.features, dtype=kind, requires_grad=True)
    targets = torch.tensor(problem.targets, dtype=kind)

    def step():
        features.grad = layer.weight.grad = layer.bias.grad = None
        torch.nn.functional.mse_loss(layer(features), targets).backward()
        # Its outputs are not a circuit's: there is no result to compare.

    return step
