"""Sequences of tasks with distinct names, and choices among them."""

from collections.abc import Collection, Iterable, Sequence

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks._task import Task

__all__ = ["check_tasks", "chosen_tasks"]


def check_tasks(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks as a tuple, after checking that there are some and no two share a name.

    Raises:
        InvalidInputError: none, something that is no Task, or a duplicate (with both positions).

    Example:
        >>> len(check_tasks([Task.binary("a"), Task.regression("b")]))
        2
    """
    if isinstance(tasks, Task | str) or not isinstance(tasks, Iterable):
        raise InvalidInputError(f"tasks: expected a sequence of Task, got {tasks!r}")
    found = tuple(tasks)
    if not found:
        raise InvalidInputError("tasks: expected at least one Task, got none")
    first: dict[str, int] = {}
    for position, task in enumerate(found):
        if not isinstance(task, Task):
            raise InvalidInputError(f"tasks: expected a Task at position {position}, got {task!r}")
        if task.name in first:
            raise InvalidInputError(
                f"tasks: the name '{task.name}' is used twice, at positions {first[task.name]} "
                f"and {position}; names must differ"
            )
        first[task.name] = position
    return found


def chosen_tasks(names: Sequence[str] | None, known: Collection[str]) -> tuple[str, ...]:
    """Names of tasks, in the order asked for; all known ones for None.

    Raises:
        InvalidInputError: for a string, and for names that are unknown or come twice.

    Example:
        >>> chosen_tasks(["b"], ["a", "b"]), chosen_tasks(None, ["a", "b"])
        (('b',), ('a', 'b'))
    """
    if names is None:
        return tuple(known)
    if isinstance(names, str):
        raise InvalidInputError(f"tasks must be a sequence of names, got the string {names!r}")
    chosen = tuple(names)
    for name in chosen:
        if name not in known:
            raise unknown_name("task", name, known)
    if len(set(chosen)) < len(chosen):
        raise InvalidInputError(f"tasks must be distinct, got {list(chosen)}")
    return chosen
