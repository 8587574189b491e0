"""`MultiTaskData`: inputs and one target per task, in three splits; `DataSection`."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from qmtl._sections import OneOf, Section, Seed
from qmtl.data._columns import TableColumns
from qmtl.data._splits import SPLITS, Indices
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, check_tasks, labelled_rows, row_weights


@dataclass(frozen=True, eq=False)
class Split(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The rows of one split; a torch `Dataset` of inputs and targets by task.

    Args:
        inputs: float32 (N, ...); an encoder of tokens converts them to integers itself.
        targets: task name → canonical targets, see `Task.to_targets`.
        index: row numbers in the original data, int64 (N,); 0..N-1 by default.
        sample_weight: weight of each row in losses and metrics, float64 (N,), above zero; None for
            1 each.

    Raises:
        InvalidInputError: the weights are not one finite number of at least 0 for each row.

    Example:
        >>> rows = Split(torch.zeros(3, 2), {"a": torch.zeros(3)})
        >>> len(rows), rows[2]
        (3, (tensor([0., 0.]), {'a': tensor(0.)}))
        >>> inputs, targets = next(iter(torch.utils.data.DataLoader(rows, batch_size=2)))
        >>> inputs.shape, targets["a"].shape
        (torch.Size([2, 2]), torch.Size([2]))
    """

    inputs: Tensor
    targets: dict[str, Tensor]
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    sample_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.index.numel():
            object.__setattr__(self, "index", torch.arange(len(self.inputs)))
        object.__setattr__(self, "sample_weight", row_weights(self.sample_weight, len(self.inputs)))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.inputs[row], {name: values[row] for name, values in self.targets.items()}

    def __repr__(self) -> str:
        return f"Split(inputs={tuple(self.inputs.shape)}, targets={list(self.targets)})"

    @property
    def relative_weight(self) -> Tensor | None:
        """`sample_weight` relative to the largest, so that losses fit single precision.

        Example:
            >>> weights = torch.tensor([1e60, 2e60], dtype=torch.float64)
            >>> Split(torch.zeros(2, 2), {}, sample_weight=weights).relative_weight
            tensor([0.5000, 1.0000], dtype=torch.float64)
        """
        weights = self.sample_weight
        return None if weights is None else weights / weights.max()

    def take(self, rows: Tensor | slice) -> "Split":
        """Return the given rows: a bool mask (N,), row numbers or a slice.

        Example:
            >>> len(Split(torch.zeros(3, 2), {}).take(torch.tensor([0, 2])))
            2
        """
        targets = {name: values[rows] for name, values in self.targets.items()}
        weights = None if self.sample_weight is None else self.sample_weight[rows]
        return Split(self.inputs[rows], targets, self.index[rows], weights)


