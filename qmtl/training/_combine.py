"""Aggregators and scalarizers by name: TorchJD's, and IGB; their state for checkpoints."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl._calls import own_generator
from qmtl.errors import InvalidInputError, ModelFileError, missing_extra, unknown_name
from qmtl.training._settings import TrainingSettings

# Options without a default in TorchJD. CAGrad: the middle of the paper's range. FairGrad: the
# paper's proportional fairness. COSMOS, PBI, STCH: values of their papers' examples.
DEFAULTS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.5},
    "COSMOS": {"lambda_": 1.0},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 0},
    "PBI": {"theta": 1.0},
    "STCH": {"mu": 1.0},
    "TrimmedMean": {"trim_number": 0},
}
# Scalarizers that sum one term per task and have one trainable weight per task, in a vector.
SUMS = ("UW", "IMTLL")
# Arguments for the number of tasks, and arguments with one number per task.
COUNTS = ("n_tasks", "shape")
VECTORS = ("weights", "pref_vector", "reference", "min_losses", "leak")

# Attributes in the __dict__ of every torch.nn.Module.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def aggregators() -> dict[str, type]:
    """Return TorchJD's aggregator classes by name.

    Example:
        >>> {"UPGrad", "PCGrad", "AlignedMTL", "NashMTL"} <= set(aggregators())
        True
    """
    from torchjd import aggregation

    return _concrete(aggregation, aggregation.Aggregator)


def scalarizers() -> dict[str, type]:
    """Return scalarizer classes by name: TorchJD's, and IGB.

    Example:
        >>> {"Mean", "UW", "DWA", "FAMO", "STCH", "IMTLL", "IGB"} <= set(scalarizers())
        True
    """
    from torchjd import scalarization

    from qmtl.training._igb import IGB

    return _concrete(scalarization, scalarization.Scalarizer) | {"IGB": IGB}


def _concrete(module: Any, kind: type) -> dict[str, type]:
    bases = ("WeightedAggregator", "GramianWeightedAggregator")
    named = {name: getattr(module, name) for name in module.__all__ if name not in bases}
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value)
    }


def make_aggregator(
    name: str,
    n_tasks: int,
    options: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Return an aggregator, which combines the rows of the Jacobian of the tasks' losses.

    Args:
        name: name of a TorchJD class; case, dashes and underscores do not matter: ``upgrad``,
            ``aligned-mtl``, ``ConFIG``, ``nash_mtl``.
        n_tasks: number of tasks; used for ``n_tasks`` and missing ``weights`` (equal ones).
        options: arguments of the class; lists of numbers, one per task, become tensors.
        dtype: type of these tensors, which is that of the Jacobian.

    Raises:
        InvalidInputError: for an unknown name or option, or an option that does not fit `n_tasks`.
        MissingDependencyError: if the aggregator needs a solver that is not installed.

    Example:
        >>> make_aggregator("mgda", 3)
        MGDA(epsilon=0.001, max_iters=100)
    """
    return _make("aggregator", aggregators(), name, n_tasks, options or {}, dtype)


