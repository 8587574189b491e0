"""Run directories: their files, finished runs and what is made of them, notes of processes."""

import json
import os
import platform
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator

from qmtl._io import process_start, write_bytes, write_json, write_text
from qmtl.circuit import list_designs
from qmtl.data import MultiTaskData, TableColumns, column_differences
from qmtl.errors import (
    InvalidInputError,
    RunDirectoryError,
    as_path,
    check_integer,
    near_paths,
    unknown_name,
)
from qmtl.experiments._build import build_data, build_model
from qmtl.experiments._recipe import Recipe, read_recipe
from qmtl.experiments._sweep import fingerprint
from qmtl.model import MultiTaskModel, load
from qmtl.plotting import panels, save_figure
from qmtl.simulators import LightConeSimulator

if TYPE_CHECKING:
    from qmtl.methods import Affinity

NOTE = "process.json"
KINDS = (".csv", ".png", ".svg", ".pdf")  # of files with affinities
# While the compiled kernels load, torch does about this many operations on small states.
FEW_OPERATIONS = 2e9
PACKAGES = ("qmtl", "torch", "pennylane", "pytorch-lightning", "torchjd", "torchmetrics", "numpy")

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


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


@dataclass(frozen=True)
class Run:
    """A finished run.

    Its directory holds ``recipe.toml`` (resolved), ``environment.json``, ``metrics.csv`` (per
    epoch), ``checkpoints/``, ``model/``, ``inputs.json`` (for table data), ``predictions.csv`` and
    ``results.json``, which is written last. It holds ``process.json`` while a process trains it.

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
        folder = existing_folder(path)
        recipe = read_recipe(folder / "recipe.toml")
        file = folder / "results.json"
        try:
            results = json.loads(file.read_text())
            _Results.model_validate(results, strict=True)
        except FileNotFoundError:
            raise RunDirectoryError(
                f"the run {folder} has not finished; continue it with: {resume_command(folder)}"
            ) from None
        except ValidationError as error:
            raise RunDirectoryError(f"{file} is damaged: {_first_problem(error)}") from None
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{file} is damaged: {error}") from None
        if "first_epoch" not in results:  # version 0.1 counted epochs from 0
            results |= {"first_epoch": 1, "best_epoch": results["best_epoch"] + 1}
        return cls(folder, recipe, results)

    def load_model(self, rows: int | None = None) -> MultiTaskModel:
        """Return the trained model.

        `rows` is the number of rows that the process will predict, if known. For few rows, light
        cones run on torch, because loading the compiled kernels would take longer.
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

        Raises:
            InvalidInputError: if the data have no such split, or the file has changed, so that
                inputs are made in another way than in training.
        """
        data = self.check_data(build_data(self.recipe))
        if split is not None and split not in data.splits:
            raise unknown_name("split", split, data.splits)
        return data

    def columns(self) -> TableColumns | None:
        """Return how columns of a table became inputs; None for a run without a table."""
        file = self.path / "inputs.json"
        if not file.is_file():
            return None
        try:
            return TableColumns.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InvalidInputError(f"{file} is damaged: {error}") from None

    def check_data(self, data: MultiTaskData) -> MultiTaskData:
        """Return the data; raise if labels, or the way to make inputs, differ from training."""
        own = self.columns()
        if own is not None and data.columns is not None and not own.is_close(data.columns):
            sides = column_differences(own, data.columns)
            left_out = {*own.names} - {*data.columns.names}
            notes, hint = " ".join(data.notes), ""
            if left_out and all(f"'{name}'" in notes for name in left_out):
                # Versions of this package differ in which columns they leave out.
                hint = (
                    f"; to keep the inputs of then, write inputs = {json.dumps(own.names)} under "
                    f"[data] in {self.path / 'recipe.toml'}"
                )
            raise InvalidInputError(
                f"the data of the run {self.path} have changed since it was trained: then "
                f"{sides[0]}; now {sides[1]}{hint}"
            )
        noted = _labels_noted(self.path)
        if noted not in (None, fingerprint(data, inputs=False)):
            raise RunDirectoryError(
                f"the data of the run {self.path} have changed since it was trained: then the "
                f"labels, or the rows of the splits, were others"
            )
        return data


def _labels_noted(folder: Path) -> Any:
    """Return the hash of the labels at the start of a run; None for an older run."""
    file = folder / "environment.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("labels_sha256")
    except (OSError, ValueError, AttributeError):
        return None


def resume_command(folder: Path) -> str:
    """Return the command line that continues a run, for a shell.

    Example:
        >>> resume_command(Path("my runs/seed1"))
        "qmtl train --resume 'my runs/seed1'"
    """
    return shlex.join(["qmtl", "train", "--resume", str(folder)])


def existing_folder(path: str | Path) -> Path:
    """Return a run's folder; raise if there is no recipe in it."""
    folder = as_path(path)
    if not (folder / "recipe.toml").is_file():
        raise RunDirectoryError(
            f"{folder} is not a run directory: it has no recipe.toml{near_paths(folder)}"
        )
    return folder


