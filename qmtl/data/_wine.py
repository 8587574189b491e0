"""scikit-learn's wines with three tasks: a small real table that is part of the installation."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from qmtl._sections import Fractions
from qmtl.data._dataset import DataSection, MultiTaskData
from qmtl.data._tables import from_frame
from qmtl.tasks import Task, chosen_tasks

_TASKS = {
    "cultivar": Task.multiclass("cultivar", 3),
    "alcohol": Task.regression("alcohol"),
    "colour": Task.regression("colour"),
}


class WineSection(DataSection):
    """Recipe section of `wine`."""

    source: Literal["wine"] = "wine"
    splits: Fractions | None = None

    def load(self) -> MultiTaskData:
        return wine(seed=self.seed, tasks=self.tasks, **self.given())


def wine(
    *,
    seed: int = 0,
    splits: Sequence[float] | Mapping[str, Any] = (0.6, 0.2, 0.2),
    tasks: Sequence[str] | None = None,
) -> MultiTaskData:
    """Load 178 wines of three cultivars, with eleven chemical measurements of each.

    Tasks: cultivar (3 classes), alcohol (regression, % by volume) and colour (regression, its
    intensity).

    Args:
        seed: seed of the split, which is stratified by cultivar.
        splits: three fractions, or a dict of row numbers.
        tasks: names of some of the tasks, in the order wanted; None for all.

    Returns:
        Inputs (N, 11), standardised by the train split.

    Raises:
        InvalidInputError: a task is unknown, or the splits do not fit.

    Example:
        >>> data = wine(tasks=["alcohol", "cultivar"])
        >>> data.n_inputs, len(data.train), [task.kind for task in data.tasks]
        (11, 106, ['regression', 'multiclass'])
    """
    from sklearn.datasets import load_wine

    names = chosen_tasks(tasks, _TASKS)
    table = load_wine(as_frame=True).frame
    table = table.rename(columns={"target": "cultivar", "color_intensity": "colour"})
    data = from_frame(table, targets=list(_TASKS.values()), splits=splits, seed=seed, name="wine")
    return data.subset(names)
