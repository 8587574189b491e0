"""The base class of the three estimators: parameters, training, and predictions per task."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from textwrap import indent
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from qmtl.circuit import HeadCircuit, load_design
from qmtl.data import Split, label_codes, validation_cut
from qmtl.encoders import MLP
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads import HEAD_TYPES, Head, HeadOptions, build_head
from qmtl.model import MultiTaskModel
from qmtl.simulators import Simulator
from qmtl.sklearn._columns import ClassColumn, Column, Layout, input_problem, read_target
from qmtl.tasks import Task, check_varied, rounding, row_weights

PARAMETERS = """\
hidden: widths of the network's hidden layers; an empty tuple makes it one linear layer.
circuit: a design of the catalogue (``qmtl circuits list``), or a path to a .toml file.
wires_per_task: wires of every register, or by task name; None for the design's. A task with C
    classes needs at least log2(C).
encoding_layers: layers of the shared encoding; None for the design's.
block_layers: layers of the tasks' blocks; None for the design's.
head: ``"quantum"``, or another type of `qmtl.heads.build_head`, such as ``"linear"``.
simulator: ``"lightcone"`` (exact), the name of a PennyLane device, or a `qmtl.simulators`
    object, such as a `NoisySimulator`.
angle_map: from features to angles, see `qmtl.QuantumHead`.
initial: how the circuit's blocks start, see `qmtl.QuantumHead`.
max_epochs: epochs of training; None for about 7·rows^¾ steps.
batch_size: rows per step; None for 32, and for more with more than 16,384 rows.
learning_rate: of the network's parameters.
head_learning_rate: of the head's parameters; None for three times that.
weight_decay: of the network's parameters (AdamW); None for 150 / rows or 26 / √rows, the larger.
schedule: of the learning rates: ``"cosine"``, ``"constant"`` or ``"plateau"``.
scalarizer: how task losses are combined, by name (None: their mean); see
    `qmtl.TrainingSettings`.
aggregator: how task gradients are combined, by name; excludes `scalarizer`.
validation_fraction: share of the rows to hold out; the weights of their best epoch are kept.
    None trains on all rows and keeps the weights of the last epoch.
patience: stop after so many epochs without a better loss on the rows held out.
scale_inputs: whether to standardise input columns by the training rows.
accelerator: where to train: ``"cpu"``, ``"gpu"`` or ``"auto"``, as in Lightning.
random_state: seed or RandomState of initial weights, rows held out and order of rows; an
    integer makes fits repeatable, bit for bit on one machine."""
ATTRIBUTES = """\
model_: the trained `qmtl.MultiTaskModel`, in double precision; its inputs are scaled.
tasks_: its tasks, one per column.
loss_curve_: mean training loss per epoch.
input_mean_, input_std_: the scale of the inputs.
n_features_in_, feature_names_in_, n_outputs_: as in scikit-learn."""

# The parameters of an estimator that are also fields of `qmtl.TrainingSettings`.
TRAINING = (
    "max_epochs", "batch_size", "learning_rate", "head_learning_rate", "weight_decay",
    "schedule", "scalarizer", "aggregator", "patience", "accelerator",
)  # fmt: skip


def checked_weights(sample_weight: Any, n_rows: int) -> np.ndarray | None:
    """Return rows' weights as float64 (n_rows,), see `qmtl.tasks.row_weights`; None stays None."""
    weights = row_weights(sample_weight, n_rows)
    return None if weights is None else weights.numpy()


