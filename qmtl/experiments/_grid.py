"""The grid of a benchmark: one cell is one training run of one head."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np

from qmtl._version import __version__
from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError
from qmtl.experiments._recipe import SINGLE_TASK, Recipe
from qmtl.heads import HeadType

__all__ = ["PROBE", "Cell", "Setting", "cell_of", "fingerprint", "settings_of"]

PROBE = "linear-probe"
"""The name of the linear probe, which takes the place of a head in its cells."""

# Keys of [data] whose content `fingerprint` sees.
PATHS = ("path", "text_model", "images", "audio", "visual")
SEED_KEYS = ("data.seed", "encoder.seed", "head.seed", "training.seed")
Setting = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training run: a head, a seed and a setting.

    Attributes:
        recipe: resolved: head, seeds and setting are in it.
        head: the type of head, or `PROBE`.
        seed: also of the order of the tasks, if they are shuffled.
        setting: recipe key to value, one point of the grid; empty for the probe.
        data: `fingerprint` of the data with that seed.
    """

    recipe: Recipe
    head: str
    seed: int
    setting: Setting
    data: str

    @property
    def key(self) -> str:
        """SHA-256 of everything that the result depends on, and of the version of qmtl.

        The folders that the data lie in are no part of it, their content is.
        """
        content = self.recipe.model_dump(mode="json")
        for irrelevant in ("name", "compare", "logging"):
            del content[irrelevant]
        content["bench"] = {"shuffle_tasks": self.recipe.bench.shuffle_tasks}
        for path in PATHS:
            content["data"].pop(path, None)
        if self.head == PROBE:
            # The probe reads the data only.
            content = {"data": content["data"]}
        whole = [__version__, self.head, self.seed, self.setting, self.data, content]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Short and unique: head, seed and the beginning of the key."""
        return f"{self.head}-seed{self.seed}-{self.key[:16]}"

    def __str__(self) -> str:
        """Head, seed and setting, for messages."""
        values = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in self.setting.items())
        return f"{self.head}, seed {self.seed}" + (f", {values}" if values else "")


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination of the grid's values, in order; the last key changes fastest.

    Example:
        >>> settings_of({"a": [1, 2], "b": [3]})
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def cell_of(recipe: Recipe, head: str, seed: int, setting: Setting, data: str) -> Cell:
    """The cell of a recipe for a head, a seed and a setting.

    Raises:
        RecipeError: the setting has an unknown key, or a value that does not fit.
        InvalidInputError: the setting has a key that the benchmark itself sets.

    Example:
        >>> from qmtl.experiments import read_recipe
        >>> rates = {"training.learning_rate": 0.01}
        >>> print(cell_of(read_recipe("digits"), "linear", 1, rates, "0"))
        linear, seed 1, learning_rate 0.01
    """
    for key in setting:
        if key in (*SEED_KEYS, "head.type") or key.split(".")[0] in ("bench", "compare", "name"):
            raise InvalidInputError(
                f"grid: {key!r} is not for a grid: heads and seeds have options of their own"
            )
    values = {**dict.fromkeys(SEED_KEYS, seed), **setting, "compare": []}
    if head not in (PROBE, SINGLE_TASK):
        values["head.type"] = cast(HeadType, head)
    return Cell(recipe.with_values(values), head, seed, setting, data)


def fingerprint(data: MultiTaskData) -> str:
    """SHA-256 of the tasks, inputs, labels and row numbers of all splits.

    Example:
        >>> from qmtl.data import digits
        >>> fingerprint(digits()) == fingerprint(digits()) != fingerprint(digits(seed=1))
        True
    """
    digest = hashlib.sha256(json.dumps([task.to_dict() for task in data.tasks]).encode())
    for name, split in data.splits.items():
        tensors = {"inputs": split.inputs, "index": split.index, **split.targets}
        for key, tensor in sorted(tensors.items()):
            array = np.ascontiguousarray(tensor.numpy())
            digest.update(f"{name} {key} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
    return digest.hexdigest()
