"""Fits of a new task: a linear layer on readings, or a block or vector by L-BFGS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from qmtl.heads import AddedBlock, AddedVector, ExtendedHead, QuantumHead, cone_columns, hosts_for
from qmtl.tasks import Task

Array = NDArray[np.float64]
# Weights (outputs, readings) and biases (outputs,).
Linear = tuple[Array, Array]
# Arguments: standardised readings (rows, readings), canonical targets (standardised for a
# regression), the task, and row weights of mean 1, or None.
Fit = Callable[[Array, Tensor, Task, Array | None], Linear]

# Ridge strengths per row, for readings of variance 1.
STRENGTHS = np.logspace(-5, 3, 17)
# Inverse regularisation strengths of the logistic regression.
INVERSE = (0.01, 0.1, 1.0, 10.0, 100.0)
# The bias of a class that occurs in no row.
ABSENT = -10.0
# Source directions with singular values below this fraction of the largest are ignored.
LEAST = 1e-3


def fits(task: Task, source: Array) -> dict[str, Fit]:
    """Return the fits for a task, by name; `source` has the trained tasks' weights."""
    found: dict[str, Fit] = {"ridge": ridge_fit, "smart": spectral_fit_of(source)}
    if task.is_classification:
        found |= {f"logistic C={c:g}": _logistic_fit_of(c) for c in INVERSE}
    return found


def signs(task: Task, targets: Tensor) -> Array:
    """Return classes as numbers: ±1 per class or label, NaN where missing; (rows, outputs)."""
    if task.kind == "multiclass":
        hot = torch.nn.functional.one_hot(targets, task.n_outputs)
        return (2 * hot.double() - 1).numpy()
    values = targets.double().reshape(len(targets), -1)
    return (values if task.kind == "regression" else 2 * values - 1).numpy()


def ridge_fit(readings: Array, targets: Tensor, task: Task, rows: Array | None = None) -> Linear:
    """Return a ridge regression (ΦᵀΦ + αI)⁻¹Φᵀy, with α by leave-one-out; classes are ±1.

    For classes, the logits are the predictions times the factor with the smallest loss of the
    leave-one-out predictions. scikit-learn's RidgeCV computes the fit.

    References:
        Pi-PINN, arXiv:2604.21761.
    """
    import sklearn
    from sklearn.linear_model import RidgeCV

    def of(x: Array, y: Array, w: Array | None) -> tuple[Array, float, Array]:
        # scikit-learn stores the predictions only if `scoring` is given.
        model = RidgeCV(STRENGTHS * len(x), scoring="neg_mean_squared_error", store_cv_results=True)
        # If the user has enabled metadata routing, the scoring would ignore the weights.
        with sklearn.config_context(enable_metadata_routing=False):
            model.fit(x, y, sample_weight=w)
        best = int(np.argmin(np.abs(model.alphas - model.alpha_)))
        return model.coef_.ravel(), float(model.intercept_), model.cv_results_[:, best].ravel()

    return _fit_outputs(of, readings, targets, task, rows)


def spectral_fit_of(source: Array) -> Fit:
    """Return a fit with sparse weights in the singular directions of the trained tasks' weights.

    With the source C = U S Vᵀ the new weights are V a, where a has an L1 penalty of a strength
    chosen by cross-validation. The paper estimates all responses of a target at once, as U A Vᵀ
    with a sparse A. The few outputs of a new task have no left subspace to transfer, so qmtl uses
    V a (qmtl's interpretation).

    References:
        SMART, arXiv:2604.20161.
    """
    _, values, right = np.linalg.svd(source, full_matrices=False)
    # If all values are zero, all directions are equally good.
    directions = right[values >= LEAST * values.max()].T

    def of(x: Array, y: Array, w: Array | None) -> tuple[Array, float, Array]:
        from sklearn.linear_model import LassoCV

        # By default, scikit-learn would draw a seed from NumPy's global generator.
        options: dict[str, Any] = {"max_iter": 20_000, "random_state": 0}
        model = LassoCV(cv=min(5, len(x)), alphas=np.logspace(-4, 0, 20), **options)
        model.fit(x, y, sample_weight=w)
        return model.coef_, float(model.intercept_), model.predict(x)

    def fit(readings: Array, targets: Tensor, task: Task, rows: Array | None = None) -> Linear:
        weights, biases = _fit_outputs(of, readings @ directions, targets, task, rows)
        return weights @ directions.T, biases

    return fit


def _logistic_fit_of(inverse: float) -> Fit:
    def fit(readings: Array, targets: Tensor, task: Task, rows: Array | None = None) -> Linear:
        from sklearn.linear_model import LogisticRegression

        weights = np.zeros((task.n_outputs, readings.shape[1]))
        biases = np.full(task.n_outputs, ABSENT)
        if task.kind == "multiclass":
            if len(targets.unique()) < 2:
                biases[int(targets[0])] = 0.0
                return weights, biases
            model = LogisticRegression(C=inverse, max_iter=1000)
            model.fit(readings, targets.numpy(), sample_weight=rows)
            classes = model.classes_.astype(int)
            if len(classes) == 2:
                # For two classes, scikit-learn fits one row: the second class against the first.
                weights[classes[1]], biases[classes] = model.coef_[0], (0, model.intercept_[0])
            else:
                weights[classes], biases[classes] = model.coef_, model.intercept_
            return weights, biases
        for i, column in enumerate(targets.reshape(len(targets), -1).T):
            known = (~column.isnan()).numpy()
            labels = column.numpy()[known]
            if len(set(labels)) < 2:
                biases[i] = ABSENT if not labels.any() else -ABSENT
                continue
            model = LogisticRegression(C=inverse, max_iter=1000)
            model.fit(readings[known], labels, sample_weight=None if rows is None else rows[known])
            weights[i], biases[i] = model.coef_[0], model.intercept_[0]
        return weights, biases

    return fit