@dataclass(frozen=True, eq=False, repr=False)
class MultiTaskData:
    """A data set of several tasks on common inputs.

    Args:
        name: name in tables and run directories.
        tasks: the tasks, in the order that circuits use.
        train: training rows; every task has a label here.
        validation: rows for choosing settings.
        test: rows for reporting.
        columns: how a table's rows become inputs, if the data comes from a table.
        split_seed: seed of the splits; None if the splits were given.
        modalities: modality → number of its columns, if `join_modalities` made the inputs.
        notes: sentences for reports about rows and tasks that the loader left out or changed.

    Raises:
        InvalidInputError: lengths differ, inputs are not finite, a split is empty, or a task has no
            target or no training label. The error names the split or task.

    Example:
        >>> rows = Split(torch.zeros(3, 2), {"a": torch.tensor([0.0, 1.0, 1.0])})
        >>> MultiTaskData("tiny", (Task.binary("a"),), rows, rows, rows)
        MultiTaskData('tiny', inputs=(2,), train=3, validation=3, test=3, tasks: a (binary))
    """

    name: str
    tasks: tuple[Task, ...]
    train: Split
    validation: Split
    test: Split
    columns: TableColumns | None = None
    split_seed: int | None = None
    modalities: dict[str, int] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", check_tasks(self.tasks))
        for name, split in self.splits.items():
            _check_split(name, split, self.tasks)
        shapes = {name: tuple(split.inputs.shape[1:]) for name, split in self.splits.items()}
        if len(set(shapes.values())) > 1:
            raise InvalidInputError(f"data: the splits have different input shapes: {shapes}")
        for task in self.tasks:
            if not task.labelled(self.train.targets[task.name]).any():
                raise InvalidInputError(
                    f"data: task '{task.name}' has no label in the train split, so that it cannot "
                    f"be learned"
                )

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: train, validation and test.

        Example:
            >>> from qmtl.data import digits
            >>> list(digits().splits)
            ['train', 'validation', 'test']
        """
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def n_inputs(self) -> int | tuple[int, ...]:
        """Inputs per row: their number, or their shape if it has several dimensions.

        Example:
            >>> from qmtl.data import digits
            >>> digits().n_inputs
            64
        """
        shape = tuple(self.train.inputs.shape[1:])
        return shape[0] if len(shape) == 1 else shape

    @property
    def is_disjoint(self) -> bool:
        """Whether there are several tasks and no training row has labels of two of them.

        Example:
            >>> from qmtl.data import digits
            >>> digits().is_disjoint
            False
        """
        labels = labelled_rows(self.tasks, self.train.targets).sum(dim=0)
        return len(self.tasks) > 1 and int(labels.max()) <= 1

    def task(self, name: str) -> Task:
        """Return the task with this name.

        Raises:
            InvalidInputError: there is none; the error suggests the nearest names.

        Example:
            >>> from qmtl.data import digits
            >>> digits().task("parity").kind
            'binary'
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise unknown_name("task", name, [task.name for task in self.tasks])

    def subset(self, tasks: Sequence[str]) -> "MultiTaskData":
        """Return the same data with only some of its tasks, in the given order.

        Rows without any label of these tasks are dropped.

        Raises:
            InvalidInputError: a name is unknown or given twice, or a split becomes empty.

        Example:
            >>> from qmtl.data import digits
            >>> digits().subset(["ink"]).tasks[0].name
            'ink'
        """
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        chosen = check_tasks([self.task(name) for name in names])
        parts = {}
        for part, split in self.splits.items():
            targets = {task.name: split.targets[task.name] for task in chosen}
            kept = labelled_rows(chosen, targets).any(dim=0)
            parts[part] = replace(split, targets=targets).take(kept)
        return replace(self, tasks=chosen, **parts)  # type: ignore[arg-type]

    def with_class_weights(
        self, weights: str | Mapping[str, str | Sequence[float]] = "balanced"
    ) -> "MultiTaskData":
        """Return the same data whose tasks weigh their classes in the loss.

        Make the head from the tasks of the result, since the model's tasks compute the losses.

        Args:
            weights: task → its weights, as `qmtl.Task` takes them, or ``"balanced"``: inversely
                proportional to the number of training labels of each class (in a multilabel task,
                they apply to each label's positives). ``"balanced"`` alone is for all
                classification tasks.

        Raises:
            InvalidInputError: a name is unknown, or weights do not fit their task.

        Example:
            >>> from qmtl.data import from_arrays
            >>> data = from_arrays(torch.zeros(40, 2), {"rare": [0, 0, 0, 1] * 10})
            >>> data.with_class_weights("balanced").task("rare").class_weights
            (0.6666666666666666, 2.0)
        """
        if isinstance(weights, str) and weights == "balanced":
            weights = {task.name: "balanced" for task in self.tasks if task.is_classification}
        if not isinstance(weights, Mapping):
            raise InvalidInputError(
                f"class_weights: expected 'balanced' or a dict from task to weights, got "
                f"{weights!r}"
            )
        tasks = {task.name: task for task in self.tasks}
        for name, own in weights.items():
            if name not in tasks:
                raise unknown_name("task in class_weights:", name, tasks)
            balanced = isinstance(own, str) and own == "balanced"
            found: Any = _balanced(tasks[name], self.train) if balanced else own
            tasks[name] = replace(tasks[name], class_weights=found)
        return replace(self, tasks=tuple(tasks.values()))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={len(split)}" for name, split in self.splits.items())
        tasks = ", ".join(f"{task.name} ({task.kind})" for task in self.tasks)
        shape = tuple(self.train.inputs.shape[1:])
        return f"MultiTaskData({self.name!r}, inputs={shape}, {sizes}, tasks: {tasks})"


