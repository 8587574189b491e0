"""What all heads share: the checks of their input, and keys for parameters named after tasks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["check_features", "check_width", "chosen_tasks", "escaped", "task_key"]


def escaped(name: str) -> str:
    """A task's name without the dots that torch's keys must not have; different for each name.

    Example:
        >>> escaped("y.1"), escaped("y%2E1")
        ('y%2E1', 'y%252E1')
    """
    return name.replace("%", "%25").replace(".", "%2E")


def task_key(name: str) -> str:
    """Key of a task's parameters in a ``ParameterDict`` or ``ModuleDict``.

    The prefix keeps a task called ``keys`` or ``train`` off the names that torch's own methods
    take; see `escaped`.
    """
    return f"task_{escaped(name)}"


def check_features(features: Tensor, width: int) -> None:
    """Raise if features are not (batch, width) floats, or not finite.

    Raises:
        InvalidInputError: naming what came and what was expected.
    """
    if not isinstance(features, Tensor) or not features.dtype.is_floating_point:
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise InvalidInputError(f"features must be a floating-point tensor, got {kind}")
    if features.ndim != 2 or features.shape[1] != width:
        raise InvalidInputError(
            f"features must have shape (batch, {width}), got {tuple(features.shape)}"
        )
    # Under vmap and jacrev a tensor has no one value to look at, and on "meta" none at all.
    if features.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(features):
        return
    finite = torch.isfinite(features)
    if not bool(finite.all()):
        bad = (~finite.all(dim=1)).nonzero().flatten()
        raise InvalidInputError(
            f"features must be finite; {len(bad)} of {len(features)} samples have NaN or infinite "
            f"values, the first at index {int(bad[0])}"
        )


def check_width(n_features: object, what: str = "n_features") -> None:
    """Raise if a number of features is no integer >= 1.

    Raises:
        InvalidInputError: naming `what`.
    """
    if isinstance(n_features, bool) or not isinstance(n_features, int) or n_features < 1:
        raise InvalidInputError(f"{what} must be an integer >= 1, got {n_features!r}")


def chosen_tasks(tasks: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The tasks asked for, or all that are known.

    Raises:
        InvalidInputError: for a text in place of a sequence, or an unknown name.

    Example:
        >>> chosen_tasks(None, ["cola", "sst2"]), chosen_tasks(["sst2"], ["cola", "sst2"])
        (['cola', 'sst2'], ['sst2'])
    """
    if isinstance(tasks, str):
        raise InvalidInputError(f"tasks must be a sequence of names, got the string {tasks!r}")
    names = dict.fromkeys(known)
    for name in tasks or ():
        if name not in names:
            raise unknown_name("task", name, names)
    return list(names) if tasks is None else list(tasks)
