"""GatedHead: a gate per task mixes its own head with a head common to tasks of one kind."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit, rebuilt
from qmtl.errors import InvalidInputError
from qmtl.heads._head import Head, head_from_dict
from qmtl.heads._task_rows import TaskRows
from qmtl.tasks import Task


class GatedHead(Head):
    r"""Logits ``σ·own + (1 - σ)·common`` with a gate ``σ = sigmoid(θ)`` per task.

    Tasks of one kind and number of outputs have a common predictor. If this predictor does not fit
    a task, training moves the task's gate towards 1: see `outlier_scores`. The only task of a kind
    has no gate. Gates start at 1/2.

    Args:
        own: head of the tasks.
        common: head of the tasks from `common_tasks`, whose parameters all tasks share.

    Shape:
        features ``(batch, own.n_features + common.n_features)``, first those of `own`, to
        ``{task: (batch, n_outputs)}``.

    Attributes:
        gates: `TaskRows` of θ, one number per task that has a gate.

    Raises:
        InvalidInputError: if the common head has other tasks.

    Example:
        >>> from qmtl import LinearHead
        >>> tasks = [Task.binary("a"), Task.binary("b"), Task.regression("c")]
        >>> common = LinearHead(common_tasks(tasks), n_features=2, seed=0)
        >>> head = GatedHead(LinearHead(tasks, n_features=6, seed=0), common)
        >>> head.outlier_scores()
        {'a': 0.5, 'b': 0.5}

    References:
        Inspired by R-MTGB (arXiv:2507.11411), which gates between boosted trees.
    """

    instead = "; its two heads are model.head.own and model.head.common"
    breaks_graphs = True

    def __init__(self, own: Head, common: Head) -> None:
        super().__init__(own.tasks, own.n_features + common.n_features)
        expected = common_tasks(own.tasks)
        if common.tasks != tuple(expected):
            raise InvalidInputError(
                f"the common head must have the tasks {[t.name for t in expected]} of "
                f"common_tasks(own.tasks), got {[task.name for task in common.tasks]}"
            )
        self.own, self.common = own, common
        places = {name: i for i, task in enumerate(expected) for name in _members(task, own.tasks)}
        self._place = places
        self.gates = TaskRows({t.name: torch.zeros(1) for t in own.tasks if t.name in places})

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        mine, shared = features.split([self.own.n_features, self.common.n_features], dim=1)
        own = self.own(mine, names, joined=True)
        sizes = [task.n_outputs for task in self.common.tasks]
        common = self.common(shared, joined=True).split(sizes, dim=1)
        gates = self.gates.by_name()
        parts = []
        chosen = self._sizes if names is None else names
        for name, logits in zip(
            chosen, own.split([self._sizes[name] for name in chosen], dim=1), strict=True
        ):
            if name in gates:
                parts.append(torch.lerp(common[self._place[name]], logits, gates[name].sigmoid()))
            else:
                parts.append(logits)
        return torch.cat(parts, dim=1)

    def outlier_scores(self) -> dict[str, float]:
        """Return σ of each task that has a gate: near 1 for an outlier, else near 0."""
        return {
            name: float(theta.detach().sigmoid()) for name, theta in self.gates.by_name().items()
        }

    def task_rows(self) -> list[TaskRows]:
        """Return the parameters that belong to tasks: those of the head `own`, and the gates."""
        return [*self.own.task_rows(), self.gates]

    def with_simulator(self, simulator: Any) -> "GatedHead":
        """Return a head that shares these parameters, evaluated by another simulator.

        Raises:
            InvalidInputError: if its heads do not use a simulator.
        """
        parts: list[nn.Module] = [self.own, self.common]
        for part in parts:
            if not hasattr(part, "with_simulator"):
                kind = type(part).__name__
                raise InvalidInputError(f"the head {kind} cannot change its simulator")
        own, common = (part.with_simulator(simulator) for part in parts)  # type: ignore[operator]
        twin = GatedHead(own, common)
        twin.gates = self.gates
        twin.training = self.training
        return twin

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": type(self).__name__,
            "own": self.own.to_dict(),
            "common": self.common.to_dict(),
        }

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        parts = (head_from_dict(description[part], custom) for part in ("own", "common"))
        return cls(*parts)


def common_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Return one task for each kind and number of outputs that several tasks have.

    Example:
        >>> tasks = [Task.binary("a"), Task.binary("b"), Task.regression("c")]
        >>> [task.name for task in common_tasks(tasks)]
        ['common_binary_1']
    """
    found = {}
    for task in tasks:
        name = f"common_{task.kind}_{task.n_outputs}"
        common = Task(name, task.kind, task.n_outputs)
        if len(_members(common, tasks)) > 1:
            found[name] = common
    return list(found.values())


def common_circuit(circuit: HeadCircuit) -> HeadCircuit | None:
    """Return a circuit for `common_tasks`, as for the first task of each kind; None for no task."""
    tasks = common_tasks(circuit.tasks)
    if not tasks:
        return None
    first = {task.name: _members(task, circuit.tasks)[0] for task in tasks}
    return rebuilt(circuit, tasks=tasks, like=first)


def _members(common: Task, tasks: Sequence[Task]) -> list[str]:
    like = common.kind, common.n_outputs
    return [task.name for task in tasks if (task.kind, task.n_outputs) == like]