def make_scalarizer(
    name: str,
    n_tasks: int,
    options: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Return a scalarizer, which combines the losses; arguments as in `make_aggregator`.

    Example:
        >>> make_scalarizer("uw", 3)
        UW(shape=(3,))
    """
    return _make("scalarizer", scalarizers(), name, n_tasks, options or {}, dtype)


class Mean(nn.Module):
    """Computes the mean of the losses without TorchJD, whose import takes half a second."""

    def forward(self, losses: Tensor) -> Tensor:
        return losses.mean()


def make_combiner(
    settings: TrainingSettings, n_tasks: int, dtype: torch.dtype = torch.float32
) -> Any:
    """Return the aggregator or scalarizer that the settings name, for losses of this type."""
    if settings.aggregator is not None:
        return make_aggregator(settings.aggregator, n_tasks, settings.options, dtype=dtype)
    name = "mean" if settings.scalarizer is None else settings.scalarizer
    if name == "mean" and not settings.options:
        return Mean()
    return make_scalarizer(name, n_tasks, settings.options, dtype=dtype)


def rehearse(settings: TrainingSettings, n_tasks: int, dtype: torch.dtype) -> None:
    """Call the aggregator or scalarizer once on random values, to raise errors before training."""
    combiner = make_combiner(settings, n_tasks, dtype)
    values = torch.rand(n_tasks, n_tasks + 1, generator=torch.Generator().manual_seed(0)) + 0.1
    values = values.to(dtype)
    try:
        with own_generator():
            combiner(values[:, 0] if settings.aggregator is None else values)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        kind = "scalarizer" if settings.aggregator is None else "aggregator"
        raise InvalidInputError(
            f"{kind} {settings.aggregator or settings.scalarizer!r} with options "
            f"{settings.options} does not work on {n_tasks} tasks: {' '.join(str(error).split())}"
        ) from None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _make(
    what: str,
    known: dict[str, type],
    name: str,
    n_tasks: int,
    options: Mapping[str, Any],
    dtype: torch.dtype,
) -> Any:
    key = {_plain(key): key for key in known}.get(_plain(str(name)))
    if key is None:
        is_aggregator = what == "aggregator"
        others = scalarizers() if is_aggregator else aggregators()
        other = "a scalarizer" if is_aggregator else "an aggregator"
        hint = f"; it is the name of {other}" if _plain(str(name)) in map(_plain, others) else ""
        raise InvalidInputError(f"{unknown_name(what, name, known)}{hint}")
    parameters = inspect.signature(known[key]).parameters
    arguments = DEFAULTS.get(key, {}) | {count: n_tasks for count in COUNTS if count in parameters}
    if "weights" in parameters and parameters["weights"].default is inspect.Parameter.empty:
        arguments["weights"] = torch.full((n_tasks,), 1 / n_tasks, dtype=dtype)
    if "projector" in parameters:
        from qmtl.training._upgrad import PivotingProjector

        arguments["projector"] = PivotingProjector()
    for option, value in options.items():
        if option not in parameters:
            accepted = [p for p in parameters if p not in ("args", "kwargs", *COUNTS)]
            raise unknown_name(f"option of {what} {key}:", option, accepted)
        where = f"{what} {key}: option {option!r}"
        if option in COUNTS:
            raise InvalidInputError(
                f"{where} is the number of tasks, {n_tasks} here, and cannot be set"
            )
        is_vector = option in VECTORS and value is not None
        arguments[option] = _vector(where, value, n_tasks, dtype) if is_vector else value
    try:
        combiner = known[key](**arguments)
    except ImportError as error:
        raise missing_extra(
            f"{what} {key} needs a solver that is not installed", "aggregators", error
        ) from None
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{what} {key}: {' '.join(str(error).split())}") from None
    least = _least_tasks(key, arguments)
    if n_tasks < least:
        given = f" with options {dict(options)}" if options else ""
        raise InvalidInputError(f"{what} {key}{given} needs at least {least} tasks, got {n_tasks}")
    return combiner


def _vector(where: str, value: Any, n_tasks: int, dtype: torch.dtype) -> Tensor:
    try:
        vector = torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInputError(f"{where} must be a list of numbers, got {value!r}") from None
    if vector.shape != (n_tasks,):
        got = len(vector) if vector.ndim == 1 else f"shape {tuple(vector.shape)}"
        raise InvalidInputError(
            f"{where} must have one number for each of the {n_tasks} tasks, got {got}"
        )
    return vector


def _least_tasks(key: str, arguments: Mapping[str, Any]) -> int:
    if key == "NashMTL":
        return 2
    if key == "Krum":
        return max(int(arguments["n_byzantine"]) + 3, int(arguments.get("n_selected", 1)))
    if key == "TrimmedMean":
        return 2 * int(arguments["trim_number"]) + 1
    return 1


def fixed_size(combiner: Any) -> bool:
    """Return whether a combiner has state or weights per task, and needs all tasks in each step."""
    return has_state(combiner) or any(
        isinstance(getattr(module, name, None), Tensor)
        for module in combiner.modules()
        for name in ("weights", "pref_vector")
    )


def has_state(combiner: Any) -> bool:
    """Return whether a combiner keeps state from one step to the next."""
    if isinstance(combiner, Mean):
        return False
    from torchjd import Stateful

    return any(isinstance(module, Stateful) for module in combiner.modules())


def is_sum(combiner: Any) -> bool:
    """Return whether a scalarizer is a sum over tasks with one vector of trainable weights."""
    return type(combiner).__name__ in SUMS


def scalarize(combiner: Any, losses: Tensor, present: Tensor | None, last: Tensor) -> Tensor:
    """Return a scalarizer's value for the `losses` of the `present` tasks, shape (present,).

    For an absent task, a scalarizer that keeps state from step to step gets the `last` loss.
    """
    if present is not None and is_sum(combiner):
        ((name, vector),) = combiner.named_parameters()
        part: Tensor = torch.func.functional_call(combiner, {name: vector[present]}, losses)
        return part
    if present is not None and has_state(combiner):
        known = last.to(losses.dtype)
        if getattr(combiner, "takes_missing", False):
            known = torch.full_like(known, torch.nan)
        losses = known.index_copy(0, present, losses)
    elif present is not None:
        combiner = copy.copy(combiner)
        for name in VECTORS:
            value = getattr(combiner, name, None)
            if isinstance(value, Tensor):
                setattr(combiner, name, value[present])
    total: Tensor = combiner(losses)
    return total


def move_tensors(combiner: nn.Module, device: torch.device) -> None:
    """Move tensors in plain attributes of TorchJD's classes, which ``Module.to`` ignores."""
    for module in combiner.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                vars(module)[name] = value.to(device)


# Optimisers that combiners use for their own weights; a checkpoint can name no other class.
OPTIMISERS: dict[str, Any] = {
    one.__name__: one for one in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
}


def _packed(value: Any) -> dict[str, Any] | None:
    """Return an attribute as tensors and plain containers; None if its type is not supported."""
    if isinstance(value, np.ndarray):
        return {"kind": "array", "value": torch.from_numpy(value.copy())}
    if isinstance(value, torch.optim.Optimizer):
        return {"kind": type(value).__name__, "value": value.state_dict()}
    return {"kind": "plain", "value": value} if _is_plain(value) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    plain = bool | int | float | str | Tensor | torch.dtype | torch.device | None
    return isinstance(value, plain)


def combiner_state(combiner: nn.Module) -> dict[str, Any]:
    """Return all state of a TorchJD aggregator or scalarizer, as tensors and plain containers.

    TorchJD keeps moving averages, previous losses and FAMO's optimiser outside ``state_dict``.
    Random generators need no state: each epoch seeds them from the run's seed.
    """
    attributes = {}
    for path, module in combiner.named_modules():
        own = {k: _packed(v) for k, v in vars(module).items() if k not in MODULE_ATTRIBUTES}
        attributes[path] = {key: packed for key, packed in own.items() if packed is not None}
    return {"state_dict": combiner.state_dict(), "attributes": attributes}


def load_combiner_state(combiner: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore what `combiner_state` saved; raise a ModelFileError for another combiner's state."""
    modules = dict(combiner.named_modules(remove_duplicate=False))
    try:
        # Buffers that TorchJD creates in the first step are None in a new combiner; load_state_dict
        # would report them as unexpected keys.
        for name, value in state["state_dict"].items():
            path, _, key = name.rpartition(".")
            if getattr(modules[path], key, value) is None:
                modules[path].register_buffer(key, value.clone())
        combiner.load_state_dict(state["state_dict"])
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(
            f"the checkpoint belongs to another aggregator or scalarizer: {reason}"
        ) from None
    for path, module in modules.items():
        attributes = state["attributes"].get(path, {})
        if hasattr(module, "prvs_alpha") and attributes:
            # Nash-MTL builds its cvxpy problem only in its first step.
            module(torch.eye(module.n_tasks))
        for key, packed in attributes.items():
            if key not in vars(module):
                raise ModelFileError(
                    f"the checkpoint belongs to another aggregator or scalarizer: "
                    f"{type(module).__name__} keeps no {key!r}"
                )
            setattr(module, key, _unpack(packed, module))


def _unpack(packed: Mapping[str, Any], module: nn.Module) -> Any:
    if packed["kind"] == "plain":
        return packed["value"]
    if packed["kind"] == "array":
        return packed["value"].numpy()
    if packed["kind"] not in OPTIMISERS:
        raise unknown_name("kind of state in the checkpoint:", packed["kind"], OPTIMISERS)
    optimiser = OPTIMISERS[packed["kind"]](list(module.parameters()))
    optimiser.load_state_dict(packed["value"])
    return optimiser
