"""Groups of tasks that share nothing, so that they can be computed together and separated again."""

from collections.abc import Mapping, Sequence

__all__ = ["tasks_apart"]


def tasks_apart(columns: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Groups of tasks without a common column; each task joins the first group that it can.

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
