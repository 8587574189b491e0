"""Linear heads, the classical rivals of the quantum head, and linear layers of other heads."""

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.circuit import Gate, HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads._head import Head
from qmtl.heads._initial import drawn_seed, linear_weights
from qmtl.heads._task_rows import Loading, TaskRows, join_rows
from qmtl.tasks import Task


class _Layers(nn.Module):
    """A linear layer for each task, with `TaskRows` of all layers' weights and biases."""

    def __getattr__(self, name: str) -> Any:
        """Return a task's layer by its key in a state, as torch.distributed.checkpoint needs."""
        if name.startswith("task_"):
            return SimpleNamespace(
                **{part: getattr(rows, name) for part, rows in self.named_children()}
            )
        return super().__getattr__(name)


class DenseLayers(_Layers):
    """A linear layer for each task on the same inputs, computed as one product.

    Args:
        seed: seed of the initial weights, drawn per task.
        tasks: the tasks.
        width: number of inputs.
        bias: whether the layers have a bias.

    Attributes:
        weight: `TaskRows` of shape (outputs of all tasks, width).
        bias: `TaskRows` of shape (outputs of all tasks,), or None.
    """

    def __init__(self, seed: int, tasks: Sequence[Task], width: int, *, bias: bool = True) -> None:
        super().__init__()
        drawn = {t.name: linear_weights(seed, f"task {t.name}", width, t.n_outputs) for t in tasks}
        self.weight = TaskRows({n: w for n, (w, _) in drawn.items()}, flat=False, kind="weight")
        biases = {n: b for n, (_, b) in drawn.items()}
        self.bias = TaskRows(biases, kind="bias") if bias else None
        Loading.before(self, _join_layers)

    def forward(self, inputs: Tensor, names: tuple[str, ...] | None) -> Tensor:
        """Return outputs of these tasks (None: all) side by side, from inputs (batch, width)."""
        weight = self.weight()
        bias = None if self.bias is None else self.bias()
        if names is not None:
            weight = torch.cat([weight[self.weight.slices[name]] for name in names])
            if bias is not None and self.bias is not None:
                bias = torch.cat([bias[self.bias.slices[name]] for name in names])
        return nn.functional.linear(inputs, weight, bias)