# A dataclass, because scikit-learn reads the parameters from the signature of __init__: a subclass
# inherits these and adds its own.
@dataclass(kw_only=True, eq=False, repr=False)
class ColumnsEstimator(BaseEstimator):
    """Parameters, fitting and prediction; the public estimators turn columns into tasks."""

    hidden: int | Sequence[int] = (64,)
    circuit: str = "cz-ring"
    wires_per_task: int | Mapping[str, int] | None = None
    encoding_layers: int | None = None
    block_layers: int | None = None
    head: str = "quantum"
    simulator: str | Simulator = "lightcone"
    angle_map: str = "narrow"
    initial: str = "equator"
    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.01
    head_learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: str = "cosine"
    scalarizer: str | None = None
    aggregator: str | None = None
    validation_fraction: float | None = None
    patience: int | None = None
    scale_inputs: bool = True
    accelerator: str = "cpu"
    random_state: Any = None

    def __init_subclass__(cls) -> None:
        """Fill in ``{parameters}`` and ``{attributes}`` in the class's docstring."""
        super().__init_subclass__()
        text = inspect.cleandoc(cls.__doc__ or "")
        for name, lines in (("parameters", PARAMETERS), ("attributes", ATTRIBUTES)):
            text = text.replace(f"    {{{name}}}", indent(lines, "    "))
        cls.__doc__ = text

    def __sklearn_tags__(self) -> Any:
        """Return the tags: several target columns; no sparse and no missing inputs."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    @abstractmethod
    def _make_columns(
        self, layout: Layout, values: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> Sequence[Column]:
        """Return the columns of the target, and set the estimator's attributes about them."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the model.

        Args:
            X: inputs (n, features), finite numbers, none missing.
            y: (n,) or (n, columns), whose tasks are ``y0``, ``y1``, …; or a DataFrame or mapping
                of columns, whose names are the tasks'. Classes may have any sortable type, and are
                at least two.
            sample_weight: weight of each row in losses and scales, (n,): a row of weight 2 counts
                like two rows, a row of weight 0 not at all. It multiplies class weights. None for 1
                each.

        Raises:
            ValueError: for unsuitable inputs or targets, or a parameter that does not fit.
        """
        if y is None:
            name = type(self).__name__
            raise ValueError(f"{name} requires y to be passed, but the target y is None")
        inputs = self._inputs(X, ensure_min_samples=2)
        layout, values = read_target(y)
        check_consistent_length(inputs, *values)
        weights = checked_weights(sample_weight, len(inputs))
        if weights is not None and not weights.all():
            kept = weights > 0
            inputs, weights = inputs[kept], weights[kept]
            values = [column[kept] for column in values]
        columns = self._make_columns(layout, values, weights)
        random = check_random_state(self.random_state)
        for column, name, labels in zip(columns, layout.called, values, strict=True):
            check_varied(column.task, column.targets(labels), name=name)
        params = self.get_params(deep=False)
        trained = train(params, inputs, columns, values, random, weights)
        self.model_, self.input_mean_, self.input_std_, self.loss_curve_ = trained
        self.tasks_ = self.model_.tasks
        self._layout, self._columns = layout, tuple(columns)
        self.n_outputs_ = len(columns)
        return self

    def _inputs(self, X: Any, **options: Any) -> np.ndarray:
        """Check inputs with scikit-learn; name the column in an error."""
        if isinstance(X, Tensor):  # NumPy has no bfloat16
            X = X.detach().cpu().double().numpy()
        try:
            inputs: np.ndarray = validate_data(self, X, dtype=np.float64, **options)
        except (ValueError, TypeError) as error:
            problem = input_problem(X)
            if problem is None:
                raise
            raise InvalidInputError(problem) from error
        return inputs

    def _predictions(self, X: Any) -> dict[str, np.ndarray]:
        check_is_fitted(self, "model_")
        inputs = scaled(self._inputs(X, reset=False), self.input_mean_, self.input_std_)
        return {name: values.numpy() for name, values in self.model_.predict(inputs).items()}

    def _probabilities(self, X: Any) -> dict[str, np.ndarray]:
        predictions = self._predictions(X)
        classes = [column for column in self._columns if isinstance(column, ClassColumn)]
        return {column.name: column.probabilities(predictions[column.name]) for column in classes}

    def predict(self, X: Any) -> Any:
        """Predict classes, or numbers in the target's units.

        Args:
            X: inputs (n, features).

        Returns:
            The predictions in the form of the `y` that was fitted: (n,), (n, columns), or a
            DataFrame with its columns and the row labels of `X`.
        """
        predictions = self._predictions(X)
        decided = [column.decide(predictions[column.name]) for column in self._columns]
        # A list also has an attribute "index", a method.
        index = X.index if hasattr(X, "iloc") else None
        return self._layout.assemble(decided, index)

    def _true_and_predicted(self, X: Any, y: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
        _, predicted = read_target(self.predict(X))
        layout, truth = read_target(y)
        names = self._layout.names
        if len(truth) != len(names):
            raise InvalidInputError(f"y: expected {len(names)} columns, got {len(truth)}")
        if layout.form == self._layout.form == "frame" and layout.names != names:
            raise InvalidInputError(
                f"y: expected the columns {list(names)} in this order, got {list(layout.names)}"
            )
        check_consistent_length(predicted[0], *truth)
        return list(zip(names, truth, predicted, strict=True))


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
    if settings.weight_decay is None:
        # The default of `fit` decays less with many rows: a convolution needs that, tables do not.
        decay = max(150 / len(rows), 26 / len(rows) ** 0.5)
        decay = min(decay, 0.1 / settings.learning_rate)
        settings = settings.model_copy(update={"weight_decay": decay})
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
