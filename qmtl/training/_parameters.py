"""Which parameters a training run trains, and to which task each of their entries belongs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl._growth import last_layer
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError
from qmtl.heads import Head
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task

__all__ = ["TrainedParameters"]


class TrainedParameters:
    """The parameters of a model that the training of some tasks changes.

    Args:
        model: the model.
        tasks: the tasks to train.
        only: whether everything that other tasks depend on is left unchanged.
        further: parameters outside the model that get a gradient of the losses' sum.

    Attributes:
        shared: parameters that several of these tasks depend on.
        own: parameters whose entries each belong to one task, and the `further` ones.
        further: the `further` parameters, which are the last of `own`.
        row_of: the optimiser's row of each entry along a parameter's first axis: a task's row, or
            one that is never stepped, or one that is always stepped.

    Raises:
        InvalidInputError: if no parameter is to be trained.

    Example:
        >>> import qmtl
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")])
        >>> model = qmtl.MultiTaskModel(qmtl.encoders.Identity(4), qmtl.QuantumHead(circuit))
        >>> trained = TrainedParameters(model, model.tasks)
        >>> [p.shape for p in trained.shared], [p.shape for p in trained.own]
        ([torch.Size([4])], [torch.Size([12]), torch.Size([2])])
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        *,
        only: bool = False,
        further: Sequence[nn.Parameter] = (),
    ) -> None:
        self.tasks, self.only = tuple(tasks), only
        self._rows: Any = model.task_rows()
        self.own = [p for rows in self._rows for p in rows.parameters() if p.requires_grad]
        owned = {id(p) for p in self.own}
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in owned]
        self.row_of = self._task_of_entries()
        if only:
            self.shared = []
            alone = self._alone(model)
            self.own += alone
            self.row_of |= alone
        if not self.shared and not any(
            rows.parameter.requires_grad and len(rows.frozen) < len(rows.names)
            for rows in self._rows
        ):
            raise InvalidInputError(
                "there is nothing to train: every parameter of the model is frozen, by "
                "requires_grad_(False) or head.freeze(task)"
            )
        self.further = list(further)
        self.own += further

    def _task_of_entries(self) -> dict[nn.Parameter, Tensor]:
        place = {task.name: i for i, task in enumerate(self.tasks)}
        found: dict[nn.Parameter, Tensor] = {}
        for rows in self._rows:
            tasks = torch.tensor([place.get(name, len(place)) for name in rows.names])
            found |= dict.fromkeys(rows.parameters(), tasks[rows.row_of.cpu()])
        return found

    def _alone(self, model: MultiTaskModel) -> dict[nn.Parameter, Tensor]:
        """Rows of shared parameters of which some entries affect only these tasks."""
        never = len(self.tasks)
        depends = model.head.dependencies() if isinstance(model.head, Head) else None
        if depends is None:
            return {}
        names = {task.name for task in self.tasks}
        trained = [i for i, task in enumerate(model.tasks) if task.name in names]
        layer = last_layer(model.encoder)
        by_features = [] if layer is None else list(layer.parameters())
        by_weights = [p for n, p in model.head.named_parameters(recurse=False) if n == "encoding"]
        found: dict[nn.Parameter, Tensor] = {}
        for (task, place), parameters in zip(depends, (by_features, by_weights), strict=True):
            mine = np.isin(task, trained)
            for parameter in parameters:
                alone = torch.zeros(len(parameter), dtype=torch.bool)
                alone[torch.from_numpy(place[mine])] = True
                alone[torch.from_numpy(place[~mine])] = False
                if parameter.requires_grad and bool(alone.any()):
                    found[parameter] = never + alone.long()
        if isinstance(model.encoder, TaskEncoder):
            for parameter, owners in model.encoder.task_parameters().items():
                alone = torch.tensor([name in names for name in owners])
                if parameter.requires_grad and bool(alone.any()):
                    found[parameter] = never + alone.long()
        return found

    def stepped(self, present: Tensor | None, device: torch.device) -> Tensor | None:
        """Which rows the optimiser steps, bool (rows,), see `row_of`; None for all."""
        frozen = {name for rows in self._rows for name in rows.frozen}
        if present is None and not frozen and not self.only:
            return None
        mask = self.mask(present, device)
        if frozen:
            mask &= torch.tensor([t.name not in frozen for t in self.tasks], device=device)
        return torch.cat([mask, torch.tensor([False, True], device=device)]) if self.only else mask

    def mask(self, present: Tensor | None, device: torch.device) -> Tensor:
        """Which tasks are present, bool (tasks,)."""
        mask = torch.zeros(len(self.tasks), dtype=torch.bool, device=device)
        mask[slice(None) if present is None else present] = True
        return mask
