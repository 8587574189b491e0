"""State of aggregators and scalarizers, for checkpoints.

Random generators need none: they are seeded anew from the run's seed and the epoch. Everything is
packed into tensors and plain containers, so that checkpoints can be read with
``torch.load(weights_only=True)``, which runs no code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.errors import ModelFileError

__all__ = ["combiner_state", "load_combiner_state"]

# What torch.nn.Module itself keeps in its __dict__.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"kind": "array", "value": torch.from_numpy(value.copy())}
    if isinstance(value, torch.optim.Optimizer):
        return {"kind": type(value).__name__, "value": value.state_dict()}
    return {"kind": "plain", "value": value}


def _is_state(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_state(item) for item in value)
    plain = (bool, int, float, str, Tensor, torch.dtype, torch.device)
    return value is None or isinstance(value, (*plain, np.ndarray, torch.optim.Optimizer))


def combiner_state(combiner: nn.Module) -> dict[str, Any]:
    """All state of a TorchJD aggregator or scalarizer, plain attributes included.

    TorchJD keeps moving averages, previous losses and FAMO's optimiser outside ``state_dict``.
    """
    attributes = {
        path: {
            key: _pack(value)
            for key, value in vars(module).items()
            if key not in MODULE_ATTRIBUTES and _is_state(value)
        }
        for path, module in combiner.named_modules()
    }
    return {"state_dict": combiner.state_dict(), "attributes": attributes}


def load_combiner_state(combiner: nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what `combiner_state` saved.

    Raises:
        ModelFileError: if the state is of another combiner.
    """
    modules = dict(combiner.named_modules(remove_duplicate=False))
    try:
        # Buffers that TorchJD makes at the first step are None in a new combiner, which
        # load_state_dict would take for keys too many.
        for name, value in state["state_dict"].items():
            path, _, key = name.rpartition(".")
            if modules[path]._buffers.get(key, value) is None:
                modules[path]._buffers[key] = value.clone()
        combiner.load_state_dict(state["state_dict"])
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"the checkpoint is of another combiner: {reason}") from None
    for path, module in modules.items():
        for key, packed in state["attributes"].get(path, {}).items():
            setattr(module, key, _unpack(packed, module))
        if hasattr(module, "_init_optim_problem"):
            # Nash-MTL's cvxpy problem, which it builds itself in its very first step only.
            module._init_optim_problem()


def _unpack(packed: Mapping[str, Any], module: nn.Module) -> Any:
    if packed["kind"] == "plain":
        return packed["value"]
    if packed["kind"] == "array":
        return packed["value"].numpy()
    optimiser = getattr(torch.optim, packed["kind"])(list(module.parameters()))
    optimiser.load_state_dict(packed["value"])
    return optimiser
