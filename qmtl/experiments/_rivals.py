"""Training one head of a comparison; single-task models are trained one by one and joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.experiments._build import build_circuit, build_model
from qmtl.experiments._recipe import SINGLE_TASK, Recipe, RivalType
from qmtl.experiments._training_section import with_noise
from qmtl.heads import Head, LinearHead, build_head
from qmtl.model import MultiTaskModel
from qmtl.training import Result, StepTimes, TrainingSettings, check_fit, fit

__all__ = ["Trained", "check_rival", "train_rival"]

Metrics = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Trained:
    """What training a head found.

    Attributes:
        metrics: split → task → metric → value.
        baselines: the same for the best constant prediction.
        head_parameters: trainable parameters of the head, or of all single-task heads together.
        total_parameters: those of encoder and head.
        best_epoch: the kept epoch, from 1; of single-task models the mean.
        seconds: of training.
        step_seconds: median time of a training step. Of single-task models on mixed batches the
            sum over tasks, since they need a step each to see what other heads see in one.
    """

    metrics: Metrics
    baselines: Metrics
    head_parameters: int
    total_parameters: int
    best_epoch: float
    seconds: float
    step_seconds: float


def train_rival(recipe: Recipe, data: MultiTaskData, head: RivalType) -> Trained:
    """Train a head of this type on the recipe's encoder, data and settings.

    Args:
        recipe: all but the type of head.
        data: the recipe's data.
        head: a head type, or ``single-task``: an encoder and a head for each task alone, each
            trained on the rows with its label and kept at its own best epoch.

    Example:
        >>> from qmtl.experiments import build_data, read_recipe
        >>> recipe = read_recipe("digits", ["training.max_epochs=1", 'data.tasks=["parity"]'])
        >>> trained = train_rival(recipe, build_data(recipe), "single-task")
        >>> trained.best_epoch, trained.head_parameters
        (1.0, 3)
    """
    trained = [_train(*own) for own in _parts(recipe, data, head)]
    if head != SINGLE_TASK:
        return trained[0]
    steps = [own.step_seconds for own in trained]
    return Trained(
        _joined([own.metrics for own in trained]),
        _joined([own.baselines for own in trained]),
        sum(own.head_parameters for own in trained),
        sum(own.total_parameters for own in trained),
        fmean(own.best_epoch for own in trained),
        sum(own.seconds for own in trained),
        fmean(steps) if data.is_disjoint else sum(steps),
    )


def check_rival(recipe: Recipe, data: MultiTaskData, head: RivalType) -> None:
    """Find what would keep `train_rival` from training, without training.

    Raises:
        InvalidInputError: as `train_rival` would.
    """
    for model, own, settings in _parts(recipe, data, head):
        check_fit(model, own, settings)
        # A circuit that is too large to simulate says so when it first runs.
        model.predict(own.train.inputs[:1])


Part = tuple[MultiTaskModel, MultiTaskData, TrainingSettings]


def _parts(recipe: Recipe, data: MultiTaskData, head: RivalType) -> Iterator[Part]:
    """The models to train, one by one, each with its data and settings."""
    if head != SINGLE_TASK:
        yield build_model(recipe, data, head), data, recipe.training
        return
    # Nothing is combined where there is one loss.
    alone: dict[str, Any] = {
        "scalarizer": None,
        "aggregator": None,
        "options": {},
        "tasks_per_step": None,
    }
    settings = recipe.training.model_copy(update=alone | {"tasks_per_step": None})
    whole = build_circuit(recipe, data.tasks)
    for task in data.tasks:
        circuit = _alone(whole, task.name)
        options = with_noise(recipe.head.options(), recipe.training, circuit)
        own = data.subset([task.name])
        built: Head
        if recipe.head.single_task == "quantum":
            built = build_head("quantum", circuit, options)
        else:
            # On a representation as wide as the one that the other heads share.
            built = LinearHead([task], whole.n_features, seed=options.seed)
        encoder = recipe.encoder.build(own.train.inputs, built.n_features, own.modalities)
        yield MultiTaskModel(encoder, built), own, settings


def _alone(circuit: HeadCircuit, name: str) -> HeadCircuit:
    """A task's circuit as if there were no other task."""
    register = circuit.registers[name]
    shared = circuit.layout == "shared"
    return HeadCircuit(
        [register.task],
        circuit.encoding,
        circuit.ansatz(name),
        layout=circuit.layout,
        readouts={name: register.readout},
        n_wires=len(register.wires) if shared else None,
        wires_per_task=None if shared else len(register.wires),
    )


def _train(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> Trained:
    times = StepTimes()
    result: Result = fit(model, data, settings, progress=False, callbacks=[times])
    parameters = [p for p in model.parameters() if p.requires_grad]
    head = [p for p in model.head.parameters() if p.requires_grad]
    return Trained(
        result.metrics,
        result.baselines,
        sum(p.numel() for p in head),
        sum(p.numel() for p in parameters),
        result.best_epoch + 1,
        result.seconds,
        times.median,
    )


def _joined(metrics: Sequence[Metrics]) -> Metrics:
    return {
        split: {task: values for own in metrics for task, values in own[split].items()}
        for split in metrics[0]
    }
