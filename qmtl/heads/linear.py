"""Linear heads: the classical rivals of the quantum head."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor, nn

from qmtl.circuit.gates import Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads.affine import local_linear
from qmtl.heads.features import check_features, check_width, chosen_tasks, task_key
from qmtl.heads.initial import drawn_seed, linear_layer
from qmtl.tasks import Task, check_tasks

__all__ = ["LinearHead", "LocalLinearHead", "cone_columns", "register_columns"]


class LocalLinearHead(nn.Module):
    """Each task linear on features of its own only: a classical head with O(T) parameters, too.

    Args:
        tasks: the tasks.
        n_features: width of the representation.
        columns: each task's features, as indices.
        seed: of the initial weights, drawn per task; None draws it from torch's global generator.

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

    def __init__(
        self,
        tasks: Sequence[Task],
        n_features: int,
        columns: Mapping[str, Sequence[int]],
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_width(n_features)
        self.tasks = check_tasks(tasks)
        self.n_features = n_features
        names = [task.name for task in self.tasks]
        for name in columns:
            if name not in names:
                raise unknown_name("task in columns", name, names)
        self.columns = {name: _indices(name, columns.get(name, ()), n_features) for name in names}
        seed = drawn_seed(seed)
        self.layers = nn.ModuleDict(
            {
                task_key(task.name): linear_layer(
                    seed, f"task {task.name}", len(self.columns[task.name]), task.n_outputs
                )
                for task in self.tasks
            }
        )

    @classmethod
    def on_registers(cls, circuit: HeadCircuit, *, seed: int | None = None) -> "LocalLinearHead":
        """Each task linear on the features that are loaded on its own register."""
        return LocalLinearHead(
            circuit.tasks, circuit.n_features, register_columns(circuit), seed=seed
        )

    @classmethod
    def on_cones(cls, circuit: HeadCircuit, *, seed: int | None = None) -> "LocalLinearHead":
        """Each task linear on the features in its light cone: what the quantum head can see."""
        return LocalLinearHead(circuit.tasks, circuit.n_features, cone_columns(circuit), seed=seed)

    def shared_parameters(self) -> list[nn.Parameter]:
        """None: every parameter belongs to one task."""
        return []

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Weight and bias of one task."""
        return list(self.layers[task_key(self._names([task])[0])].parameters())

    def forward(
        self, features: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Logits of the tasks asked for (None: all), each ``(batch, n_outputs)``."""
        check_features(features, self.n_features)
        names = self._names(tasks)
        layers: dict[str, Any] = {name: self.layers[task_key(name)] for name in names}
        return local_linear(features, {name: self.columns[name] for name in names}, layers)

    def _names(self, tasks: Sequence[str] | None) -> list[str]:
        return chosen_tasks(tasks, self.columns)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the head without its parameters."""
        return {
            "type": type(self).__name__,
            "tasks": [task.to_dict() for task in self.tasks],
            "n_features": self.n_features,
            "columns": {name: list(columns) for name, columns in self.columns.items()},
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        """The head that `to_dict` described, with fresh parameters."""
        tasks = [Task.from_dict(task) for task in description["tasks"]]
        return cls(tasks, description["n_features"], description["columns"], seed=0)


class LinearHead(LocalLinearHead):
    """Dense linear heads on a shared representation: hard parameter sharing.

    Args:
        tasks: the tasks.
        n_features: width of the representation; every task sees all of it.
        seed: of the initial weights, drawn per task; None draws it from torch's global generator.

    Shape:
        features ``(batch, n_features)`` to ``{task: (batch, n_outputs)}``.

    Example:
        >>> import torch
        >>> head = LinearHead([Task.binary("a"), Task.multiclass("b", 3)], n_features=6, seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(2, 6)).items()}
        {'a': (2, 1), 'b': (2, 3)}

    References:
        Caruana, Multitask Learning, Machine Learning 28 (1997).
    """

    def __init__(self, tasks: Sequence[Task], n_features: int, *, seed: int | None = None) -> None:
        tasks = check_tasks(tasks)
        check_width(n_features)
        everything = {task.name: range(n_features) for task in tasks}
        super().__init__(tasks, n_features, everything, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the head without its parameters."""
        description = super().to_dict()
        del description["columns"]
        return description

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        """The head that `to_dict` described, with fresh parameters."""
        tasks = [Task.from_dict(task) for task in description["tasks"]]
        return cls(tasks, description["n_features"], seed=0)


def register_columns(circuit: HeadCircuit) -> dict[str, list[int]]:
    """The features that are loaded on each task's own register.

    Example:
        >>> register_columns(HeadCircuit([Task.binary("a"), Task.binary("b")]))
        {'a': [0, 1], 'b': [2, 3]}
    """
    columns = {}
    for name, register in circuit.registers.items():
        wires = set(register.wires)
        loaded = [gate for gate in circuit.encoding_gates if wires.issuperset(gate.wires)]
        columns[name] = _features_of(loaded)
    return columns


def cone_columns(circuit: HeadCircuit) -> dict[str, list[int]]:
    """The features in each task's light cone.

    Example:
        >>> cone_columns(HeadCircuit([Task.binary("a"), Task.binary("b")]))["a"]
        [0, 1, 2, 3]
    """
    return {name: _features_of(circuit.light_cone(name).gates) for name in circuit.registers}


def _indices(task: str, columns: Sequence[int], width: int) -> tuple[int, ...]:
    """A task's columns, ascending and as plain ints (JSON knows no others)."""
    try:
        own = tuple(sorted(operator.index(column) for column in columns))
    except TypeError:
        own = ()
    if not own or own[0] < 0 or own[-1] >= width or len(set(own)) < len(own):
        raise InvalidInputError(
            f"columns of task {task!r} must be one or more different integers of 0 to "
            f"{width - 1}, got {columns!r}"
        )
    return own


def _features_of(gates: Sequence[Gate]) -> list[int]:
    return sorted({f for gate in gates if gate.angle is not None for f in gate.angle.features})