class DataSection(Section):
    """The section ``[data]`` of a recipe. Each data set defines a subclass beside its loader.

    Attributes:
        source: name of the data set; each subclass has its own.
        tasks: names of the tasks to keep, in this order; None for all.
        seed: seed of the splits.
        class_weights: see `MultiTaskData.with_class_weights`.
        metrics: a table from task to the names of its metrics, the main one first.
    """

    source: str
    tasks: list[str] | None = None
    seed: Seed = 0
    class_weights: Literal["balanced"] | dict[str, Literal["balanced"] | list[float]] | None = None
    metrics: dict[str, list[str]] | None = None

    @abstractmethod
    def load(self) -> MultiTaskData:
        """Return the data that the section describes, split."""

    def load_tasks(self) -> tuple[Task, ...]:
        """Return the tasks alone; a subclass that knows them does not read the data."""
        return self.load().tasks

    def given(self, *keys: str) -> dict[str, Any]:
        """Return the values of these keys that are set (not None).

        Without keys, return those of all fields that the subclass adds, except `path`.
        """
        own = set(type(self).model_fields) - {*DataSection.model_fields, "path"}
        return {key: getattr(self, key) for key in keys or own if getattr(self, key) is not None}


AnyDataSection = Annotated[DataSection, OneOf("source")]
"""A field of a recipe that holds the section of any data set."""


def take_splits(rows: Split, indices: Indices) -> tuple[Split, Split, Split]:
    """Return the rows of the train, validation and test split."""
    train, validation, test = (rows.take(part) for part in indices)
    return train, validation, test


def _balanced(task: Task, rows: Split) -> tuple[float, ...]:
    """Return weights that give every class the same share of the loss; 1 for an empty class."""
    targets = rows.targets[task.name]
    weights = torch.ones(len(rows)) if rows.sample_weight is None else rows.sample_weight
    if task.kind == "multilabel":
        pairs = [(weights[c == 0].sum(), weights[c == 1].sum()) for c in targets.T]
        return tuple(float(no / yes) if no * yes > 0 else 1.0 for no, yes in pairs)
    if not task.is_classification:
        raise InvalidInputError(
            f"class_weights: task {task.name!r} is {task.kind} and has no classes"
        )
    classes = range(max(2, task.n_outputs))
    counts = [float(weights[targets == label].sum()) for label in classes]
    return tuple(sum(counts) / (len(counts) * n) if n else 1.0 for n in counts)


def _check_split(name: str, split: Split, tasks: tuple[Task, ...]) -> None:
    if not len(split):
        raise InvalidInputError(f"data: the {name} split is empty; it needs at least one row")
    if split.inputs.ndim < 2 or split.inputs.dtype != torch.float32:
        raise InvalidInputError(
            f"data: {name} inputs must be float32 of shape (N, ...), got {split.inputs.dtype} "
            f"{tuple(split.inputs.shape)}"
        )
    _check_targets(name, split, tasks)
    if len(split.index) != len(split):
        raise InvalidInputError(
            f"data: {name} has {len(split)} rows of inputs but {len(split.index)} row numbers"
        )
    weights = row_weights(split.sample_weight, len(split))
    if weights is not None and not bool((weights > 0).all()):
        raise InvalidInputError(
            f"data: {name} has rows of weight 0; leave them out, as from_arrays and from_frame do"
        )
    # The sum takes a tenth of the time, and is finite only if all numbers are.
    if not bool(split.inputs.sum().isfinite()) and not bool(split.inputs.isfinite().all()):
        bad = ~split.inputs.flatten(1).isfinite().all(dim=1)
        first = int(split.index[int(bad.long().argmax())])
        raise InvalidInputError(
            f"data: {name} inputs must be finite, but {int(bad.sum())} of {len(split)} rows hold "
            f"NaN or infinity; the first is row {first}"
        )


def _check_targets(name: str, split: Split, tasks: tuple[Task, ...]) -> None:
    names = [task.name for task in tasks]
    for target in split.targets:
        if target not in names:
            raise unknown_name(f"target in the {name} split:", target, names)
    for task in tasks:
        if task.name not in split.targets:
            raise InvalidInputError(f"data: the {name} split has no target for task '{task.name}'")
        values = split.targets[task.name]
        if len(values) != len(split):
            raise InvalidInputError(
                f"data: {name} has {len(split)} rows of inputs but {len(values)} targets of "
                f"task '{task.name}'"
            )
        canonical = task.to_targets(values)
        if values.dtype != canonical.dtype or values.shape != canonical.shape:
            raise InvalidInputError(
                f"data: {name} targets of task '{task.name}' must come from Task.to_targets: "
                f"expected {canonical.dtype} {tuple(canonical.shape)}, got {values.dtype} "
                f"{tuple(values.shape)}"
            )
