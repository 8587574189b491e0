"""Run directories: the files of a trained recipe, which later commands read.

A run directory holds ``recipe.toml`` (resolved), ``environment.json``, ``metrics.csv`` (per epoch)
and ``checkpoints/``; ``process.json`` while a process trains it; and after training ``model/``,
``inputs.json`` (for table data), ``predictions.csv`` and ``results.json``, which is written last.
"""

import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator

from qmtl._io import process_start, write_bytes, write_csv, write_json, write_text
from qmtl.circuit import list_designs
from qmtl.data import MultiTaskData, TableColumns, column_differences
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError, RecipeError, RunDirectoryError, near_paths, unknown_name
from qmtl.experiments._build import build_data, build_model
from qmtl.experiments._recipe import Recipe, read_recipe
from qmtl.model import MultiTaskModel, load
from qmtl.simulators import LightConeSimulator

if TYPE_CHECKING:
    from qmtl.experiments._rivals import Trained
    from qmtl.training import Result


FILE = "process.json"


def training_process(folder: Path) -> str | None:
    """Describe the process that trains a run now; None if there is none.

    A killed process leaves its note behind. On this machine, its number then belongs to no process,
    or to one that started at another time. For another machine it is unknown whether the process
    has ended.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     training_process(Path(folder)) is None
        True
    """
    try:
        note = json.loads((folder / FILE).read_text(encoding="utf-8"))
        host, pid, started = str(note["host"]), int(note["pid"]), float(note["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname():
        return f"process {pid} on {host}"
    return f"process {pid}" if process_start(pid) == started else None


def check_untrained(folder: Path) -> None:
    """Raise if another process trains a run."""
    other = training_process(folder)
    if other is not None and other != f"process {os.getpid()}":
        raise RunDirectoryError(
            f"the run {folder} is being trained by {other}; stop it first"
            f"{f', or remove {folder / FILE} if it has ended' if ' on ' in other else ''}"
        )


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Keep a note of this process in a run's folder.

    Raises:
        RunDirectoryError: if another process trains the run.
    """
    check_untrained(folder)
    pid = os.getpid()
    note: dict[str, Any] = {"host": socket.gethostname(), "pid": pid, "started": process_start(pid)}
    write_json(folder / FILE, note)
    try:
        yield
    finally:
        (folder / FILE).unlink(missing_ok=True)


# Keys that may change when a run resumes.
CHANGEABLE = (
    "training.max_epochs", "training.learning_rate", "training.head_learning_rate",
    "training.weight_decay", "training.patience", "training.gradient_clip", "training.accelerator",
    "training.devices", "training.num_workers", "logging", "compare", "bench", "name",
)  # fmt: skip
# Torch does about this many operations on small states in the time that loading kernels takes.
FEW_OPERATIONS = 2e9
FOLDER = "QMTL_RUN_DIRECTORY"
PACKAGES = ("qmtl", "torch", "pennylane", "pytorch-lightning", "torchjd", "torchmetrics", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the run's directory.
        recipe: its resolved recipe.
        results: content of ``results.json``: metrics by split, task and name, and the baselines.
    """

    path: Path
    recipe: Recipe
    results: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Read a run directory.

        Raises:
            RunDirectoryError: if it is not a run directory, or the run has not finished.
        """
        folder = _run_folder(path)
        recipe = read_recipe(folder / "recipe.toml")
        try:
            results = json.loads((folder / "results.json").read_text())
        except FileNotFoundError:
            raise RunDirectoryError(
                f"the run {folder} has not finished; continue it with: qmtl train --resume {folder}"
            ) from None
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{folder / 'results.json'} is damaged: {error}") from None
        problem = _results_problem(results)
        if problem is not None:
            raise RunDirectoryError(f"{folder / 'results.json'} is damaged: {problem}")
        if "first_epoch" not in results:  # version 0.1 counted epochs from 0
            results |= {"first_epoch": 1, "best_epoch": results["best_epoch"] + 1}
        return cls(folder, recipe, results)

    def load_model(self, rows: int | None = None) -> MultiTaskModel:
        """Return the trained model.

        Args:
            rows: number of rows that it will predict before the process ends. If that is little
                work, its light cones run on torch: loading the compiled kernels would take longer.
        """
        model = load(self.path / "model")
        simulator = getattr(model.head, "simulator", None)
        if rows is None or type(simulator) is not LightConeSimulator:
            return model
        light = LightConeSimulator(simulator.max_memory, "eager")
        plan = light.explain(model.head.circuit, rows)
        few = sum(group.operations for group in plan.groups) <= FEW_OPERATIONS
        return model.with_simulator(light) if few else model

    def load_data(self, split: str | None = None) -> MultiTaskData:
        """Return the data of the run's recipe.

        Args:
            split: name of a split that must exist.

        Raises:
            InvalidInputError: if there is no split with this name, or the data's inputs are made in
                another way than in training, since the file has changed.
        """
        data = self.check_data(build_data(self.recipe))
        if split is not None and split not in data.splits:
            raise unknown_name("split", split, data.splits)
        return data

    def columns(self) -> TableColumns | None:
        """Return how columns of a table became inputs, for a run that was trained on one.

        Raises:
            InvalidInputError: if the file is damaged.
        """
        file = self.path / "inputs.json"
        if not file.is_file():
            return None
        try:
            content: Any = json.loads(file.read_text(encoding="utf-8"))
            return TableColumns.from_dict(content)
        except ValueError as error:
            raise InvalidInputError(f"{file} is damaged: {error}") from None

    def check_data(self, data: MultiTaskData) -> MultiTaskData:
        """Return the data; raise unless their columns become the same inputs as in training."""
        own = self.columns()
        if own is not None and data.columns is not None and not own.is_close(data.columns):
            sides = column_differences(own, data.columns)
            raise InvalidInputError(
                f"the data of the run {self.path} have changed since it was trained: then "
                f"{sides[0]}; now {sides[1]}"
            )
        return data


def start_run(recipe: Recipe, path: str | Path | None = None, *, progress: bool = True) -> Run:
    """Train a recipe in a new run directory.

    Args:
        recipe: the recipe to train.
        path: the directory, which must not exist; None for ``runs/<name>-<time>``, followed by a
            number if that exists.
        progress: whether to show progress.

    Raises:
        RunDirectoryError: if the directory exists.
    """
    from qmtl.experiments._rivals import check_rival
    from qmtl.training import check_fit, check_loggers, settings_for

    data = build_data(recipe)
    # The run's recipe holds numbers instead of None, in case a later version chooses others.
    training = settings_for(recipe.training, data)
    recipe = recipe.model_copy(update={"training": training})
    model = build_model(recipe, data)
    # A recipe that cannot be trained (an unknown aggregator or device, a circuit too large to
    # simulate) must not leave a run directory behind.
    check_fit(model, data, recipe.training)
    check_loggers(recipe.logging.loggers)
    model.predict(data.train.inputs[:1])
    for head in recipe.compare:
        check_rival(recipe, data, head)
    if is_first_process():
        folder = default_folder(recipe) if path is None else new_run_folder(Path(path))
        write_recipe(folder, recipe)
        notes = {"data_notes": list(data.notes)}
        write_json(folder / "environment.json", machine() | {"seeds": recipe.seeds} | notes)
    else:
        folder = Path(os.environ[FOLDER])
    return _train(folder, recipe, data, model, resume=False, progress=progress)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.toml``, with copies of its files of design and noise, which may change."""
    design, noise = recipe.circuit.design, recipe.training.noise
    copies = {
        "circuit.design": (None if design in list_designs() else design, "circuit.toml"),
        "training.noise.file": (noise and noise.file, "noise.json"),
    }
    for key, (path, name) in copies.items():
        if path:
            write_bytes(folder / name, Path(path).read_bytes())
            recipe = recipe.with_values({key: name})
    write_text(folder / "recipe.toml", recipe.as_toml())


def default_folder(recipe: Recipe) -> Path:
    """Make ``runs/<name>-<time>``, followed by a number if another run has that name."""
    name = f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number, folder = 1, Path("runs", name)
    while True:
        try:
            return new_run_folder(folder)
        except RunDirectoryError:
            if not folder.exists():
                raise
        number += 1
        folder = folder.with_name(f"{name}-{number}")


def new_run_folder(folder: Path) -> Path:
    """Make a run's folder, which must not exist."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        is_run = (folder / "recipe.toml").is_file()
        more = f", or continue it with: qmtl train --resume {folder}" if is_run else ""
        raise RunDirectoryError(
            f"the run directory {folder} exists already; give another --out{more}"
        ) from None
    except OSError as error:
        raise RunDirectoryError(
            f"the run directory {folder} cannot be made: {error.strerror}"
        ) from None
    return folder


def _run_folder(path: str | Path) -> Path:
    folder = Path(path)
    if not (folder / "recipe.toml").is_file():
        raise RunDirectoryError(
            f"{folder} is not a run directory: it has no recipe.toml{near_paths(folder)}"
        )
    return folder


def resume_run(path: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> Run:
    """Continue a run from its last checkpoint; a run that has trained all its epochs is only read.

    Without overrides, the result is bit for bit that of a run that was not interrupted (on the same
    kind of CPU).

    Args:
        path: the run directory.
        overrides: texts ``"training.KEY=value"`` for keys that may change within a run: the number
            of epochs, learning rates, weight decay, patience, clipping, devices or loggers.
        progress: whether to show progress.

    Raises:
        RunDirectoryError: if it is not a run directory, another process trains it, or a finished
            run has no checkpoint to go on from.
        RecipeError: for an override of a key that cannot change within a run.
        ModelFileError: for a checkpoint that is damaged or belongs to another run.
    """
    from qmtl.training import LAST, check_fit

    folder = _run_folder(path)
    recipe = read_recipe(folder / "recipe.toml", overrides)
    _check_changes(read_recipe(folder / "recipe.toml"), recipe)
    finished = folder / "results.json"
    if finished.is_file():
        run = Run.read(folder)
        if not overrides or run.results["epochs"] >= recipe.training.max_epochs:
            return run
        if not (folder / "checkpoints" / LAST).is_file():
            raise RunDirectoryError(
                f"the run {folder} cannot go on: it has no checkpoint (as after qmtl adapt or "
                f"merge), and to begin anew would replace its model"
            )
    if is_first_process():
        check_untrained(folder)
    data = Run(folder, recipe, {}).check_data(build_data(recipe))
    # A run that was killed in its first epoch has no checkpoint and starts again.
    started = (folder / "checkpoints" / LAST).is_file()
    model = build_model(recipe, data)
    check_fit(model, data, recipe.training)
    if overrides and is_first_process():
        for name in ("noise", "hardware"):
            if finished.is_file() and (folder / name).is_dir():
                # Measurements of the model as it was, which a report would show of the new one.
                ended = time.strftime("%Y%m%d-%H%M%S")
                (folder / name).rename(folder / f"{name}-before-{ended}")
        # A run that continues has no results until it ends.
        finished.unlink(missing_ok=True)
        write_recipe(folder, recipe)
    return _train(folder, recipe, data, model, resume=started, progress=progress)


def _check_changes(before: Recipe, after: Recipe) -> None:
    old, new = before.flat(), after.flat()
    for key in old | new:
        if old.get(key) != new.get(key) and not key.startswith(CHANGEABLE):
            raise RecipeError(
                f"--resume cannot change {key}: the run has {old.get(key)}, got {new.get(key)}; "
                f"start a new run for that. It can change {', '.join(CHANGEABLE)}"
            )


def _train(
    folder: Path,
    recipe: Recipe,
    data: MultiTaskData,
    model: MultiTaskModel,
    *,
    resume: bool,
    progress: bool,
) -> Run:
    # Importing Lightning takes seconds, and reading a run does not need it.
    from qmtl.experiments._rivals import train_rival
    from qmtl.training import MetricsFile, fit, log_to, prediction_rows

    # In a distributed run, only the first process keeps the logs.
    names = recipe.logging.loggers if is_first_process() else []
    if recipe.training.devices > 1:
        # The other processes start with the same command line and find the folder in this variable.
        os.environ[FOLDER] = str(folder)
    # Training of rivals and writing of results are part of the run, too.
    with noted(folder) if is_first_process() else nullcontext():
        try:
            with log_to(
                *names,
                folder=folder / "logs",
                run_name=folder.name,
                options={str(name): recipe.logging.options.get(name, {}) for name in names},
                params=recipe.model_dump(mode="json", exclude={"bench", "logging"}),
            ) as log:
                result = fit(
                    model,
                    data,
                    recipe.training,
                    checkpoints=folder / "checkpoints",
                    resume=resume,
                    progress=progress,
                    callbacks=[MetricsFile(folder / "metrics.csv"), log],
                )
                log.write_result(result)
            rivals: dict[str, Trained] = {
                head: train_rival(recipe, data, head) for head in recipe.compare
            }
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"continue with: qmtl train --resume {folder}") from None
        results = _results(result, rivals) | _experts(result.model, data)
        if is_first_process():
            write_csv(folder / "metrics.csv", result.history)
            result.model.save(folder / "model")
            if data.columns is not None:
                write_json(folder / "inputs.json", data.columns.to_dict())
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.training.seed)
                test = data.test
                rows = prediction_rows(result.model, test.inputs, test.index, test.targets)
            write_csv(folder / "predictions.csv", rows)
            write_json(folder / "results.json", results)
        return Run(folder, recipe, results)


def _results(result: "Result", rivals: Mapping[str, "Trained"]) -> dict[str, Any]:
    return {
        "metrics": result.metrics,
        "baselines": result.baselines,
        "rivals": {head: rival.metrics for head, rival in rivals.items()},
        "parameters": count_parameters(result.model)
        | {f"{head} head": rival.head_parameters for head, rival in rivals.items()},
        "epochs": result.epochs,
        "first_epoch": 1,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
    }


def _experts(model: MultiTaskModel, data: MultiTaskData) -> dict[str, Any]:
    """Report how tasks use shared experts on the test split; empty for other encoders."""
    encoder = model.encoder
    if not isinstance(encoder, TaskEncoder):
        return {}
    used = encoder.utilisation(data.test.inputs)
    return {"utilisation": used, "collapse": encoder.collapse(data.test.inputs)} if used else {}


def count_parameters(model: MultiTaskModel) -> dict[str, int]:
    """Count the parameters of encoder and head."""
    return {
        "encoder": sum(p.numel() for p in model.encoder.parameters()),
        "head": sum(p.numel() for p in model.head.parameters()),
    }


def is_first_process() -> bool:
    """Return whether this process writes files and shows results."""
    # Lightning starts the other processes of a run with the same command line.
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def machine() -> dict[str, Any]:
    """Return versions, machine and threads of this process."""
    return {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    } | ({"cuda": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


# Metrics in ``results.json``. JSON has no NaN: an undefined metric is null.
_Metrics = dict[str, dict[str, float | None]]


class _Splits(BaseModel):
    train: _Metrics
    validation: _Metrics
    test: _Metrics


class _Parameters(BaseModel):
    __pydantic_extra__: dict[str, int] = Field(init=False)
    model_config = {"extra": "allow"}

    encoder: int
    head: int


class _Results(BaseModel):
    metrics: _Splits
    baselines: _Splits
    rivals: dict[str, _Splits]
    parameters: _Parameters
    epochs: int
    best_epoch: int
    seconds: float
    utilisation: dict[str, dict[str, float]] = {}
    collapse: list[str] = []

    @model_validator(mode="after")
    def _same_tasks(self) -> "_Results":
        for name, other in {"baselines": self.baselines, **self.rivals}.items():
            for split in _Splits.model_fields:
                if set(getattr(other, split)) != set(getattr(self.metrics, split)):
                    raise ValueError(f"{name} and metrics have different tasks in {split}")
        return self


def _results_problem(content: Any) -> str | None:
    """Return the first problem in the content of a ``results.json``; None if there is none."""
    try:
        _Results.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    return None