def _fit_outputs(
    of: Any, readings: Array, targets: Tensor, task: Task, rows: Array | None
) -> Linear:
    """Return a fit of each output on its labelled rows.

    For classes, the logits are the predictions of ±1 times the factor with the smallest loss.
    """
    wanted = signs(task, targets)
    weights, biases = np.zeros((wanted.shape[1], readings.shape[1])), np.zeros(wanted.shape[1])
    predictions = np.zeros(wanted.shape)
    for i, column in enumerate(wanted.T):
        known = ~np.isnan(column)
        if len(set(column[known])) < 2:
            # Without two different labels, predict the only label, or 0.
            biases[i] = column[known][0] if known.any() else 0.0
            predictions[known, i] = biases[i]
            continue
        own = None if rows is None else rows[known]
        weights[i], biases[i], predictions[known, i] = of(readings[known], column[known], own)
    if task.kind == "regression":
        return weights, biases
    from scipy.optimize import minimize_scalar

    given = torch.from_numpy(predictions)
    sample_weight = None if rows is None else torch.from_numpy(rows)

    def loss(log_factor: float) -> float:
        return float(task.loss(given * float(np.exp(log_factor)), targets, sample_weight))

    factor = float(np.exp(minimize_scalar(loss, bounds=(-2.0, 4.0), method="bounded").x))
    return weights * factor, biases * factor


# Weight decay of a block's linear map to its register, and of a vector, which has few entries.
DECAY, VECTOR_DECAY = 1e-3, 1e-5
ITERATIONS = 60


class Rows(NamedTuple):
    """Labelled rows of a new task, for training."""

    features: Tensor  # of the frozen encoder
    targets: Tensor  # canonical; standardised for a regression
    weights: Tensor | None

    def take(self, rows: Any) -> "Rows":
        weights = None if self.weights is None else self.weights[rows]
        return Rows(self.features[rows], self.targets[rows], weights)


def train_block(extended: ExtendedHead, task: Task, rows: Rows) -> None:
    """Train an extended head's last block in place."""
    block = extended.blocks[-1]
    assert isinstance(block, AddedBlock)
    decayed = DECAY, block.inputs.weight.parameter
    _minimise(block, lambda: block(rows.features), task, rows, *decayed)


def train_vector(extended: ExtendedHead, task: Task, rows: Rows) -> None:
    """Train the vector and the scale of an extended head's last vector task in place."""
    added, base = extended.vectors[-1], extended.base
    assert isinstance(added, AddedVector)
    decayed = VECTOR_DECAY, added.vector.parameter
    _minimise(added, lambda: added(base, rows.features), task, rows, *decayed)


def best_host(base: QuantumHead, task: Task, rows: Rows) -> str:
    """Return the trained task on whose register to measure a new task with similar outputs.

    The features in the light cone of this task fit the labels best, by least squares.
    """
    columns = cone_columns(base.circuit)
    x = rows.features.double().numpy()
    y = np.nan_to_num(signs(task, rows.targets))
    root = np.ones((len(x), 1)) if rows.weights is None else rows.weights.sqrt().numpy()[:, None]

    def loss(host: str) -> float:
        inputs = np.column_stack([x[:, columns[host]], np.ones(len(x))])
        found, *_ = np.linalg.lstsq(root * inputs, root * y, rcond=1e-6)
        return float(np.square(root * (y - inputs @ found)).sum())

    return min(hosts_for(task, base), key=loss)


def _minimise(
    module: nn.Module,
    logits: Callable[[], Tensor],
    task: Task,
    rows: Rows,
    decay: float,
    decayed: Tensor,
) -> None:
    """Train the module in place, by the loss on all rows plus weight decay of one parameter.

    The method is L-BFGS, because the module has only some twenty weights.
    """
    # Not torch.optim: its first step imports torch's compiler, which takes seconds.
    from scipy.optimize import minimize

    parameters = [p for p in module.parameters() if p.requires_grad]

    def loss_and_gradient(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        vector_to_parameters(torch.from_numpy(values).to(parameters[0]), parameters)
        with torch.enable_grad():
            loss = task.loss(logits(), rows.targets, rows.weights) + decay * decayed.square().sum()
            gradients = torch.autograd.grad(loss, parameters)
        return float(loss.detach()), parameters_to_vector(gradients).double().numpy()

    start = parameters_to_vector(parameters).detach().double().numpy()
    options = {"maxiter": ITERATIONS}
    best = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    vector_to_parameters(torch.from_numpy(best.x).to(parameters[0]), parameters)
