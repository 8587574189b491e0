"""Single-task models: every task's encoder and head trained by themselves, results put together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmtl.data import MultiTaskData
from qmtl.encoders import SeparateEncoders
from qmtl.errors import InvalidInputError
from qmtl.heads import SeparateHeads
from qmtl.model import MultiTaskModel
from qmtl.training._checkpoints import LAST
from qmtl.training._result import Metrics, Result
from qmtl.training._settings import TrainingSettings

__all__ = ["Part", "fit_each_task", "is_separate", "single_task_parts"]


@dataclass(frozen=True)
class Part:
    """One task's own model (it shares its modules with the whole), its data, and settings."""

    model: MultiTaskModel
    data: MultiTaskData
    settings: TrainingSettings


def is_separate(model: MultiTaskModel) -> bool:
    """Whether the model is one single-task model per task: separate encoders, separate heads.

    Example:
        >>> from qmtl.experiments import build_data, build_model
        >>> from qmtl.experiments import read_recipe
        >>> recipe = read_recipe("digits")
        >>> is_separate(build_model(recipe, build_data(recipe), "single-task"))
        True
    """
    return isinstance(model.encoder, SeparateEncoders) and isinstance(model.head, SeparateHeads)


def single_task_parts(
    model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings
) -> list[Part]:
    """A part per task, with the rows that have its label.

    Scalarizer and aggregator are left out of the settings: a single task has nothing to weigh.

    Args:
        model: with `SeparateEncoders` and `SeparateHeads`, as many of each.
        data: with the model's tasks.
        settings: of every part.

    Raises:
        InvalidInputError: if encoders and heads differ in number, or a split has no label of a
            task.
    """
    encoders, heads = list(model.encoder.encoders), list(model.head.heads)
    if len(encoders) != len(heads):
        raise InvalidInputError(
            f"single-task models need an encoder for each head, got {len(encoders)} encoders and "
            f"{len(heads)} heads"
        )
    own: dict[str, Any] = {
        "scalarizer": None,
        "aggregator": None,
        "options": {},
        "tasks_per_step": None,
    }
    settings = settings.model_copy(update=own)
    return [
        Part(MultiTaskModel(encoder, head), data.subset([task.name]), settings)
        for task, encoder, head in zip(model.tasks, encoders, heads, strict=True)
    ]


def fit_each_task(
    fit_one: Callable[..., Result],
    model: MultiTaskModel,
    data: MultiTaskData,
    settings: TrainingSettings,
    checkpoints: str | Path | None,
    resume: bool,
) -> Result:
    """Train every part for itself, each to its own best epoch; `qmtl.fit` calls this.

    Args:
        fit_one: trains one model, as ``qmtl.fit`` does.
        model: what to train, in place.
        data: with the model's tasks.
        settings: of every part.
        checkpoints: folder for a folder ``task-0``, ``task-1``, … each; None keeps none.
        resume: continue the parts that have a checkpoint there.
    """
    results = []
    for i, part in enumerate(single_task_parts(model, data, settings)):
        folder = None if checkpoints is None else Path(checkpoints) / f"task-{i}"
        started = resume and folder is not None and (folder / LAST).is_file()
        results.append(
            fit_one(part.model, part.data, part.settings, checkpoints=folder, resume=started)
        )
        state = part.model.state_dict()
        scales = {key: value for key, value in state.items() if key.startswith("target_")}
        model.load_state_dict(scales, strict=False)
    model.to("cpu").eval()
    return _together(model, results, None if checkpoints is None else Path(checkpoints))


def _together(model: MultiTaskModel, results: Sequence[Result], folder: Path | None) -> Result:
    rows: list[dict[str, Any]] = [row for result in results for row in result.history]
    names = [task.name for task in model.tasks]
    return Result(
        model=model,
        metrics=_merged([result.metrics for result in results]),
        baselines=_merged([result.baselines for result in results]),
        history=sorted(rows, key=lambda row: int(row["epoch"])),
        epochs=max(result.epochs for result in results),
        best_epoch=max(result.best_epoch for result in results),
        seconds=sum(result.seconds for result in results),
        checkpoints=folder,
        best_epochs={name: result.best_epoch for name, result in zip(names, results, strict=True)},
    )


def _merged(metrics: Sequence[Metrics]) -> Metrics:
    return {
        split: {task: values for own in metrics for task, values in own[split].items()}
        for split in metrics[0]
    }