class LocalLayers(_Layers):
    """A linear layer for each task on the task's own columns, computed as one product.

    Args:
        weights: each task's weight (outputs, inputs) and bias.
        columns: the columns of the inputs that each task uses.
        width: number of inputs.

    Attributes:
        weight: flat `TaskRows`.
        bias: `TaskRows` of shape (outputs of all tasks,).
    """

    columns: Tensor | None
    filled: Tensor | None

    def __init__(
        self,
        weights: Mapping[str, tuple[Tensor, Tensor]],
        columns: Mapping[str, Sequence[int]],
        width: int,
    ) -> None:
        super().__init__()
        self.weight = TaskRows({n: w for n, (w, _) in weights.items()}, kind="weight")
        self.bias = TaskRows({n: b for n, (_, b) in weights.items()}, kind="bias")
        own = [columns[name] for name, (w, _) in weights.items() for _ in w]
        sizes = np.array([len(each) for each in own])
        # Zero weights pad the outputs that use fewer columns.
        real = np.arange(sizes.max()) < sizes[:, None]
        places, filled = np.zeros(real.shape, np.int64), np.full(real.shape, sizes.sum())
        places[real], filled[real] = np.concatenate(own), np.arange(sizes.sum())
        is_dense = real.shape[1] == width and (places == np.arange(width)).all()
        buffers = {
            "columns": None if is_dense else places,
            "filled": None if real.all() else filled,
        }
        for name, table in buffers.items():
            flat = None if table is None else torch.from_numpy(table.ravel())
            self.register_buffer(name, flat, persistent=False)
        Loading.before(self, _join_layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all tasks side by side, from inputs (batch, width)."""
        weight: Tensor = self.weight()
        bias: Tensor = self.bias()
        if self.filled is not None:
            weight = torch.cat([weight, weight.new_zeros(1)]).index_select(0, self.filled)
        weight = weight.view(len(bias), -1)
        if self.columns is None:
            return nn.functional.linear(inputs, weight, bias)
        seen = inputs.index_select(1, self.columns).view(inputs.shape[0], *weight.shape)
        return (seen * weight).sum(dim=2) + bias

    def of_tasks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of some tasks side by side, from separate inputs of each task."""
        weights, biases = self.weight(), self.bias()
        parts = []
        for name, own in inputs.items():
            weight = weights[self.weight.slices[name]].view(self.weight.shapes[name])
            bias = biases[self.bias.slices[name]]
            parts.append(nn.functional.linear(own, weight, bias))
        return torch.cat(parts, dim=1)


def _join_layers(layers: DenseLayers | LocalLayers, loading: Loading) -> None:
    # States have separate keys for each task's weight and bias, which torch does not expect.
    for rows in (layers.weight, layers.bias):
        if rows is not None:
            join_rows(rows, loading._replace(prefix=f"{loading.prefix}{rows.kind}."))


class LinearHead(Head):
    """Dense linear heads on a shared representation: hard parameter sharing.

    Args:
        tasks: the tasks.
        n_features: width of the representation; every task uses all of it.
        seed: seed of the initial weights, drawn per task; None draws it from torch's global
            generator.

    Shape:
        features ``(batch, n_features)`` to ``{task: (batch, n_outputs)}``.

    Example:
        >>> head = LinearHead([Task.binary("a"), Task.multiclass("b", 3)], n_features=6, seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(2, 6)).items()}
        {'a': (2, 1), 'b': (2, 3)}

    References:
        Caruana, Multitask Learning, Machine Learning 28 (1997).
    """

    def __init__(self, tasks: Sequence[Task], n_features: int, *, seed: int | None = None) -> None:
        super().__init__(tasks, n_features)
        self.layers = DenseLayers(drawn_seed(seed), self.tasks, n_features)

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        logits: Tensor = self.layers(features, names)
        return logits


class LocalLinearHead(Head):
    """A linear layer per task on the task's own features: a classical head of size O(T).

    Args:
        tasks: the tasks.
        n_features: width of the representation.
        columns: each task's features, as indices.
        seed: seed of the initial weights, drawn per task; None draws it from torch's global
            generator.

    Shape:
        features ``(batch, n_features)`` to ``{task: (batch, n_outputs)}``.

    Raises:
        InvalidInputError: for a task without features, or an index outside the representation.

    Example:
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(5)])
        >>> head = LocalLinearHead.on_cones(circuit)
        >>> head.columns["t1"], sum(p.numel() for p in head.parameters())
        ((0, 1, 2, 3, 4, 5), 35)
    """

    settings = ("columns",)
    """Attributes that a saved model keeps beside tasks and width."""

    def __init__(
        self,
        tasks: Sequence[Task],
        n_features: int,
        columns: Mapping[str, Sequence[int]],
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(tasks, n_features)
        names = {task.name for task in self.tasks}
        for name in columns:
            if name not in names:
                raise unknown_name("task in columns", name, names)
        self.columns = {
            task.name: _indices(task.name, columns.get(task.name, ()), n_features)
            for task in self.tasks
        }
        seed = drawn_seed(seed)
        weights = {
            t.name: linear_weights(seed, f"task {t.name}", len(self.columns[t.name]), t.n_outputs)
            for t in self.tasks
        }
        self.layers = LocalLayers(weights, self.columns, n_features)

    @classmethod
    def on_registers(cls, circuit: HeadCircuit, *, seed: int | None = None) -> Self:
        """Return a head whose tasks use the features that are loaded on their own register."""
        return cls(circuit.tasks, circuit.n_features, register_columns(circuit), seed=seed)

    @classmethod
    def on_cones(cls, circuit: HeadCircuit, *, seed: int | None = None) -> Self:
        """Return a head whose tasks use the same features as in a quantum head's light cones."""
        return cls(circuit.tasks, circuit.n_features, cone_columns(circuit), seed=seed)

    def task_columns(self) -> dict[str, tuple[int, ...]] | None:
        return _partition(self.columns, self.n_features)

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        if names is not None:
            own = {name: features[:, list(self.columns[name])] for name in names}
            return self.layers.of_tasks(own)
        logits: Tensor = self.layers(features)
        return logits


def register_columns(circuit: HeadCircuit) -> dict[str, list[int]]:
    """Return the features that are loaded on each task's own register.

    Example:
        >>> register_columns(HeadCircuit([Task.binary("a"), Task.binary("b")]))
        {'a': [0, 1], 'b': [2, 3]}
    """
    by_wire = defaultdict(list)
    for gate in circuit.encoding_gates:
        by_wire[gate.wires[0]].append(gate)
    columns = {}
    for name, register in circuit.registers.items():
        wires = set(register.wires)
        begun = [gate for wire in wires for gate in by_wire[wire]]
        columns[name] = _features_of([gate for gate in begun if wires.issuperset(gate.wires)])
    return columns


def task_columns(circuit: HeadCircuit) -> dict[str, tuple[int, ...]] | None:
    """`register_columns` if every feature belongs to one register, else None.

    Example:
        >>> tasks = [Task.binary("a"), Task.binary("b")]
        >>> task_columns(HeadCircuit(tasks)), task_columns(HeadCircuit(tasks, layout="shared"))
        ({'a': (0, 1), 'b': (2, 3)}, None)
    """
    return _partition(register_columns(circuit), circuit.n_features)


def cone_columns(circuit: HeadCircuit) -> dict[str, list[int]]:
    """Return the features in each task's light cone.

    Example:
        >>> cone_columns(HeadCircuit([Task.binary("a"), Task.binary("b")]))["a"]
        [0, 1, 2, 3]
    """
    return {name: _features_of(circuit.light_cone(name).gates) for name in circuit.registers}


def _partition(
    columns: Mapping[str, Sequence[int]], width: int
) -> dict[str, tuple[int, ...]] | None:
    places = sorted(place for own in columns.values() for place in own)
    if places != list(range(width)) or not all(columns.values()):
        return None
    return {name: tuple(own) for name, own in columns.items()}


def _indices(task: str, columns: Sequence[int], width: int) -> tuple[int, ...]:
    """Return a task's columns, ascending and as plain ints, which JSON can hold."""
    try:
        own = tuple(sorted(operator.index(column) for column in columns))
    except TypeError:
        own = ()
    if not own or own[0] < 0 or own[-1] >= width or len(set(own)) < len(own):
        raise InvalidInputError(
            f"columns of task {task!r} must be one or more different integers from 0 to "
            f"{width - 1}, got {columns!r}"
        )
    return own


def _features_of(gates: Sequence[Gate]) -> list[int]:
    return sorted({f for gate in gates if gate.angle is not None for f in gate.angle.features})
