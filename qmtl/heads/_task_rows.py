"""TaskRows: one parameter for all tasks, with a named slice for each task.

With one parameter per task, torch's overhead in every step would grow with the tasks. A state still
has one key per task, so that a head for more tasks can load the state of a head for fewer tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qmtl.errors import unknown_name


class TaskRows(nn.Module):
    """A parameter whose first axis is cut into one slice per task.

    A call returns the tensor to compute with: the parameter, but with the stored values of frozen
    tasks. Frozen values get no gradient, and no optimiser changes them.

    Args:
        parts: each task's initial values; states keep their shapes.
        flat: whether the parameter is one flat vector; otherwise parts are joined along their first
            axis.
        kind: name of these values if a task has several, as in the key ``task_cola.weight``; its
            parent must have this module as an attribute of that name.

    Attributes:
        parameter: the values of all tasks.
        names: the tasks, in order.
        sizes: length of each task's slice.
        shapes: shape of each task's values.
        frozen: names of the frozen tasks.

    Example:
        >>> rows = TaskRows({"a": torch.zeros(2), "b": torch.ones(3)})
        >>> rows().shape, rows["b"].tolist(), list(rows.state_dict())
        (torch.Size([5]), [1.0, 1.0, 1.0], ['task_a', 'task_b'])
    """

    frozen_values: Tensor | None
    """The frozen tasks' values, in the parameter's shape; None if no task is frozen."""
    frozen_mask: Tensor | None
    """True where a task is frozen; None if no task is."""

    def __init__(
        self, parts: Mapping[str, Tensor], *, flat: bool = True, kind: str | None = None
    ) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.kind = kind
        self.shapes = {name: part.shape for name, part in parts.items()}
        pieces = [part.reshape(-1) for part in parts.values()] if flat else list(parts.values())
        self.sizes = tuple(len(piece) for piece in pieces)
        joined = torch.cat(pieces)
        # DistributedDataParallel waits for the gradient of every trainable parameter, empty or not.
        self.parameter = nn.Parameter(joined, requires_grad=joined.numel() > 0)
        self.frozen: frozenset[str] = frozenset()
        self.register_buffer("frozen_values", None, persistent=False)
        self.register_buffer("frozen_mask", None, persistent=False)
        self.register_state_dict_post_hook(_split)
        Loading.before(self, join_rows)
        self.register_load_state_dict_post_hook(_hold)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The slice of each task along the first axis."""
        ends = accumulate(self.sizes)
        return {n: slice(e - s, e) for n, s, e in zip(self.names, self.sizes, ends, strict=True)}

    @property
    def row_of(self) -> Tensor:
        """The index of each row's task, int64; rows are entries along the first axis.

        Example:
            >>> TaskRows({"a": torch.zeros(2), "b": torch.ones(3)}).row_of
            tensor([0, 0, 1, 1, 1])
        """
        return torch.arange(len(self.names)).repeat_interleave(torch.tensor(self.sizes))

    def forward(self) -> Tensor:
        """Return the tensor to compute with, in the shape of the parameter."""
        # `frozen` comes first because it is cheaper to read than a buffer.
        if not self.frozen or self.frozen_mask is None or self.frozen_values is None:
            return self.parameter
        return torch.where(self.frozen_mask, self.frozen_values, self.parameter)

    def __getitem__(self, name: str) -> Tensor:
        """Return a view of one task's values, which may be changed under ``torch.no_grad``."""
        if name not in self.slices:
            raise unknown_name("task", name, self.names)
        values = self.frozen_values if name in self.frozen else None
        values = self.parameter if values is None else values
        return values[self.slices[name]].view(self.shapes[name])

    def by_name(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return views of the tasks' values in the tensor to compute with; None for all tasks."""
        found = dict(zip(self.names, self.split(self()), strict=True))
        return found if names is None else {name: found[name] for name in names}

    def split(self, joined: Tensor) -> list[Tensor]:
        """Split a tensor of the parameter's shape into views in the shape of each task's values."""
        pieces = zip(joined.split(self.sizes), self.shapes.values(), strict=True)
        return [piece.view(shape) for piece, shape in pieces]

    def freeze(self, name: str, frozen: bool = True) -> None:
        """Keep a task's values fixed, or train them again."""
        if name not in self.slices:
            raise unknown_name("task", name, self.names)
        values, where = self().detach().clone(), self.slices[name]
        # torch computes a pruned or parametrised parameter from others: leave it alone.
        if not frozen and isinstance(self.parameter, nn.Parameter):
            with torch.no_grad():
                self.parameter[where] = values[where]
        self.frozen = self.frozen | {name} if frozen else self.frozen - {name}
        shape = (len(values), *[1] * (values.ndim - 1))
        mask = torch.zeros(shape, dtype=torch.bool, device=values.device)
        for each in self.frozen:
            mask[self.slices[each]] = True
        self.frozen_values, self.frozen_mask = (values, mask) if self.frozen else (None, None)

    def keys(self, prefix: str) -> list[str]:
        """Return the tasks' keys in a state in which this module has the given prefix."""
        if self.kind is None:
            return [prefix + task_key(name) for name in self.names]
        outer = prefix.removesuffix(f"{self.kind}.")
        return [f"{outer}{task_key(name)}.{self.kind}" for name in self.names]

    def __getattr__(self, name: str) -> Any:
        """Return a task's values by its key in a state, as torch.distributed.checkpoint needs."""
        if name.startswith("task_"):
            for task in self.names:
                if task_key(task) == name:
                    return self[task]
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """Return the text that ``print`` shows."""
        return f"{len(self.names)} tasks, {tuple(self.parameter.shape)}"


def escaped(name: str) -> str:
    """Return a task's name without dots, which torch forbids in keys; names stay distinct.

    Example:
        >>> escaped("y.1"), escaped("y%2E1")
        ('y%2E1', 'y%252E1')
    """
    return name.replace("%", "%25").replace(".", "%2E")


def task_key(name: str) -> str:
    """Return a task's key in a state, with a prefix that avoids clashes with attributes."""
    return f"task_{escaped(name)}"


def own_storage(part: Tensor) -> Tensor:
    """Return the same memory as a storage of its own.

    safetensors and others refuse, or leave out, tensors that are slices of one storage.
    """
    plain = type(part) is Tensor and part.device.type in ("cpu", "cuda")
    return torch.from_dlpack(part) if plain and not part.requires_grad else part


class Loading(NamedTuple):
    """A state that is being loaded into a module.

    Attributes:
        state: dictionary from key to tensor; the module's keys start with the prefix.
        prefix: prefix of the module.
        missing: list that collects keys that are not in the state.
        errors: list that collects mismatches, in torch's words.
    """

    state: dict[str, Any]
    prefix: str
    missing: list[str]
    errors: list[str]

    @classmethod
    def before(cls, module: nn.Module, change: Callable[[Any, "Loading"], None]) -> None:
        """Call ``change(module, loading)`` before torch loads a state into the module."""
        # A nested function could not be pickled with the module.
        module.register_load_state_dict_pre_hook(partial(_load, change))

    def take(self, key: str, current: Tensor) -> Tensor:
        """Remove and return a tensor of the state; `current` if it is missing or does not fit."""
        given = self.state.pop(key, None)
        if given is None:
            self.missing.append(key)
        elif not isinstance(given, Tensor):
            self.errors.append(f'"{key}": expected a torch.Tensor, got {type(given)}.')
        elif given.shape != current.shape and (current.ndim or given.shape != (1,)):
            self.errors.append(
                f"size mismatch for {key}: copying a param with shape {given.shape} from "
                f"checkpoint, the shape in current model is {current.shape}."
            )
        else:
            return given
        return current


def _load(change: Callable[[Any, Loading], None], module: nn.Module, *given: Any) -> None:
    state, prefix, _, _, missing, _, errors = given
    change(module, Loading(state, prefix, missing, errors))


def join_rows(rows: TaskRows, loading: Loading) -> None:
    """Join the tasks' values in a state to the module's parameter, before torch loads the state."""
    key, keys = f"{loading.prefix}parameter", rows.keys(loading.prefix)
    # torch.distributed.checkpoint adds the present parameter to the tasks' values that it loads.
    is_whole = key in loading.state and loading.state.keys().isdisjoint(keys)
    # torch computes a pruned or parametrised parameter from others, and loads those.
    if is_whole or not isinstance(rows.parameter, nn.Parameter):
        return
    current = rows.split(rows().detach())
    parts = [loading.take(own, part) for own, part in zip(keys, current, strict=True)]
    if rows.parameter.ndim == 1:
        parts = [part.reshape(-1) for part in parts]
    if len({part.device for part in parts}) > 1:
        parts = [part.to(rows.parameter.device) for part in parts]
    loading.state[key] = torch.cat(parts)


def _split(rows: TaskRows, state: dict[str, Any], prefix: str, _: object) -> None:
    # The state has no such key if the parameter is pruned or parametrised.
    values = state.pop(f"{prefix}parameter", None)
    if values is not None:
        if rows.frozen_mask is not None and rows.frozen_values is not None:
            values = torch.where(rows.frozen_mask, rows.frozen_values, values)
        parts = map(own_storage, rows.split(values))
        state.update(zip(rows.keys(prefix), parts, strict=True))


def _hold(rows: TaskRows, _: object) -> None:
    """Freeze the frozen tasks at the loaded values."""
    if rows.frozen_values is not None:
        rows.frozen_values = rows.parameter.detach().clone()
