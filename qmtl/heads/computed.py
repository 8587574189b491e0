"""Parameters as they are used, which torch's pruning and parametrisations compute from others."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["leaves", "twin_of", "values_of"]

Kind = TypeVar("Kind", bound=nn.Module)


def values_of(parameters: nn.ParameterDict, keys: Iterable[str]) -> list[Tensor]:
    """The values of these keys; hundreds of look-ups by torch's own way would take longer."""
    found = parameters._parameters
    # Those that are computed are no parameters themselves.
    return [parameters[key] if found.get(key) is None else found[key] for key in keys]  # type: ignore[misc]


def leaves(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameter of this name, or those it is computed from; none if it has no numbers."""
    own = module._parameters.get(name)
    if own is not None:
        return [own] if own.numel() else []
    parametrised = f"parametrizations.{name}."
    named = module.named_parameters()
    return [p for key, p in named if key == f"{name}_orig" or key.startswith(parametrised)]


def twin_of(module: Kind) -> Kind:
    """A module with the very same parameters and submodules, and no hooks but torch's own.

    Torch's hooks are those by which pruning computes parameters before a forward pass.
    """
    # Not by copy.copy, which torch refuses where parameters are parametrised.
    twin = type(module).__new__(type(module))
    vars(twin).update(vars(module))
    for name, value in vars(nn.Module()).items():
        if "hooks" in name and isinstance(value, dict):
            hooks = vars(module)[name].items()
            vars(twin)[name] = OrderedDict((key, hook) for key, hook in hooks if _is_torchs(hook))
    return twin


def _is_torchs(hook: object) -> bool:
    return type(hook).__module__.startswith("torch.nn.utils.")
