"""A benchmark: heads on the same encoder, splits, seeds and number of settings."""

from collections.abc import Mapping
from pathlib import Path

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError
from qmtl.experiments._cells import CellResult, CellStore, Failure
from qmtl.experiments._grid import PROBE, Cell, Setting, cell_of, fingerprint, settings_of
from qmtl.experiments._recipe import Recipe, RivalType
from qmtl.experiments._rivals import check_rival
from qmtl.experiments._run_cell import cell_data
from qmtl.experiments._summary import BenchSummary, HeadScores, choose_setting
from qmtl.experiments._sweep import Record, Report, Workers, run_cells

__all__ = ["bench"]

ERRORS = ("mse", "mae", "ece")


def bench(
    recipe: Recipe, out: str | Path, workers: Workers | None = None, report: Report | None = None
) -> BenchSummary:
    """Train every head of ``recipe.bench`` on every seed, each at its best setting.

    The setting is chosen for every head among the same ones, by the main metrics' mean over tasks
    on the validation splits of the first seeds; the other seeds run with it only. Cells that the
    folder has results of are not run again.

    Args:
        recipe: data, encoder, circuit, training, and what to compare.
        out: folder; results go to its subfolder ``cells``.
        workers: where cells run; None for the processes of this machine.
        report: called with every cell that has been run and its result.

    Raises:
        InvalidInputError: for what no cell could run with: an unknown key of the grid, a head that
            cannot be built, a main metric that is an error.

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
    )


class _Plan:
    """The cells of a recipe's benchmark, checked before any of them runs."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.heads: list[RivalType] = list(dict.fromkeys(recipe.bench.heads))
        self.settings = settings_of(recipe.bench.grid)
        # There is nothing to choose among one setting.
        searched = recipe.bench.search_seeds if len(self.settings) > 1 else recipe.bench.seeds
        self.n_search = min(searched, recipe.bench.seeds)
        # Embeddings of texts are computed here, once, and cached for the cells.
        self.data: list[str] = []
        for seed in reversed(range(recipe.bench.seeds)):
            values = {"data.seed": seed, "encoder.seed": seed, "bench.shuffle_tasks": False}
            data = cell_data(recipe.with_values(values), seed)
            self.data.insert(0, fingerprint(data))
        _check_data(recipe, data)
        for head in self.heads:
            for setting in self.settings:
                cell = self.cell(head, 0, setting)
            check_rival(cell.recipe, data, head)

    def cell(self, head: str, seed: int, setting: Setting) -> Cell:
        return cell_of(self.recipe, head, seed, setting, self.data[seed])

    def search(self) -> list[Cell]:
        """All settings on the search seeds, and the probe; cells of one seed together."""
        cells = []
        for seed in range(self.recipe.bench.seeds):
            if self.recipe.bench.probe:
                cells.append(self.cell(PROBE, seed, {}))
            if seed < self.n_search:
                cells += [self.cell(h, seed, s) for h in self.heads for s in self.settings]
        return cells

    def choose(self, head: str, records: Mapping[str, Record]) -> Setting | None:
        """The head's best setting on validation; None if every setting has failed."""
        found = {
            number: self._results(head, setting, records, self.n_search)
            for number, setting in enumerate(self.settings)
        }
        return choose_setting(found, self.settings)

    def rest(self, chosen: Mapping[str, Setting | None]) -> list[Cell]:
        """The chosen settings on the other seeds."""
        return [
            self.cell(head, seed, setting)
            for seed in range(self.n_search, self.recipe.bench.seeds)
            for head, setting in chosen.items()
            if setting is not None
        ]

    def scores(
        self, head: str, setting: Setting | None, records: Mapping[str, Record]
    ) -> HeadScores | None:
        """The head at the chosen setting; None if it has no result at all."""
        if setting is None:
            return None
        results = self._results(head, setting, records, self.recipe.bench.seeds)
        return HeadScores(head, setting, tuple(results)) if any(results) else None

    def _results(
        self, head: str, setting: Setting, records: Mapping[str, Record], n_seeds: int
    ) -> list[CellResult | None]:
        cells = [self.cell(head, seed, setting) for seed in range(n_seeds)]
        found = [records.get(cell.key) for cell in cells]
        return [record if isinstance(record, CellResult) else None for record in found]


def _check_data(recipe: Recipe, data: MultiTaskData) -> None:
    wrong = {task.name: task.main_metric for task in data.tasks if task.main_metric in ERRORS}
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
