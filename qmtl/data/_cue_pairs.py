"""Tasks with two cues (where to look, what to answer); some pairs of cues are never trained."""

from typing import Literal, get_args

import numpy as np
import torch
from pydantic import Field

from qmtl.data._dataset import DataSection, MultiTaskData, Split
from qmtl.data._splits import check_seed
from qmtl.errors import InvalidInputError, check_integer, unknown_name
from qmtl.tasks import Task

Structure = Literal["ring", "blocks"]


class CuePairsSection(DataSection):
    """Recipe section of `cue_pairs`."""

    source: Literal["cue-pairs"] = "cue-pairs"
    n_cues: int = Field(6, ge=2)
    degree: int = Field(3, ge=1)
    structure: Structure = "ring"
    n_rows: int = Field(3000, ge=1)

    def load(self) -> MultiTaskData:
        data = cue_pairs(seed=self.seed, **self.given())
        return data if self.tasks is None else data.subset(self.tasks)


def cue_pairs(
    *,
    n_cues: int = 6,
    degree: int = 3,
    structure: Structure = "ring",
    n_rows: int = 3000,
    seed: int = 0,
) -> MultiTaskData:
    """Make binary tasks on a stimulus with one place per cue and two numbers in each place.

    The inputs contain a cue, which selects one place. The two numbers in this place are a point;
    task ``j`` asks on which side of the line at the angle ``π·j / n_cues`` the point lies. Every
    training row has a label of one task. The trained pairs of cue and task are the edges of a
    graph; the test split has labels of the other pairs. Denser graphs have fewer labels per pair.

    Args:
        n_cues: number of cues, and of tasks.
        degree: number of tasks that each cue is trained with, below `n_cues`.
        structure: ``"ring"``, a connected graph (of a degree of 2 or more); ``"blocks"``, groups of
            `degree` cues and `degree` tasks, each fully connected, with nothing between groups.
        n_rows: number of training rows. Validation has a fifth as many, of the trained pairs; test
            has 50 for each cue, with labels of all tasks that the cue was not trained with.
        seed: seed of the stimuli, and of the position of each cue and task in the graph.

    Returns:
        Inputs (N, 3·n_cues): the stimulus, then the cue, one-hot times 2.

    Raises:
        InvalidInputError: a number does not fit; the error names it.

    Example:
        >>> data = cue_pairs(n_cues=4, degree=1, n_rows=100)
        >>> data
        MultiTaskData('cue-pairs', inputs=(12,), train=100, validation=20, test=200,
        tasks: rule_0 (binary), rule_1 (binary), rule_2 (binary), rule_3 (binary))

    References:
        Inspired by Zhang, Senoussi and Verguts, arXiv:2604.13281.
    """
    n_cues = check_integer("n_cues", n_cues, 2)
    if not 1 <= degree < n_cues:
        raise InvalidInputError(
            f"degree must be between 1 and {n_cues - 1}, so that pairs are left to test, got "
            f"{degree}"
        )
    if structure not in get_args(Structure):
        raise unknown_name("structure", structure, get_args(Structure))
    if structure == "blocks" and n_cues % degree:
        raise InvalidInputError(
            f"blocks of degree {degree} need a multiple of {degree} cues, got {n_cues}"
        )
    if n_rows < n_cues * degree:
        raise InvalidInputError(
            f"n_rows must be at least one per trained pair, {n_cues * degree}, got {n_rows}"
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    edges = np.zeros((n_cues, n_cues), bool)
    for cue in range(n_cues):
        start = cue if structure == "ring" else cue // degree * degree
        edges[cue, np.arange(start, start + degree) % n_cues] = True
    edges = edges[rng.permutation(n_cues)][:, rng.permutation(n_cues)]
    pairs = np.argwhere(edges)
    tasks = tuple(Task.binary(f"rule_{j}") for j in range(n_cues))

    def split(cues: np.ndarray, known: np.ndarray) -> Split:
        stimulus = rng.normal(size=(len(cues), n_cues, 2))
        angles = np.pi * np.arange(n_cues) / n_cues
        sides = stimulus[np.arange(len(cues)), cues] @ np.stack([np.cos(angles), np.sin(angles)])
        answers = np.where(known, sides > 0, np.nan)
        inputs = np.concatenate([stimulus.reshape(len(cues), -1), 2 * np.eye(n_cues)[cues]], 1)
        targets = {task.name: task.to_targets(answers[:, j]) for j, task in enumerate(tasks)}
        return Split(torch.from_numpy(inputs).float(), targets)

    def of_pairs(n: int) -> Split:
        chosen = pairs[rng.permutation(np.resize(np.arange(len(pairs)), n))]
        return split(chosen[:, 0], np.eye(n_cues, dtype=bool)[chosen[:, 1]])

    train = of_pairs(n_rows)
    validation = of_pairs(max(n_rows // 5, len(pairs)))
    cues = np.repeat(np.arange(n_cues), 50)
    return MultiTaskData(
        "cue-pairs", tasks, train, validation, split(cues, ~edges[cues]), split_seed=int(seed)
    )
