"""Head: the base class of all heads, with checks of features and freezing of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError, check_integer, unknown_name
from qmtl.heads._task_rows import TaskRows
from qmtl.simulators import (
    ANGLE_MAPS,
    Dependencies,
    Simulator,
    by_task,
    check_finite,
    simulator_for,
    simulator_from_dict,
)
from qmtl.tasks import Task, check_tasks, chosen_tasks

HALVES = (torch.float16, torch.bfloat16)


class Head(nn.Module, ABC):
    """A torch module from features to each task's logits.

    A subclass defines `_joined`, and keeps parameters of single tasks in `TaskRows`. It stores
    constructor arguments other than tasks and width as attributes, and names them in `settings`.

    Args:
        tasks: the tasks.
        n_features: number of features.

    Raises:
        InvalidInputError: for no task, two tasks with the same name, or a width below 1.
    """

    settings: tuple[str, ...] = ()
    """Names of the attributes that are saved with the head, other than tasks and width."""
    instead: str = ""
    """Text about a part of this head that would fit, for errors that the head does not fit."""
    breaks_graphs: bool = False
    """Whether ``torch.compile`` leaves the head uncompiled, and compiles only other modules."""
    checks_values: bool = True
    """Whether the head checks for NaN and infinity; otherwise its simulator does so."""

    def __init__(self, tasks: Sequence[Task], n_features: int) -> None:
        super().__init__()
        n_features = check_integer("n_features", n_features)
        self.tasks: tuple[Task, ...] = check_tasks(tasks)
        self.n_features = n_features
        self._sizes = {task.name: task.n_outputs for task in self.tasks}

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        tasks: Sequence[str] | None = None,
        *,
        joined: bool = False,
    ) -> Any:
        """Return the logits of the requested tasks.

        Args:
            features: tensor of shape (batch, n_features).
            tasks: names of the tasks; None for all.
            joined: whether to return one tensor instead of a dictionary.

        Returns:
            A dictionary from names to (batch, n_outputs); or one tensor (batch, outputs of these
            tasks side by side), in the requested order.

        Raises:
            InvalidInputError: for features of another shape or type, features that are not finite,
                or unknown tasks.
        """
        if self.breaks_graphs and is_dynamo_compiling():
            from qmtl._uncompiled import uncompiled

            return uncompiled(self.forward, features, tasks, joined=joined)
        check_features(features, self.n_features)
        device = features.device.type
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            # Earlier layers may round under autocast; the head computes in its full precision.
            if features.dtype in HALVES:
                features = features.to(next(self.parameters()).dtype)
            with torch.autocast(device, enabled=False):
                return self.forward(features, tasks, joined=joined)
        if self.checks_values:
            check_finite(features)
        names = None if tasks is None else chosen_tasks(tasks, self._sizes)
        if names == ():
            logits = features.new_zeros(len(features), 0)
        else:
            logits = self._joined(features, names)
        if joined:
            return logits
        sizes = self._sizes if names is None else {name: self._sizes[name] for name in names}
        return by_task(logits, sizes, sizes.values())

    @abstractmethod
    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        """Compute the logits of these tasks (None: all) side by side, from checked features."""

    def task_rows(self) -> list[TaskRows]:
        """Return the parameters that have a slice per task."""
        return [module for module in self.modules() if isinstance(module, TaskRows)]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that several tasks depend on."""
        owned = {id(p) for rows in self.task_rows() for p in rows.parameters()}
        return [p for p in self.parameters() if p.numel() and id(p) not in owned]

    def count_parameters(self) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.parameters())

    @property
    def frozen_tasks(self) -> frozenset[str]:
        """The tasks that `freeze` was called for."""
        return frozenset().union(*(rows.frozen for rows in self.task_rows()))

    def freeze(self, task: str) -> None:
        """Keep a task's own parameters fixed in every optimiser, with a gradient of zero.

        Parameters that several tasks depend on are not frozen.

        Raises:
            InvalidInputError: for an unknown task.

        Example:
            >>> from qmtl import LinearHead
            >>> head = LinearHead([Task.binary("a"), Task.binary("b")], n_features=2)
            >>> head.freeze("a")
            >>> head(torch.ones(1, 2), joined=True).sum().backward()
            >>> [rows.parameter.grad.tolist() for rows in head.task_rows()]
            [[[0.0, 0.0], [1.0, 1.0]], [0.0, 1.0]]
        """
        self._set_frozen(task, True)

    def unfreeze(self, task: str) -> None:
        """Train a task's own parameters again, starting from their frozen values."""
        self._set_frozen(task, False)

    def _set_frozen(self, task: str, frozen: bool) -> None:
        chosen_tasks([task], self._sizes)
        for rows in self.task_rows():
            if task in rows.slices:
                rows.freeze(task, frozen)

    def dependencies(self) -> Dependencies | None:
        """Return the features and shared weights that each task depends on; None means all."""
        return None

    def task_columns(self) -> dict[str, tuple[int, ...]] | None:
        """Return the features of each task's register; None if registers share or lack features.

        Other tasks may depend on the same feature: see `dependencies`.
        """
        if len(self.tasks) == 1:
            return {self.tasks[0].name: tuple(range(self.n_features))}
        return None

    def feature_rows(self, features: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return a Jacobian with respect to features and shared weights; None to use autograd."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description of the head without its parameters."""
        return {
            "type": type(self).__name__,
            "tasks": [task.to_dict() for task in self.tasks],
            "n_features": self.n_features,
            **{name: getattr(self, name) for name in self.settings},
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        """Return the head that `to_dict` described, with fresh parameters.

        Args:
            description: the dictionary that `to_dict` returned.
            custom: your own classes of encodings, ansätze and readouts, by class name.
        """
        make: Any = cls
        tasks = [Task.from_dict(task) for task in description["tasks"]]
        options = {name: description[name] for name in cls.settings}
        head: Self = make(tasks, description["n_features"], **options, seed=0)
        return head


class CircuitHead(Head):
    """A head that evaluates a circuit.

    Args:
        tasks: the tasks.
        circuit: the circuit.
        simulator: ``"lightcone"``, the name of a PennyLane device, or a `Simulator`.
        angle_map: map from features to angles, one of `qmtl.simulators.ANGLE_MAPS`.
    """

    breaks_graphs = True

    def __init__(
        self,
        tasks: Sequence[Task],
        circuit: HeadCircuit,
        simulator: str | Simulator,
        angle_map: str,
    ) -> None:
        if not isinstance(circuit, HeadCircuit):
            raise InvalidInputError(
                f"circuit must be a HeadCircuit, got {type(circuit).__name__}; HeadCircuit(tasks) "
                f"makes one"
            )
        super().__init__(tasks, circuit.n_features)
        if angle_map not in ANGLE_MAPS:
            raise unknown_name("angle_map", angle_map, ANGLE_MAPS)
        self.circuit = circuit
        self.simulator = simulator_for(simulator)
        self.angle_map = angle_map

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description of the head without its parameters.

        Raises:
            InvalidInputError: for a user's own simulator (use ``with_simulator("lightcone")``
                first).
        """
        return {
            "type": type(self).__name__,
            "circuit": self.circuit.to_dict(),
            "angle_map": self.angle_map,
            "simulator": self.simulator.to_dict(),
            **{name: getattr(self, name) for name in self.settings},
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        from qmtl.circuit import circuit_from_dict

        make: Any = cls
        options = {name: description[name] for name in cls.settings if name in description}
        head: Self = make(
            circuit_from_dict(description["circuit"], custom=custom or {}),
            simulator_from_dict(description["simulator"]),
            angle_map=description["angle_map"],
            seed=0,
            **options,
        )
        return head


def head_from_dict(
    description: Mapping[str, Any], custom: Mapping[str, type] | None = None
) -> Head:
    """Return the head, of any class, that `Head.to_dict` described, with fresh parameters.

    Args:
        description: the dictionary that `to_dict` returned.
        custom: your own classes, by class name.

    Raises:
        InvalidInputError: for an unknown class.
    """
    known: dict[str, Any] = {kind.__name__: kind for kind in _kinds(Head)} | dict(custom or {})
    if description["type"] not in known:
        raise unknown_name("head", description["type"], known)
    head: Head = known[description["type"]].from_dict(description, custom)
    return head


def _kinds(kind: Any) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def check_features(features: Tensor, width: int) -> None:
    """Check that features are floats of shape (batch, width).

    Raises:
        InvalidInputError: if not; the error names the given and the expected form.
    """
    if not isinstance(features, Tensor) or not features.dtype.is_floating_point:
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise InvalidInputError(f"features must be a floating-point tensor, got {kind}")
    if features.ndim != 2 or features.shape[1] != width:
        raise InvalidInputError(
            f"features must have shape (batch, {width}), got {tuple(features.shape)}"
        )
