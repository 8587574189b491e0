"""The linear layer that features come from, as autograd has recorded it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["LastLayer", "last_layer", "leads_to"]


class LastLayer(NamedTuple):
    """``features = inputs @ weight.T + bias``, with `bias` None where there is none."""

    inputs: Tensor
    weight: nn.Parameter
    bias: nn.Parameter | None


def last_layer(features: Tensor) -> LastLayer | None:
    """The layer whose output these features are; None if that is not certain.

    It is read off the graph, so that it holds for any encoder: not after an activation or a cast,
    for a weight that is itself computed, or with tensor hooks that want to see its gradient. Hooks
    of the graph's nodes (`torch.autograd.graph.Node.register_hook`) cannot be seen.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 2)
        >>> last_layer(layer(torch.ones(5, 3))).weight is layer.weight
        True
        >>> last_layer(layer(torch.ones(5, 3)).tanh()) is None
        True
    """
    node: Any = features.grad_fn
    name = None if node is None or features.ndim != 2 else node.name()
    if name == "AddmmBackward0" and (node._saved_alpha, node._saved_beta) == (1, 1):
        bias = _leaf(node.next_functions[0][0])
        if bias is None or bias.shape != features.shape[1:]:
            return None
    elif name == "MmBackward0":
        bias = None
    else:
        return None
    transposed: Any = node.next_functions[-1][0]
    if transposed is None or transposed.name() != "TBackward0":
        return None
    weight = _leaf(transposed.next_functions[0][0])
    inputs = getattr(node, "_saved_mat1" if bias is not None else "_saved_self", None)
    if weight is None or not isinstance(inputs, Tensor) or features._backward_hooks:
        return None
    return LastLayer(inputs, weight, bias)


def leads_to(tensor: Tensor, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the tensor was computed from one of the parameters.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 3)
        >>> leads_to(layer(torch.ones(1, 3)).tanh(), [layer.weight]), leads_to(torch.ones(1), [])
        (True, False)
    """
    wanted = {id(p) for p in parameters}
    if id(tensor) in wanted:
        return True
    seen, waiting = set[Any](), [tensor.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in wanted:
            return True
        waiting += [following for following, _ in node.next_functions]
    return False


def _leaf(node: Any) -> nn.Parameter | None:
    """The parameter whose gradient is gathered here."""
    leaf = getattr(node, "variable", None)
    return leaf if isinstance(leaf, nn.Parameter) and not leaf._backward_hooks else None
