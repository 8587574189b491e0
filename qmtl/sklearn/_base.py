"""The base class of the three estimators: parameters, fitting, and predictions per task."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.simulators import Simulator
from qmtl.sklearn._columns import ClassColumn, Column, Layout, input_problem, read_target
from qmtl.sklearn._trained import scaled, train
from qmtl.tasks import check_varied, row_weights

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
