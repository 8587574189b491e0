"""A benchmark: heads with the same encoder, splits, seeds and number of settings."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, as_path
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
from qmtl.experiments._run_folder import machine
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

# Paths in [data]: the key hashes their content, by `fingerprint`, and not their names.
PATHS = ("path", "text_model", "images", "audio", "visual")


@dataclass(frozen=True)
class BenchCell(Cell):
    """One training run: a head (or `PROBE`), a seed, a setting, and the data's `fingerprint`."""

    recipe: Recipe
    head: str
    seed: int
    setting: Setting
    data: str
    finds: ClassVar[type] = CellResult

    def depends_on(self) -> Any:
        """Return the recipe without keys that do not change the result, such as the data's folders.

        Unset keys are left out: a key that a later version adds must not invalidate cells.
        """
        irrelevant = {"name", "compare", "logging", "bench"}
        content = self.recipe.model_dump(mode="json", exclude_none=True, exclude=irrelevant)
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
        targets = data.train.targets
        return CellResult(
            **vars(trained),
            main_metrics={task.name: task.main_metric for task in data.tasks},
            rows={t.name: int(t.labelled(targets[t.name]).sum()) for t in data.tasks},
            environment=machine(),
        )


def _with_files(content: Any) -> Any:
    """Replace each path of a file by a hash of the file's content."""
    if isinstance(content, dict):
        return {key: _with_files(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_files(value) for value in content]
    # Without a suffix, the text may be the name of a head or an activation and of a file.
    if isinstance(content, str) and Path(content).suffix and Path(content).is_file():
        return hashlib.sha256(Path(content).read_bytes()).hexdigest()
    return content


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Return every combination of the grid's values, in order; the last key changes fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def cell_of(recipe: Recipe, head: str, seed: int, setting: Setting, data: str) -> BenchCell:
    """Return the cell of a recipe for a head, a seed and a setting."""
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
    """Return a recipe's data for a seed; shuffle the tasks by the seed if the recipe requests it.

    Tasks that predict probabilities also get the calibration error (``ece``) as their last metric.
    """
    content = recipe.model_dump(mode="json", include={"data", "encoder"})
    data = _load(recipe_from(content).model_dump_json())
    if recipe.bench.shuffle_tasks:
        names = [task.name for task in data.tasks]
        order = np.random.default_rng(seed).permutation(len(names))
        data = data.subset([names[i] for i in order])
    return in_order(recipe, data)


# The cells of one seed run one after another and share their data.
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

    Results go to the subfolder ``cells`` of `out`. For `report` and `workers` (by default processes
    on this machine) see `run_cells`.

    Raises:
        InvalidInputError: for a mistake that every cell shares: an unknown key of the grid, a head
            that cannot be built, or a main metric for which lower is better.

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
    section, settings = recipe.bench, settings_of(recipe.bench.grid)
    # With a single setting there is nothing to choose.
    searched = section.search_seeds if len(settings) > 1 else section.seeds
    n_search = min(searched, section.seeds)
    prints: dict[int, str] = {}
    # Embeddings of texts are computed here once, and cached for the cells.
    for seed in reversed(range(section.first_seed, section.first_seed + section.seeds)):
        values = {"data.seed": seed, "encoder.seed": seed, "bench.shuffle_tasks": False}
        data = cell_data(recipe.with_values(values), seed)
        prints[seed] = fingerprint(data)
    _check_data(recipe, data)

    def cells_of(head: str, setting: Setting) -> list[BenchCell]:
        return [cell_of(recipe, head, seed, setting, prints[seed]) for seed in sorted(prints)]

    cells: dict[RivalType, list[list[BenchCell]]] = {
        head: [cells_of(head, setting) for setting in settings] for head in section.heads
    }
    for head, by_setting in cells.items():
        check_rival(by_setting[-1][0].recipe, data, head)
    probes = cells_of(PROBE, {}) if section.probe else []
    # The cells of one seed run one after another and share their data.
    first = [own for by_setting in cells.values() for own in by_setting]
    search: list[BenchCell] = []
    for number in range(section.seeds):
        search += probes[number : number + 1]
        search += [own[number] for own in first if number < n_search]
    store, workers = CellStore(as_path(out, "out") / "cells"), workers or Workers()
    records = run_cells(search, store, workers, report)
    chosen: dict[RivalType, tuple[Setting, list[BenchCell]]] = {}
    for head, by_setting in cells.items():
        best = choose_setting([_results(own[:n_search], records) for own in by_setting])
        if best is not None:
            chosen[head] = settings[best], by_setting[best]
    rest = [own[n] for n in range(n_search, section.seeds) for _, own in chosen.values()]
    records |= run_cells(rest, store, workers, report)
    scores = [
        HeadScores(head, setting, tuple(_results(own, records)))
        for head, (setting, own) in chosen.items()
    ]
    probe = HeadScores(PROBE, {}, tuple(_results(probes, records)))
    return BenchSummary(
        recipe.name,
        tuple(one for one in scores if any(one.results)),
        probe if any(probe.results) else None,
        tuple(record for record in records.values() if isinstance(record, Failure)),
        section.seeds,
        len(settings),
        n_search,
        section.first_seed,
    )


def _results(cells: Sequence[BenchCell], records: Mapping[str, Any]) -> list[CellResult | None]:
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
