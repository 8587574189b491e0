"""A benchmark: heads with the same encoder, splits, seeds and number of settings."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError
from qmtl.experiments._bench_summary import (
    BenchSummary,
    CellResult,
    HeadScores,
    Setting,
    choose_setting,
)
from qmtl.experiments._build import PROBE, build_data, in_order
from qmtl.experiments._recipe import SEED_KEYS, SINGLE_TASK, Recipe, RivalType, recipe_from
from qmtl.experiments._rivals import check_rival, linear_probe, train_rival
from qmtl.experiments._run import machine
from qmtl.experiments._sweep import (
    Cell,
    CellStore,
    Failure,
    Report,
    Workers,
    fingerprint,
    run_cells,
)
from qmtl.tasks import METRICS, metric_names
from qmtl.training import LOWER_IS_BETTER

# Keys of [data] with paths, whose content is part of `fingerprint`.
PATHS = ("path", "text_model", "images", "audio", "visual")


@dataclass(frozen=True)
class BenchCell(Cell):
    """One training run: a head (or `PROBE`), a seed and a setting, one point of the grid.

    `data` is the `fingerprint` of the data with this seed.
    """

    recipe: Recipe
    head: str
    seed: int
    setting: Setting
    data: str
    finds: ClassVar[type] = CellResult

    def depends_on(self) -> Any:
        """Return the recipe without keys that do not change the result, such as the data's folders.

        The content of a file, such as a design's, stands in place of its path. Unset keys are left
        out, so that a key added by a later version does not invalidate stored cells.
        """
        content = self.recipe.model_dump(mode="json", exclude_none=True)
        for irrelevant in ("name", "compare", "logging"):
            del content[irrelevant]
        content["bench"] = {"shuffle_tasks": self.recipe.bench.shuffle_tasks}
        for path in PATHS:
            content["data"].pop(path, None)
        if self.head == PROBE:
            # The probe depends on the data only.
            content = {"data": content["data"]}
        return _with_files([self.head, self.seed, self.setting, self.data, content])

    @property
    def label(self) -> str:
        values = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in self.setting.items())
        return f"{self.head}, seed {self.seed}" + (f", {values}" if values else "")

    def run(self) -> CellResult:
        data = cell_data(self.recipe, self.seed)
        if self.head == PROBE:
            trained = linear_probe(data)
        else:
            trained = train_rival(self.recipe, data, cast(RivalType, self.head))
        labelled = {task.name: task.labelled(data.train.targets[task.name]) for task in data.tasks}
        return CellResult(
            **vars(trained),
            main_metrics={task.name: task.main_metric for task in data.tasks},
            rows={name: int(rows.sum()) for name, rows in labelled.items()},
            environment=machine(),
        )


def _with_files(content: Any) -> Any:
    """Replace each path of a file by a hash of the file's content."""
    if isinstance(content, dict):
        return {key: _with_files(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_files(value) for value in content]
    # A file without a suffix may have the name of a head or of an activation.
    if isinstance(content, str) and Path(content).suffix and os.path.isfile(content):
        return _hash(content, os.stat(content).st_mtime_ns)
    return content


@lru_cache
def _hash(path: str, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Return every combination of the grid's values, in order; the last key changes fastest.

    Example:
        >>> settings_of({"a": [1, 2], "b": [3]})
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def cell_of(recipe: Recipe, head: str, seed: int, setting: Setting, data: str) -> BenchCell:
    """Return the cell of a recipe for a head, a seed and a setting.

    Raises:
        RecipeError: if the setting has an unknown key, or a value that does not fit.
        InvalidInputError: if the setting has a key that the benchmark itself sets.

    Example:
        >>> from qmtl.experiments import read_recipe
        >>> rates = {"training.learning_rate": 0.01}
        >>> cell_of(read_recipe("digits"), "linear", 1, rates, "0").label
        'linear, seed 1, learning_rate 0.01'
    """
    for key in setting:
        if key in (*SEED_KEYS, "head.type") or key.split(".")[0] in ("bench", "compare", "name"):
            raise InvalidInputError(
                f"grid: {key!r} is not for a grid: heads and seeds have options of their own"
            )
    values = {**dict.fromkeys(SEED_KEYS, seed), **setting, "compare": []}
    if head not in (PROBE, SINGLE_TASK):
        values["head.type"] = head
    return BenchCell(recipe.with_values(values), head, seed, setting, data)


def cell_data(recipe: Recipe, seed: int) -> MultiTaskData:
    """Return a recipe's data in the form that a cell uses.

    Tasks that predict probabilities also get the calibration error (``ece``) as their last metric.
    The seed shuffles the tasks if the recipe says so.
    """
    content = {"data": recipe.data, "encoder": recipe.encoder}
    dumped = {key: section.model_dump(mode="json") for key, section in content.items()}
    data = _load(recipe_from(dumped).model_dump_json())
    if recipe.bench.shuffle_tasks:
        names = [task.name for task in data.tasks]
        order = np.random.default_rng(seed).permutation(len(names))
        data = data.subset([names[i] for i in order])
    return in_order(recipe, data)


# The cells of one seed come one after another and share their data.
@lru_cache(maxsize=1)
def _load(recipe: str) -> MultiTaskData:
    data = build_data(Recipe.model_validate_json(recipe))
    tasks = []
    for task in data.tasks:
        names = metric_names(task)
        calibrated = "ece" in METRICS[task.kind] and "ece" not in names
        tasks.append(replace(task, metric_names=(*names, "ece")) if calibrated else task)
    return replace(data, tasks=tuple(tasks))


def bench(
    recipe: Recipe, out: str | Path, workers: Workers | None = None, report: Report | None = None
) -> BenchSummary:
    """Train every head of ``recipe.bench`` on every seed, each at its best setting.

    Every head chooses among the same settings, by the mean of the main metrics over tasks on the
    validation splits of the first seeds; the other seeds run with the chosen setting only. Cells
    with a result in the folder are not run again.

    Args:
        recipe: data, encoder, circuit, training, and the heads to compare.
        out: output folder; results go to its subfolder ``cells``.
        workers: where cells run; None for the processes of this machine.
        report: called with every cell that has been run and its result.

    Raises:
        InvalidInputError: for an error that every cell would have: an unknown key of the grid, a
            head that cannot be built, or a main metric that is an error.

    Example:
        >>> import tempfile
        >>> from qmtl.experiments import read_recipe
        >>> small = ["training.max_epochs=1", "bench.seeds=1", "bench.grid={}",
        ...          'bench.heads=["linear"]', 'data.tasks=["parity"]', "bench.probe=false"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = bench(read_recipe("digits", small), folder, Workers(jobs=1))
        >>> [scores.head for scores in summary.heads], summary.n_settings
        (['linear'], 1)
    """
    plan = _Plan(recipe)
    store, workers = CellStore(Path(out) / "cells"), workers or Workers()
    records = run_cells(plan.search(), store, workers, report)
    chosen: dict[str, Setting | None] = {h: plan.choose(h, records) for h in plan.heads}
    records |= run_cells(plan.rest(chosen), store, workers, report)
    heads = [plan.scores(head, setting, records) for head, setting in chosen.items()]
    return BenchSummary(
        recipe.name,
        tuple(scores for scores in heads if scores is not None),
        plan.scores(PROBE, {}, records) if recipe.bench.probe else None,
        tuple(record for record in records.values() if isinstance(record, Failure)),
        recipe.bench.seeds,
        len(plan.settings),
        plan.n_search,
        recipe.bench.first_seed,
    )


class _Plan:
    """The cells of a recipe's benchmark, checked before any of them runs."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.heads: list[RivalType] = list(dict.fromkeys(recipe.bench.heads))
        self.settings = settings_of(recipe.bench.grid)
        # With a single setting there is nothing to choose.
        searched = recipe.bench.search_seeds if len(self.settings) > 1 else recipe.bench.seeds
        self.n_search = min(searched, recipe.bench.seeds)
        # Embeddings of texts are computed here once, and cached for the cells.
        self.data: list[str] = []
        for number in reversed(range(recipe.bench.seeds)):
            seed = recipe.bench.first_seed + number
            values = {"data.seed": seed, "encoder.seed": seed, "bench.shuffle_tasks": False}
            data = cell_data(recipe.with_values(values), seed)
            self.data.insert(0, fingerprint(data))
        _check_data(recipe, data)
        for head in self.heads:
            for setting in self.settings:
                cell = self.cell(head, 0, setting)
            check_rival(cell.recipe, data, head)

    def cell(self, head: str, number: int, setting: Setting) -> BenchCell:
        """Return the cell of the seed with this number, counted from 0."""
        seed = self.recipe.bench.first_seed + number
        return cell_of(self.recipe, head, seed, setting, self.data[number])

    def search(self) -> list[BenchCell]:
        """Return all settings on the search seeds, and the probe; cells of one seed together."""
        cells = []
        for seed in range(self.recipe.bench.seeds):
            if self.recipe.bench.probe:
                cells.append(self.cell(PROBE, seed, {}))
            if seed < self.n_search:
                cells += [self.cell(h, seed, s) for h in self.heads for s in self.settings]
        return cells

    def choose(self, head: str, records: Mapping[str, Any]) -> Setting | None:
        """Return the head's best setting on validation; None if every setting has failed."""
        found = {
            number: self._results(head, setting, records, self.n_search)
            for number, setting in enumerate(self.settings)
        }
        return choose_setting(found, self.settings)

    def rest(self, chosen: Mapping[str, Setting | None]) -> list[BenchCell]:
        """Return the cells of the chosen settings on the other seeds."""
        return [
            self.cell(head, seed, setting)
            for seed in range(self.n_search, self.recipe.bench.seeds)
            for head, setting in chosen.items()
            if setting is not None
        ]

    def scores(
        self, head: str, setting: Setting | None, records: Mapping[str, Any]
    ) -> HeadScores | None:
        """Return the head's scores at the chosen setting; None if it has no result."""
        if setting is None:
            return None
        results = self._results(head, setting, records, self.recipe.bench.seeds)
        return HeadScores(head, setting, tuple(results)) if any(results) else None

    def _results(
        self, head: str, setting: Setting, records: Mapping[str, Any], n_seeds: int
    ) -> list[CellResult | None]:
        cells = [self.cell(head, seed, setting) for seed in range(n_seeds)]
        found = [records.get(cell.key) for cell in cells]
        return [record if isinstance(record, CellResult) else None for record in found]


def _check_data(recipe: Recipe, data: MultiTaskData) -> None:
    wrong = {
        task.name: task.main_metric for task in data.tasks if task.main_metric in LOWER_IS_BETTER
    }
    if wrong:
        raise InvalidInputError(
            f"bench takes the mean of the tasks' main metrics, of which higher must be better; "
            f"put another metric first for: {wrong}"
        )
    if recipe.training.devices != 1:
        raise InvalidInputError(
            f"bench runs every cell in one process: training.devices must be 1, got "
            f"{recipe.training.devices}"
        )
    lists = [key for key, value in recipe.training.options.items() if isinstance(value, list)]
    if recipe.bench.shuffle_tasks and lists:
        raise InvalidInputError(
            f"training.options.{lists[0]} has one number per task, in a fixed order, but the "
            f"seeds shuffle the tasks; set bench.shuffle_tasks to false"
        )
