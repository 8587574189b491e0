"""Train a recipe in a run directory, and resume a run."""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from qmtl._calls import seeded
from qmtl._io import write_csv, write_json
from qmtl.data import MultiTaskData
from qmtl.encoders import TaskEncoder
from qmtl.errors import RecipeError, RunDirectoryError, check_type
from qmtl.experiments._build import build_data, build_model
from qmtl.experiments._recipe import Recipe, read_recipe
from qmtl.experiments._run_folder import (
    Run,
    check_untrained,
    count_parameters,
    existing_folder,
    machine,
    new_folder,
    noted,
    resume_command,
    write_recipe,
)
from qmtl.experiments._sweep import fingerprint
from qmtl.model import MultiTaskModel

# Keys that may change when a run resumes.
CHANGEABLE = (
    "training.max_epochs", "training.learning_rate", "training.head_learning_rate",
    "training.weight_decay", "training.patience", "training.gradient_clip", "training.accelerator",
    "training.devices", "training.num_workers", "logging", "compare", "bench", "name",
)  # fmt: skip
FOLDER = "QMTL_RUN_DIRECTORY"
# A resumed run writes its logs anew in the same folder; Lightning would number new folders.
IN_PLACE = {"csv": {"version": ""}, "tensorboard": {"version": ""}}


def start_run(recipe: Recipe, path: str | Path | None = None, *, progress: bool = True) -> Run:
    """Train a recipe in a new run directory.

    The path must not exist; None means ``runs/<name>-<time>``, with a number if this exists.

    Raises:
        RunDirectoryError: if the directory exists.
    """
    check_type("recipe", recipe, Recipe, "; qmtl.experiments.read_recipe reads one")
    from qmtl.experiments._rivals import check_rival
    from qmtl.training import check_fit, check_loggers, settings_for

    data = build_data(recipe)
    # The run's recipe has numbers instead of None, because a later version may choose others.
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
        folder = new_folder(recipe, path)
        write_recipe(folder, recipe)
        notes = {"data_notes": list(data.notes), "labels_sha256": fingerprint(data, inputs=False)}
        write_json(folder / "environment.json", machine() | {"seeds": recipe.seeds} | notes)
    else:
        folder = Path(os.environ[FOLDER])
    return _train(folder, recipe, data, model, resume=False, progress=progress)


def resume_run(path: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> Run:
    """Continue a run from its last checkpoint; a run with all its epochs is only read.

    Without overrides, the result on the same kind of CPU is bit for bit that of an unbroken run.
    Overrides are texts ``"training.KEY=value"`` for keys that may change within a run, such as the
    number of epochs or learning rates.

    Raises:
        RunDirectoryError: if `path` is not a run directory, another process trains the run, or a
            finished run has no checkpoint.
        RecipeError: for an override of a key that cannot change within a run.
        ModelFileError: for a checkpoint that is damaged or belongs to another run.
    """
    from qmtl.training import LAST, check_fit

    folder = existing_folder(path)
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
                # Without a new name, a report would show these as results of the new model.
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
        # The other processes have the same command line, and read the folder from this variable.
        os.environ[FOLDER] = str(folder)
    # The note stays until rivals are trained and results are written.
    with noted(folder) if is_first_process() else nullcontext():
        try:
            with log_to(
                *names,
                folder=folder / "logs",
                run_name=folder.name,
                options={
                    name: IN_PLACE.get(name, {}) | recipe.logging.options.get(name, {})
                    for name in names
                },
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
            rivals = {head: train_rival(recipe, data, head) for head in recipe.compare}
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"continue with: {resume_command(folder)}") from None
        trained = result.model
        results = {
            "metrics": result.metrics,
            "baselines": result.baselines,
            "rivals": {head: rival.metrics for head, rival in rivals.items()},
            "parameters": count_parameters(trained)
            | {f"{head} head": rival.head_parameters for head, rival in rivals.items()},
            "epochs": result.epochs,
            "first_epoch": 1,
            "best_epoch": result.best_epoch,
            "seconds": result.seconds,
        } | _experts(trained, data)
        if is_first_process():
            write_csv(folder / "metrics.csv", result.history)
            trained.save(folder / "model")
            if data.columns is not None:
                write_json(folder / "inputs.json", data.columns.to_dict())
            with seeded(recipe.training.seed):
                test = data.test
                rows = prediction_rows(trained, test.inputs, test.index, test.targets)
            write_csv(folder / "predictions.csv", rows)
            write_json(folder / "results.json", results)
        return Run(folder, recipe, results)


def _experts(model: MultiTaskModel, data: MultiTaskData) -> dict[str, Any]:
    """Return how tasks use shared experts on the test split; empty for other encoders."""
    encoder = model.encoder
    if not isinstance(encoder, TaskEncoder):
        return {}
    used = encoder.utilisation(data.test.inputs)
    return {"utilisation": used, "collapse": encoder.collapse(data.test.inputs)} if used else {}


def is_first_process() -> bool:
    """Return whether this process writes files and shows results."""
    # Lightning starts the other processes of a run with the same command line. Without a folder
    # from the first process, the rank is that of another program, such as a batch system.
    return FOLDER not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0"
