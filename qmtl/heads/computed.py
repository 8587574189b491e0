"""Parameters as they are used, which torch's pruning and parametrisations compute from others."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["leaves", "renew", "twin_of", "values_of"]

Kind = TypeVar("Kind", bound=nn.Module)


def renew(module: nn.Module) -> None:
    """Compute again what torch's hooks compute before a module is called.

    Some are never called (containers), or asked for their values outside of a call.
    """
    for hook in _torchs_hooks(module):
        hook(module, ())


def values_of(parameters: nn.ParameterDict, keys: Iterable[str]) -> list[Tensor]:
    """The values of these keys; hundreds of look-ups by torch's own way would take longer."""
    renew(parameters)
    found = parameters._parameters
    # Those that are computed are no parameters themselves.
    return [parameters[key] if found.get(key) is None else found[key] for key in keys]  # type: ignore[misc]


def leaves(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameter of this name, or those it is computed from; none if it has no numbers."""
    own = module._parameters.get(name)
    if own is not None:
        return [own] if own.numel() else []
    sources = [key for hook in _torchs_hooks(module) for key in _sources(hook, name)]
    # Several parameters may be computed by one module.
    named = module.named_parameters(remove_duplicate=False)
    parametrised = f"parametrizations.{name}."
    found = (p for key, p in named if key in sources or key.startswith(parametrised))
    return list(dict.fromkeys(found))


def twin_of(module: Kind) -> Kind:
    """A module with the very same parameters and submodules, and no hooks but torch's own.

    Torch's hooks are those by which pruning computes parameters before a forward pass.
    """
    # Not by copy.copy, which torch refuses where parameters are parametrised.
    twin = type(module).__new__(type(module))
    vars(twin).update(vars(module))
    # It calls the module, not its twin.
    vars(twin).pop("_compiled_call_impl", None)
    # Parameters in one table: another one that takes its place does so for both. Torch's hooks
    # have a table of their own each, and end with it.
    shared = () if _torchs_hooks(module) else ("_parameters", "_buffers")
    for name, value in vars(nn.Module()).items():
        if not isinstance(value, dict) or name in shared:
            continue
        items = vars(module)[name].items()
        chosen = "hooks" not in name
        kept = OrderedDict((key, part) for key, part in items if chosen or _is_torchs(part))
        vars(twin)[name] = kept if isinstance(value, OrderedDict) else dict(kept)
    return twin


def _torchs_hooks(module: nn.Module) -> list[Any]:
    return [hook for hook in module._forward_pre_hooks.values() if _is_torchs(hook)]


def _is_torchs(hook: object) -> bool:
    """Also of classes derived from torch's, such as ways of pruning of one's own."""
    return any(kind.__module__.startswith("torch.nn.utils.") for kind in type(hook).__mro__)


def _sources(hook: Any, name: str) -> list[str]:
    """Names of the parameters from which a hook computes the one of this name; it may not."""
    if getattr(hook, "_tensor_name", getattr(hook, "name", None)) != name:
        return []
    return [f"{name}_g", f"{name}_v"] if isinstance(hook, WeightNorm) else [f"{name}_orig"]
