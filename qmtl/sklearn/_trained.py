"""Train a model from an estimator's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.circuit import HeadCircuit, load_design
from qmtl.data import Split, label_codes, validation_cut
from qmtl.encoders import MLP
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads import HEAD_TYPES, Head, HeadOptions, build_head
from qmtl.model import MultiTaskModel
from qmtl.sklearn._columns import Column
from qmtl.tasks import Task, rounding

# The parameters of an estimator that are also fields of `qmtl.TrainingSettings`.
TRAINING = (
    "max_epochs", "batch_size", "learning_rate", "head_learning_rate", "weight_decay",
    "schedule", "scalarizer", "aggregator", "patience", "accelerator",
)  # fmt: skip


def train(
    params: Mapping[str, Any],
    X: np.ndarray,
    columns: Sequence[Column],
    values: Sequence[np.ndarray],
    random: np.random.RandomState,
    weights: np.ndarray | None,
) -> tuple[MultiTaskModel, np.ndarray, np.ndarray, list[float]]:
    """Train a model with an estimator's parameters, on finite inputs and the columns' labels.

    Returns:
        A model in double precision, so that predictions do not depend on how rows are batched; mean
        and deviation of the input columns; and the mean training loss of every epoch.
    """
    from qmtl.training import fit_rows, settings_from

    encoder_seed, head_seed, seed, validation_seed = random.randint(2**31 - 1, size=4).tolist()
    targets = {c.name: c.targets(v) for c, v in zip(columns, values, strict=True)}
    tasks = [column.task for column in columns]
    settings = settings_from(None, {name: params[name] for name in TRAINING} | {"seed": seed})
    if not isinstance(params["scale_inputs"], bool | np.bool_):
        raise InvalidInputError(f"scale_inputs must be a bool, got {params['scale_inputs']!r}")
    fraction = params["validation_fraction"]
    rows, held = np.arange(len(X)), None
    if fraction is not None:
        codes = label_codes(tasks, targets)
        groups = np.zeros(len(X)) if codes is None else codes.numpy()
        rows, held = validation_cut(groups, fraction, validation_seed, name="validation_fraction")
    mean, std = np.zeros(X.shape[1]), np.ones(X.shape[1])
    if params["scale_inputs"]:
        mean, std = _scale(X[rows], None if weights is None else weights[rows])
    counts = None if weights is None else torch.from_numpy(weights)
    everything = Split(scaled(X, mean, std), targets, sample_weight=counts)
    head = _head(params, tasks, head_seed)
    hidden = params["hidden"]
    try:
        widths = [index(width) for width in np.atleast_1d(hidden).tolist()]
    except (TypeError, ValueError):
        raise InvalidInputError(f"hidden must be widths of layers, got {hidden!r}") from None
    encoder = MLP(X.shape[1], *widths, out_features=head.n_features, seed=encoder_seed)
    model = MultiTaskModel(encoder, head).double()
    validation = None if held is None else everything.take(torch.from_numpy(held))
    result = fit_rows(model, everything.take(torch.from_numpy(rows)), settings, validation)
    return model, mean, std, list(result.training_losses())


def _head(params: Mapping[str, Any], tasks: Sequence[Task], seed: int) -> Head:
    if params["head"] not in HEAD_TYPES:
        raise unknown_name("head", params["head"], HEAD_TYPES)
    names = ("simulator", "angle_map", "initial")
    options = HeadOptions(**{name: params[name] for name in names}, seed=seed)
    return build_head(params["head"], _circuit(params, tasks), options)


def _circuit(params: Mapping[str, Any], tasks: Sequence[Task]) -> HeadCircuit:
    design = load_design(params["circuit"])
    parts: dict[str, Any] = {"encoding": design.encoding, "ansatz": design.ansatz}
    for part, key in (("encoding", "encoding_layers"), ("ansatz", "block_layers")):
        layers = params[key]
        if layers is None:
            continue
        if "n_layers" not in [field.name for field in fields(parts[part])]:
            kind = type(parts[part]).__name__
            raise InvalidInputError(f"{key}: {kind} of circuit {design.name!r} has no layers")
        parts[part] = replace(parts[part], n_layers=_whole(layers))
    wires = params["wires_per_task"]
    wires = _whole(wires) if not isinstance(wires, Mapping) else wires
    if wires is None:
        return replace(design, **parts).circuit(tasks)
    key = "n_wires" if design.layout == "shared" else "wires_per_task"
    sizes: dict[str, Any] = {key: wires}
    return HeadCircuit(tasks, parts["encoding"], parts["ansatz"], layout=design.layout, **sizes)


def _whole(value: Any) -> Any:
    """Convert NumPy's integers, which grids often contain, to Python's."""
    return int(value) if isinstance(value, np.integer) else value


def _scale(X: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of columns; inf for a constant column, which then becomes 0."""
    mean = np.average(X, axis=0, weights=weights)
    std = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    # A column that varies only by rounding errors has no information; dividing by its deviation
    # would blow up other rows' values.
    return mean, np.where(std > rounding(len(X)) * np.abs(mean), std, np.inf)


def scaled(X: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    """Return inputs minus the mean, divided by the deviation, in float32."""
    return torch.from_numpy(((X - mean) / std).astype(np.float32))
