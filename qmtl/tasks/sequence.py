"""`check_tasks`: a sequence of tasks with distinct names."""

from collections.abc import Iterable

from qmtl.errors import InvalidInputError
from qmtl.tasks.task import Task

__all__ = ["check_tasks"]


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
