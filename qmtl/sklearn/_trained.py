"""Train a model from an estimator's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.circuit import HeadCircuit, load_design
from qmtl.data import Split, label_codes, validation_cut
from qmtl.encoders import MLP
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads import HEAD_TYPES, HeadOptions, build_head
from qmtl.model import MultiTaskModel
from qmtl.sklearn._columns import Column
from qmtl.tasks import Task

# The parameters of an estimator that are also fields of `qmtl.TrainingSettings`.
TRAINING = (
    "max_epochs", "batch_size", "learning_rate", "head_learning_rate", "weight_decay",
    "schedule", "scalarizer", "aggregator", "patience", "accelerator",
)  # fmt: skip


@dataclass(frozen=True)
class Seeds:
    """Seeds of the initial weights, of the order of rows, and of the validation rows."""

    encoder: int
    head: int
    training: int
    validation: int

    @classmethod
    def draw(cls, random: np.random.RandomState) -> "Seeds":
        """Draw four seeds from scikit-learn's random state."""
        return cls(*(int(seed) for seed in random.randint(2**31 - 1, size=4)))


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and the scale of its inputs.

    Attributes:
        model: a model in double precision, so that predictions do not depend on how rows are
            batched.
        mean: mean of each input column.
        std: standard deviation of each input column; infinite for a constant column, which becomes
            0.
        losses: mean training loss per epoch.
    """

    model: MultiTaskModel
    mean: np.ndarray
    std: np.ndarray
    losses: tuple[float, ...]

    def predict(self, X: np.ndarray) -> dict[str, np.ndarray]:
        """Return every task's probabilities or numbers, float64."""
        predictions = self.model.predict(_scaled(X, self.mean, self.std))
        return {name: values.numpy() for name, values in predictions.items()}


def train(
    params: Mapping[str, Any],
    X: np.ndarray,
    columns: Sequence[Column],
    values: Sequence[np.ndarray],
    seeds: Seeds,
    weights: np.ndarray | None = None,
) -> Trained:
    """Train a model with the parameters of an estimator.

    Args:
        params: parameters as returned by ``get_params``.
        X: inputs (n, features), all finite.
        columns: columns of the target.
        values: the columns' labels.
        seeds: the seeds, see `Seeds`.
        weights: weights of the rows, above zero; None for 1 each.

    Raises:
        InvalidInputError: if a parameter does not fit.
    """
    from qmtl.training import fit_rows, settings_from

    targets = {c.name: c.targets(v) for c, v in zip(columns, values, strict=True)}
    tasks = [column.task for column in columns]
    options = {name: params[name] for name in TRAINING}
    settings = settings_from(None, options | {"seed": seeds.training})
    if not isinstance(params["scale_inputs"], bool | np.bool_):
        raise InvalidInputError(f"scale_inputs must be a bool, got {params['scale_inputs']!r}")
    fraction = params["validation_fraction"]
    rows, held = np.arange(len(X)), None
    if fraction is not None:
        codes = label_codes(tasks, targets)
        groups = np.zeros(len(X)) if codes is None else codes.numpy()
        rows, held = validation_cut(groups, fraction, seeds.validation, name="validation_fraction")
    own = None if weights is None else weights[rows]
    mean, std = _scale(X[rows], own, scaled=bool(params["scale_inputs"]))
    counts = None if weights is None else torch.from_numpy(weights)
    everything = Split(_scaled(X, mean, std), targets, sample_weight=counts)
    model = build_model(params, tasks, X.shape[1], seeds)
    validation = None if held is None else everything.take(torch.from_numpy(held))
    result = fit_rows(model, everything.take(torch.from_numpy(rows)), settings, validation)
    return Trained(model, mean, std, tuple(result.training_losses()))


def build_model(
    params: Mapping[str, Any], tasks: Sequence[Task], n_inputs: int, seeds: Seeds
) -> MultiTaskModel:
    """Return an untrained model for the tasks, in double precision."""
    if params["head"] not in HEAD_TYPES:
        raise unknown_name("head", params["head"], HEAD_TYPES)
    names = ("simulator", "angle_map", "initial")
    options = HeadOptions(**{name: params[name] for name in names}, seed=seeds.head)
    head = build_head(params["head"], build_circuit(params, tasks), options)
    hidden = params["hidden"]
    try:
        widths = [index(width) for width in np.atleast_1d(hidden).tolist()]
    except (TypeError, ValueError):
        raise InvalidInputError(f"hidden must be widths of layers, got {hidden!r}") from None
    encoder = MLP(n_inputs, *widths, out_features=head.n_features, seed=seeds.encoder)
    return MultiTaskModel(encoder, head).double()


def build_circuit(params: Mapping[str, Any], tasks: Sequence[Task]) -> HeadCircuit:
    """Return the design's circuit for the tasks, with the requested layers and wires.

    Raises:
        InvalidInputError: for an unknown design, a part without layers, or a register that is too
            small.

    Example:
        >>> params = {"circuit": "cz-ring", "wires_per_task": 3, "encoding_layers": 1}
        >>> build_circuit(params | {"block_layers": None}, [Task.binary("a")]).n_wires
        3
    """
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


def _scale(
    X: np.ndarray, weights: np.ndarray | None, *, scaled: bool
) -> tuple[np.ndarray, np.ndarray]:
    if not scaled:
        return np.zeros(X.shape[1]), np.ones(X.shape[1])
    if weights is None:
        mean, std = X.mean(axis=0), X.std(axis=0)
    else:
        mean = np.average(X, axis=0, weights=weights)
        std = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    # A column that varies only by rounding errors has no information; dividing by its deviation
    # would blow up other rows' values.
    return mean, np.where(std > 1e-12 * np.abs(mean), std, np.inf)


def _scaled(X: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    return torch.from_numpy(((X - mean) / std).astype(np.float32))
