"""TorchJD's aggregators and scalarizers by name.

An *aggregator* combines the Jacobian of the task losses with respect to the shared parameters; a
*scalarizer* combines the losses themselves. Names are those of TorchJD's classes, in any case and
with or without dashes and underscores: ``upgrad``, ``aligned-mtl``, ``ConFIG``, ``nash_mtl``.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qmtl.errors import InvalidInputError, MissingDependencyError, unknown_name
from qmtl.training.settings import TrainingSettings

__all__ = [
    "aggregators", "fixed_size", "make_aggregator", "make_combiner", "make_scalarizer",
    "scalarizers",
]  # fmt: skip

# TorchJD leaves these without a default. CAGrad: the middle of the paper's range. FairGrad: the
# proportional fairness of its paper. COSMOS, PBI, STCH: values of their papers' examples.
DEFAULTS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.5},
    "COSMOS": {"lambda_": 1.0},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 0},
    "PBI": {"theta": 1.0},
    "STCH": {"mu": 1.0},
    "TrimmedMean": {"trim_number": 0},
}


def aggregators() -> dict[str, type]:
    """TorchJD's aggregator classes by name.

    Example:
        >>> {"UPGrad", "PCGrad", "AlignedMTL", "NashMTL"} <= set(aggregators())
        True
    """
    from torchjd import aggregation

    return _concrete(aggregation, aggregation.Aggregator)


def scalarizers() -> dict[str, type]:
    """TorchJD's scalarizer classes by name.

    Example:
        >>> {"Mean", "UW", "DWA", "FAMO", "STCH", "IMTLL"} <= set(scalarizers())
        True
    """
    from torchjd import scalarization

    return _concrete(scalarization, scalarization.Scalarizer)


def _concrete(module: Any, kind: type) -> dict[str, type]:
    named = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, type)
        and issubclass(value, kind)
        and not inspect.isabstract(value)
        and name not in ("WeightedAggregator", "GramianWeightedAggregator")
    }


def make_aggregator(name: str, n_tasks: int, options: Mapping[str, Any] | None = None) -> Any:
    """An aggregator for `n_tasks` tasks.

    Args:
        name: of a TorchJD class.
        n_tasks: fills ``n_tasks`` and a missing ``weights`` (equal ones).
        options: arguments of the class; lists of numbers become tensors.

    Raises:
        InvalidInputError: for an unknown name or option.
        MissingDependencyError: if it needs a solver that is not installed.

    Example:
        >>> make_aggregator("mgda", 3)
        MGDA(epsilon=0.001, max_iters=100)
    """
    return _make("aggregator", aggregators(), name, n_tasks, options or {})


def make_scalarizer(name: str, n_tasks: int, options: Mapping[str, Any] | None = None) -> Any:
    """A scalarizer for `n_tasks` tasks; arguments as in `make_aggregator`.

    Example:
        >>> make_scalarizer("uw", 3)
        UW(shape=(3,))
    """
    return _make("scalarizer", scalarizers(), name, n_tasks, options or {})


def make_combiner(settings: TrainingSettings, n_tasks: int) -> Any:
    """The aggregator or scalarizer that the settings ask for."""
    if settings.aggregator is not None:
        return make_aggregator(settings.aggregator, n_tasks, settings.options)
    return make_scalarizer(settings.scalarizer or "mean", n_tasks, settings.options)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _make(
    what: str, known: dict[str, type], name: str, n_tasks: int, options: Mapping[str, Any]
) -> Any:
    matches = {_plain(key): key for key in known}
    if not isinstance(name, str) or _plain(name) not in matches:
        raise unknown_name(what, name, known)
    key = matches[_plain(name)]
    parameters = inspect.signature(known[key]).parameters
    arguments: dict[str, Any] = dict(DEFAULTS.get(key, {}))
    if "n_tasks" in parameters:
        arguments["n_tasks"] = n_tasks
    if "shape" in parameters:
        arguments["shape"] = n_tasks
    if "weights" in parameters and parameters["weights"].default is inspect.Parameter.empty:
        arguments["weights"] = torch.full((n_tasks,), 1 / n_tasks)
    for option, value in options.items():
        if option not in parameters:
            accepted = [p for p in parameters if p not in ("args", "kwargs")]
            raise unknown_name(f"option of {what} {key}:", option, accepted)
        arguments[option] = torch.tensor(value) if isinstance(value, list) else value
    try:
        return known[key](**arguments)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} {key} needs a solver that is not installed; "
            f'pip install "qmtl[aggregators]" ({error})'
        ) from None
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{what} {key}: {' '.join(str(error).split())}") from None


def fixed_size(combiner: Any) -> bool:
    """Whether a combiner keeps state or weights per task, so that it needs all tasks each time."""
    from torchjd import Stateful

    return any(
        isinstance(module, Stateful)
        or any(
            isinstance(getattr(module, name, None), Tensor) for name in ("weights", "pref_vector")
        )
        for module in combiner.modules()
    )