def new_folder(recipe: Recipe, path: str | Path | None) -> Path:
    """Make a run directory; for None ``runs/<name>-<time>``, with a number if this exists.

    Raises:
        RunDirectoryError: if it exists, or cannot be made.
    """
    name = f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(1):
        default = Path("runs", name if number == 1 else f"{name}-{number}")
        folder = default if path is None else as_path(path)
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if path is None and folder.exists():
                continue
            is_run = (folder / "recipe.toml").is_file()
            more = f", or continue it with: {resume_command(folder)}" if is_run else ""
            raise RunDirectoryError(
                f"the run directory {folder} exists already; give another --out{more}"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"the run directory {folder} cannot be made: {error.strerror}"
            ) from None
    return folder


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.toml``, and copies of its design and noise files, because these may change."""
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


def training_process(folder: Path) -> str | None:
    """Describe the process that trains a run now; None if there is none.

    A killed process leaves its note behind. On this machine, the note then has the number of no
    process, or of a process with another start time.

    Example:
        >>> training_process(Path("no-such-run")) is None
        True
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
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
            f"{f', or remove {folder / NOTE} if it has ended' if ' on ' in other else ''}"
        )


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Keep a note of this process in a run's folder; raise if another process trains the run."""
    check_untrained(folder)
    pid = os.getpid()
    started = process_start(pid)
    write_json(folder / NOTE, {"host": socket.gethostname(), "pid": pid, "started": started})
    try:
        yield
    finally:
        (folder / NOTE).unlink(missing_ok=True)


def count_parameters(model: MultiTaskModel) -> dict[str, int]:
    """Count the parameters of encoder and head."""
    return {
        "encoder": sum(p.numel() for p in model.encoder.parameters()),
        "head": sum(p.numel() for p in model.head.parameters()),
    }


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


def write_derived(
    folder: Path, runs: Sequence[Run], model: MultiTaskModel, about: Mapping[str, Any]
) -> Run:
    """Write a model made from `runs` as a run directory that every command can read.

    Recipe and curves come from the first run. Each task's metrics come from the first run with the
    task. `about` holds further keys for ``results.json``, which say how the model was made.
    """
    first = runs[0]
    for name in ("metrics.csv", "inputs.json"):
        if (first.path / name).is_file():
            shutil.copyfile(first.path / name, folder / name)
    write_recipe(folder, first.recipe)
    write_json(folder / "environment.json", machine() | {"made_of": [str(r.path) for r in runs]})
    model.save(folder / "model")
    # These results are of the first run's encoder and rivals, and not of the new model.
    results = {k: v for k, v in first.results.items() if k not in ("utilisation", "collapse")}
    results |= {"parameters": count_parameters(model), "rivals": {}}
    for key in ("metrics", "baselines"):
        results[key] = {split: dict(tasks) for split, tasks in first.results[key].items()}
        for split, tasks in results[key].items():
            for run in runs[1:]:
                tasks |= {k: v for k, v in run.results[key][split].items() if k not in tasks}
    write_json(folder / "results.json", results | dict(about))
    return Run.read(folder)


def run_affinity(
    run: Run,
    split: str = "validation",
    *,
    of: Literal["labels", "losses"] = "labels",
    by: Literal["parameters", "features"] = "parameters",
    epochs: int | None = None,
) -> "Affinity":
    """Call `qmtl.methods.affinity` for a run's model and a split of its data.

    With `epochs`, a new model is first trained by the run's recipe for this many epochs.

    Raises:
        InvalidInputError: for an unknown split, or less than one epoch.
    """
    from qmtl.methods import affinity

    data = run.load_data(split)
    if epochs is None:
        model = run.load_model()
    else:
        from qmtl.training import fit

        epochs = check_integer("epochs", epochs)
        model = build_model(run.recipe, data)
        changes = {"max_epochs": epochs, "patience": None, "restore_best": False}
        fit(model, data, run.recipe.training.model_copy(update=changes), progress=False)
    return affinity(model, data, split=split, of=of, by=by)


def write_affinity(found: "Affinity", path: Path) -> None:
    """Write the pairs as .csv, or the heat map as .png, .svg or .pdf; refuse other kinds."""
    check_kind(path)
    if path.suffix.lower() == ".csv":
        write_text(path, found.pairs.to_csv(index=False, lineterminator="\n"))
        return
    side = 3.2 + 0.45 * len(found.names)
    save_figure(panels([found.plot], 1, (side + 1, side)), path)


def check_kind(path: Path) -> None:
    """Raise `InvalidInputError` if affinities cannot be written to a file of this kind."""
    if path.suffix.lower() not in KINDS:
        raise InvalidInputError(f"affinities are written as {', '.join(KINDS)}, got {path}")
