"""The tasks of a table: which columns hold their labels, and what the cells mean."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from qmtl.data._columns import is_blank, parse_number, read_numbers
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, check_tasks, infer_task

__all__ = ["label_columns", "read_labels", "table_tasks"]

Rows = Sequence[dict[str, str]]

_KINDS = ("binary", "multiclass", "multilabel", "regression")


def table_tasks(targets: Any, header: Sequence[str], rows: Rows) -> tuple[Task, ...]:
    """The tasks that `from_csv` was asked for: given, named with a kind, or named only.

    Raises:
        InvalidInputError: an unknown column or kind, or a column whose kind is not clear.

    Example:
        >>> table_tasks({"a": "regression"}, ["x", "a"], [{"x": "1", "a": "2"}])[0].kind
        'regression'
    """
    if isinstance(targets, str | Task) or not isinstance(targets, Iterable):
        raise InvalidInputError(
            f"targets: expected tasks, column names or a dict of kinds, got {targets!r}"
        )
    if isinstance(targets, Mapping):
        pairs = list(targets.items())
    else:
        pairs = [(t.name if isinstance(t, Task) else t, t if isinstance(t, Task) else None)
                 for t in targets]  # fmt: skip
    tasks = []
    for name, wanted in pairs:
        if isinstance(wanted, Task):
            if wanted.name != name:
                raise InvalidInputError(
                    f"targets: the key '{name}' holds a task named '{wanted.name}'; use one name"
                )
            tasks.append(wanted)
            continue
        if name not in header:
            raise unknown_name("target column", name, header)
        tasks.append(_task_of_kind(name, wanted, [row[name] for row in rows]))
    return check_tasks(tasks)


def label_columns(task: Task, header: Sequence[str]) -> tuple[str, ...]:
    """The columns with the task's labels: the one of its name, or those of its class names.

    Raises:
        InvalidInputError: a column does not exist.

    Example:
        >>> label_columns(Task.multilabel("finding", 2, class_names=("a", "b")), ["x", "a", "b"])
        ('a', 'b')
    """
    several = task.kind in ("multilabel", "regression") and task.n_outputs > 1
    columns: tuple[str, ...] = (task.name,)
    if task.class_names and (several or (task.kind == "multilabel" and task.name not in header)):
        columns = task.class_names
    elif several:
        raise InvalidInputError(
            f"targets: task '{task.name}' has {task.n_outputs} outputs; name their columns in its "
            f"class_names"
        )
    for column in columns:
        if column not in header:
            raise unknown_name("target column", column, header)
    return columns


def read_labels(task: Task, columns: Sequence[str], rows: Rows) -> Tensor:
    """The task's canonical targets; a blank cell is a missing label.

    Raises:
        InvalidInputError: a cell is no label of the task; its row in the file is named.

    Example:
        >>> task = Task.binary("a", class_names=("no", "yes"))
        >>> read_labels(task, ["a"], [{"a": "yes"}, {"a": ""}])
        tensor([1., nan])
    """
    if task.kind == "regression":
        numbers = [read_numbers(name, [row[name] for row in rows], 2) for name in columns]
        return task.to_targets(list(zip(*numbers, strict=True)), first_row=2)
    cells = [[None if is_blank(row[name]) else row[name] for name in columns] for row in rows]
    given = [cell for row in cells for cell in row if cell is not None]
    by_name = task.kind != "multilabel" and any(cell in (task.class_names or ()) for cell in given)
    if by_name:
        return task.to_targets(cells, first_row=2)
    # A cell that is no number stays a text, so that the task names it in its error.
    numbers_or_texts = [[_number_or_text(cell) for cell in row] for row in cells]
    return task.to_targets(numbers_or_texts, first_row=2)


def _number_or_text(cell: str | None) -> float | str | None:
    number = None if cell is None else parse_number(cell)
    return cell if number is None else number


def _task_of_kind(name: str, kind: str | None, cells: list[str]) -> Task:
    if kind is not None and kind not in _KINDS:
        raise unknown_name(f"kind of target '{name}':", kind, _KINDS)
    if kind == "multilabel":
        raise InvalidInputError(
            f"targets: '{name}': 'multilabel' does not say which columns; pass "
            f"Task.multilabel('{name}', n, class_names=columns)"
        )
    if kind == "regression":
        return Task.regression(name)
    given = [cell for cell in cells if not is_blank(cell)]
    numbers = [parse_number(cell) for cell in given]
    numeric = all(number is not None for number in numbers)
    if kind is None or not given:
        return infer_task(name, numbers if numeric else given)
    return _classes_of(name, kind, given, numbers if numeric else None)


def _classes_of(name: str, kind: str, given: list[str], numbers: list[Any] | None) -> Task:
    """A task of a given kind; classes that are not 0..C-1 become class names."""
    if numbers is not None:
        counts = {number for number in numbers if number != -100}
        if kind == "binary" and counts <= {0.0, 1.0}:
            return Task.binary(name)
        if kind == "multiclass" and len(counts) > 1 and counts == set(range(len(counts))):
            return Task.multiclass(name, len(counts))
    names = sorted(set(given), key=None if numbers is None else float)
    if (kind == "binary" and len(names) != 2) or len(names) < 2:
        raise InvalidInputError(
            f"targets: column '{name}' as {kind}: expected "
            f"{'2' if kind == 'binary' else 'at least 2'} classes, got {len(names)} "
            f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        )
    if kind == "binary":
        return Task.binary(name, class_names=names)
    return Task.multiclass(name, len(names), class_names=names)
