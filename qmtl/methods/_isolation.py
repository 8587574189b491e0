"""Isolation: a task reads the features of other tasks, but does not train them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.heads import QuantumHead, cone_columns, register_columns
from qmtl.methods._method import Method, MethodSection, Step
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task


class Isolation(MethodSection):
    """Option ``isolation = true``: detach features on a task's light cone but not on its register.

    A task's logits depend on the features of its neighbours, whose light cones overlap with its
    own, and its loss would train these features, too. With this method, a feature is trained only
    by the task on whose register it is loaded. Logits do not change, and the circuit's weights are
    trained as usual. The features on other registers are qmtl's
    interpretation of the "other tasks' features" of the paper.

    A step runs the head once for each group of tasks whose light cones do not overlap. There are
    only a few groups, for any number of tasks, and each task's logits are computed once.

    This needs a quantum head in which each task has its own register.

    References:
        Task isolation in StableMTL: arXiv:2506.08013.
    """

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        head = model.head
        if not isinstance(head, QuantumHead) or head.circuit.layout != "partitioned":
            what = "the layout 'shared'" if isinstance(head, QuantumHead) else type(head).__name__
            raise InvalidInputError(
                f"isolation needs a QuantumHead with the layout 'partitioned', got {what}"
            )
        return _Isolated(head, [task.name for task in tasks])


class _Isolated(Method):
    masks: Tensor
    """Which features each group trains, bool (groups, features)."""
    order: Tensor
    """For each column of joined logits, its place in the concatenated logits of the groups."""

    def __init__(self, head: QuantumHead, names: Sequence[str]) -> None:
        super().__init__()
        cones, registers = cone_columns(head.circuit), register_columns(head.circuit)
        self.groups = tasks_apart({name: cones[name] for name in names})
        masks = torch.zeros(len(self.groups), head.n_features, dtype=torch.bool)
        for mask, group in zip(masks, self.groups, strict=True):
            mask[[column for name in group for column in registers[name]]] = True
        sizes = {task.name: task.n_outputs for task in head.tasks}
        place_of = {name: i for i, name in enumerate(names)}
        places = [place_of[n] for group in self.groups for n in group for _ in range(sizes[n])]
        self.register_buffer("masks", masks, persistent=False)
        self.register_buffer("order", torch.tensor(places).argsort(stable=True), persistent=False)

    def logits(self, features: Tensor, step: Step) -> Tensor:
        fixed = features.detach()
        parts = [
            step.model.logits(torch.where(mask, features, fixed), group)
            for mask, group in zip(self.masks, self.groups, strict=True)
        ]
        return torch.cat(parts, dim=1).index_select(1, self.order)


def tasks_apart(columns: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Group tasks without a common column; each task joins the first group that it can.

    On light cones the number of groups does not grow with the number of tasks.

    Example:
        >>> tasks_apart({"a": [0, 1], "b": [1, 2], "c": [2, 3]})
        [['a', 'c'], ['b']]
    """
    taken: list[set[int]] = []
    groups: list[list[str]] = []
    for name, own in columns.items():
        place = next((i for i, used in enumerate(taken) if used.isdisjoint(own)), len(taken))
        if place == len(taken):
            taken.append(set())
            groups.append([])
        taken[place].update(own)
        groups[place].append(name)
    return groups
