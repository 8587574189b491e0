"""Selection of training rows by vote: rows whose gradients help most tasks' validation losses."""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import jvp

from qmtl._calls import called_with, evaluating
from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, is_number
from qmtl.methods._gradients import LossesOfRows
from qmtl.model import MultiTaskModel
from qmtl.tasks import labelled_rows

if TYPE_CHECKING:
    from pandas import DataFrame, Series


@dataclass(frozen=True)
class Selection:
    """The training rows that most tasks vote for.

    Attributes:
        influences: influence of each training row (rows of the table, in order) on each task.
        votes: number of tasks that vote for each training row.
        rows: indices of the rows to keep, int64, in the order of the data.
        data: the data with only these training rows.
    """

    influences: "DataFrame"
    votes: "Series"
    rows: Tensor
    data: MultiTaskData


def influences(model: MultiTaskModel, data: MultiTaskData, *, batch_size: int = 256) -> "DataFrame":
    """Return the influence of each training row on each task, a table of rows by tasks.

    The influence is ``⟨∇ℓ(row), ∇L(task)⟩`` over all trainable parameters. ``ℓ(row)`` is the sum of
    the row's losses over the tasks with a label, and ``L(task)`` the task's mean validation loss.
    To first order, a small step on the row decreases ``L(task)`` in proportion to the influence.
    The model is evaluated without dropout.

    Args:
        model: a model trained for a short time, so that gradients are informative.
        data: tasks, training rows and validation rows.
        batch_size: number of rows at a time.

    Raises:
        InvalidInputError: if the model lacks a task of the data, or a task has no validation
            labels.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity", "ink"])
        >>> head = qmtl.QuantumHead(qmtl.HeadCircuit(data.tasks), seed=0)
        >>> model = MultiTaskModel(qmtl.encoders.MLP(64, out_features=head.n_features), head)
        >>> influences(model, data).shape
        (1079, 2)
    """
    import pandas as pd

    validation = LossesOfRows(model, data, "validation")
    names = [task.name for task in data.tasks]
    labelled = labelled_rows(data.tasks, validation.rows.targets).any(1)
    for name, known in zip(names, labelled.tolist(), strict=True):
        if not known:
            raise InvalidInputError(
                f"task {name!r} has no validation label, so influences on it cannot be measured"
            )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise InvalidInputError("the model has no trainable parameter")
    training = LossesOfRows(model, data, "train")
    with evaluating(model), torch.enable_grad():
        totals: list[Any] = [[torch.zeros_like(p) for p in parameters.values()] for _ in names]
        divisors: Any = 0
        for rows in torch.arange(len(validation.rows)).split(batch_size):
            at = model(validation.inputs[rows], names, joined=True)
            losses, counts = validation.terms_of_logits(at, rows, data.tasks)
            divisors = divisors + counts
            for task, loss in enumerate(losses):
                gradients = torch.autograd.grad(
                    loss, list(parameters.values()), retain_graph=True, materialize_grads=True
                )
                totals[task] = [a + b for a, b in zip(totals[task], gradients, strict=True)]
        totals = [[g / n for g in own] for own, n in zip(totals, divisors, strict=True)]
        values = {name: p.detach() for name, p in parameters.items()}
        directions = [dict(zip(values, total, strict=True)) for total in totals]
        found = []
        for rows in torch.arange(len(training.rows)).split(batch_size):

            def logits(values: dict[str, Tensor], rows: Tensor = rows) -> Any:
                options = {"tasks": names, "joined": True}
                return called_with(model, values, (training.inputs[rows],), options)

            at = logits(values).detach().requires_grad_()
            # Rows are independent, so this is the gradient of each row.
            losses, _ = training.terms_of_logits(at, rows, data.tasks)
            (slopes,) = torch.autograd.grad(losses.sum(), at)
            with warnings.catch_warnings():
                # torch itself uses torch.jit, and warns of it.
                warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
                changes = [jvp(logits, (values,), (along,))[1] for along in directions]
            found.append(torch.stack([(slopes * c).sum(1) for c in changes], 1).detach())
    return pd.DataFrame(torch.cat(found).cpu().double().numpy(), columns=names)


def select(model: MultiTaskModel, data: MultiTaskData, keep: float = 0.5) -> Selection:
    """Select the training rows that most tasks vote for.

    Each task votes for the fraction `keep` of the rows with the largest influence on it. Among
    rows with equally many votes, those with the better mean rank come first (qmtl's choice).

    Args:
        model: a model trained for a short time on all rows.
        data: tasks, training and validation rows; validation and test rows do not change.
        keep: fraction of the training rows, in (0, 1].

    Raises:
        InvalidInputError: for a fraction out of range, or if no labelled row of a task is kept;
            also in the cases of `influences`.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity", "ink"])
        >>> head = qmtl.QuantumHead(qmtl.HeadCircuit(data.tasks), seed=0)
        >>> model = MultiTaskModel(qmtl.encoders.MLP(64, out_features=head.n_features), head)
        >>> len(select(model, data, keep=0.25).data.train)
        270

    References:
        Inspired by ICONS, arXiv:2501.00654.
    """
    if not is_number(keep) or not 0 < keep <= 1:
        raise InvalidInputError(f"keep must be in (0, 1], got {keep!r}")
    table = influences(model, data)
    n_rows = len(table)
    n_kept = max(1, round(keep * n_rows))
    ranks = table.rank(ascending=False, method="first")
    votes = (ranks <= n_kept).sum(axis=1)
    order = sorted(range(n_rows), key=lambda row: (-votes[row], ranks.loc[row].mean()))
    rows = torch.tensor(sorted(order[:n_kept]))
    kept = data.train.take(rows)
    for task in data.tasks:
        if not task.labelled(kept.targets[task.name]).any():
            raise InvalidInputError(
                f"no labelled row of task {task.name!r} is among the {n_kept} rows that most "
                f"tasks vote for; keep more than {keep:g}"
            )
    return Selection(table, votes, rows, replace(data, train=kept))
