"""Addition of a task to a frozen head, by the method with the best cross-validated loss."""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._growth import larger_model
from qmtl._model_files import check_plain
from qmtl._target_scale import label_scale
from qmtl.adaptation._fits import Array, Fit, Rows, best_host, fits, train_block, train_vector
from qmtl.data import MultiTaskData, column_differences
from qmtl.errors import InvalidInputError, QmtlError, unknown_name
from qmtl.heads import ExtendedHead, Head, QuantumHead, hosts_for, takes_vectors
from qmtl.tasks import Task, row_weights

METHODS = ("ridge", "logistic", "smart", "block", "vector")
"""Ways to adapt a model to a new task."""
FOLDS = 5
# A method is dropped after the first fold if its loss exceeds BEHIND times the least loss plus
# MARGIN.
BEHIND, MARGIN = 1.25, 0.01


@dataclass(frozen=True)
class Adapted:
    """A record of an added task.

    Attributes:
        method: the chosen method, with its strength if several were tried.
        losses: for each method, the mean loss on the held-out rows of all folds, or of the first
            fold if the method was then far behind.
        scores: metrics of the chosen method on the held-out rows; for a regression, on standardised
            targets.
        rows: number of labelled rows.
        parameters: number of parameters of the task.
        seconds: duration of the adaptation.
    """

    method: str
    losses: dict[str, float]
    scores: dict[str, float]
    rows: int
    parameters: int
    seconds: float


def adapted_head(
    head: Head,
    task: Task,
    features: Tensor,
    targets: Tensor,
    *,
    sample_weight: Tensor | None = None,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
) -> tuple[ExtendedHead, Adapted]:
    """Return a head with one more task and an unchanged copy of the given head, and a record.

    Args:
        head: the trained head.
        task: the new task.
        features: output of the frozen encoder, shape (rows, head.n_features).
        targets: canonical targets of these rows; regression targets are standardised.
        sample_weight: weight of each row, (rows,), above zero; None for 1 each.
        methods: the methods to choose from, see `METHODS`. ``"logistic"`` is for classification;
            ``"vector"`` is for heads that compute their blocks and have a task with outputs like
            the new task's.
        seed: seed of the folds and of a block's initial weights.

    Raises:
        InvalidInputError: for an unknown method, the name of an existing task, or fewer than two
            different labels.

    Example:
        >>> from qmtl import HeadCircuit, QuantumHead
        >>> head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
        >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        >>> new = Task.binary("c")
        >>> larger, how = adapted_head(head, new, x, (x[:, 0] > 0).float(), methods=["ridge"])
        >>> how.method, list(larger(x))
        ('ridge', ['a', 'b', 'c'])
    """
    started = time.perf_counter()
    one = isinstance(methods, str) or not isinstance(methods, Iterable)
    methods = [methods] if one else list(methods)  # type: ignore[list-item]
    _check(head, task, methods)
    # Fits use numpy, so they need a copy of the head on the CPU.
    device = next(head.parameters()).device
    if device.type != "cpu":
        head = copy.deepcopy(head).cpu()
    features, targets = features.cpu(), targets.cpu()
    known = task.labelled(targets)
    features, targets = features[known].detach(), targets[known]
    check_labels(task, targets)
    weights = None
    if sample_weight is not None:
        weights = sample_weight.cpu().double()[known]
        weights = weights / weights.mean()
    extended = _extend(head, task, seed=seed)
    with torch.no_grad():
        readings, outputs = extended.readings(features).double(), _outputs(head, features)
    share = 1.0 if weights is None else weights[:, None]
    mean = (share * readings).mean(dim=0)
    spread = (share * (readings - mean).square()).mean(dim=0).sqrt().clamp(min=1e-6)
    standardised = (readings - mean) / spread
    new = _NewTask(head, task, standardised, Rows(features, targets, weights), seed)
    # Least-squares weights that predict the trained tasks' outputs from readings.
    centred = (outputs.double() - outputs.double().mean(dim=0)).numpy()
    source = np.linalg.lstsq(standardised.numpy(), centred, rcond=1e-6)[0].T
    ways: dict[str, Way] = {
        name: partial(new.by_layer, fit)
        for name, fit in fits(task, source).items()
        if name.split()[0] in methods
    }
    if "block" in methods:
        ways["block"] = new.by_block
    if "vector" in methods and _takes_vector(head, task):
        ways["vector"] = new.by_vector
    losses, left_out = _race(new, ways)
    # Compare only methods that ran on all folds, because the first fold may be easier.
    n_folds = max(map(len, left_out.values()))
    method = min((n for n in losses if len(left_out[n]) == n_folds), key=losses.__getitem__)
    found = ways[method](slice(None))
    if isinstance(found, ExtendedHead):
        extended, own = found, sum(p.numel() for p in _added(found, task).parameters())
    else:
        matrix, biases = found
        own = matrix.numel() + biases.numel()
        _place(extended, task, matrix / spread, biases, mean)
    for parameter in (p for rows in extended.task_rows() for p in rows.parameters()):
        parameter.grad = None
    rows, logits = zip(*left_out[method], strict=True)
    order = np.concatenate(rows)
    predicted = task.activation(torch.cat(logits))
    held_out = new.rows.take(order)
    scores = task.evaluate(predicted, held_out.targets, held_out.weights)
    how = Adapted(method, losses, scores, len(targets), own, time.perf_counter() - started)
    extended.notes[task.name] = asdict(how)
    return extended.to(device), how


# A linear layer's weights and biases, or the head with a trained block or vector.
Found = tuple[Tensor, Tensor] | ExtendedHead
# A way to learn the task from some rows.
Way = Callable[[Any], Found]


@dataclass(frozen=True)
class _NewTask:
    head: Head
    task: Task
    readings: Tensor  # standardised, float64
    rows: Rows
    seed: int

    def by_layer(self, fit: Fit, rows: Any) -> Found:
        own = self.rows.take(rows)
        counts = None if own.weights is None else own.weights.numpy()
        matrix, biases = fit(self.readings[rows].numpy(), own.targets, self.task, counts)
        return torch.from_numpy(matrix), torch.from_numpy(biases)

    def by_block(self, rows: Any) -> Found:
        extended = _extend(self.head, self.task, block=True, seed=self.seed)
        train_block(extended, self.task, self.rows.take(rows))
        return extended

    def by_vector(self, rows: Any) -> Found:
        base, own = _base(self.head), self.rows.take(rows)
        assert isinstance(base, QuantumHead)
        host = best_host(base, self.task, own)
        extended = _extend(self.head, self.task, host=host, seed=self.seed)
        train_vector(extended, self.task, own)
        return extended

    @torch.no_grad()
    def logits(self, found: Found, rows: Any) -> Tensor:
        if not isinstance(found, ExtendedHead):
            return self.readings[rows] @ found[0].T + found[1]
        features = self.rows.features[rows]
        given = (found.base, features) if self.task.name in found.hosts else (features,)
        logits: Tensor = _added(found, self.task)(*given)
        return logits


def _added(extended: ExtendedHead, task: Task) -> nn.Module:
    """Return the block or the vector of `task`, which was added last."""
    return extended.vectors[-1] if task.name in extended.hosts else extended.blocks[-1]


def _check(head: Head, task: Task, methods: Sequence[str]) -> None:
    names = [own.name for own in head.tasks]
    if task.name in names:
        raise InvalidInputError(
            f"the model has a task {task.name!r} already; its tasks are {', '.join(names)}"
        )
    for name in methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    base = _base(head)
    if list(methods) == ["vector"] and not _takes_vector(head, task):
        why = "its blocks are trained weights; vectors need a MixtureHead or a HyperHead"
        if takes_vectors(base):
            why = f"none of its tasks has outputs like a {task.kind} task with {task.n_outputs}"
        raise InvalidInputError(
            f"task {task.name!r} cannot be added to the {type(base).__name__} by a vector: {why}"
        )
    unusable = {
        *(() if task.is_classification else ("logistic",)),
        *(() if _takes_vector(head, task) else ("vector",)),
    }
    usable = [name for name in methods if name not in unusable]
    if not usable:
        raise InvalidInputError(
            f"methods must be some of {', '.join(METHODS)}, got {methods!r} for the {task.kind} "
            f"task {task.name!r}"
        )


def check_labels(task: Task, targets: Tensor) -> None:
    """Raise `InvalidInputError` for fewer than two labelled rows, or labels that are all equal."""
    if len(targets) < 2:
        raise InvalidInputError(
            f"task {task.name!r}: at least two labelled rows are needed, got {len(targets)}"
        )
    values = targets.reshape(len(targets), -1).double()
    found = values[~values.isnan()].unique()
    if len(found) < 2:
        what = "classes" if task.is_classification else "values"
        raise InvalidInputError(
            f"task {task.name!r}: the labels must have at least two different {what}, got "
            f"{len(targets)} labelled rows with {found.tolist()}"
        )


def _base(head: Head) -> Head:
    return head.base if isinstance(head, ExtendedHead) else head


def _takes_vector(head: Head, task: Task) -> bool:
    return takes_vectors(_base(head)) and bool(hosts_for(task, _base(head)))


def _extend(
    head: Head, task: Task, *, block: bool = False, host: str | None = None, seed: int
) -> ExtendedHead:
    """Return a copy of the head with one more, untrained task."""
    blocks = [task.name] if block else []
    vectors = {} if host is None else {task.name: host}
    if not isinstance(head, ExtendedHead):
        extended = ExtendedHead(copy.deepcopy(head), [task], blocks, vectors, seed=seed)
        return _placed_like(extended, head)
    larger = ExtendedHead(
        copy.deepcopy(head.base),
        [*head.added, task],
        [*head.with_blocks, *blocks],
        head.hosts | vectors,
        seed=seed,
        notes=head.notes,
    )
    larger = _placed_like(larger, head)
    larger.load_state_dict(larger.state_dict() | head.state_dict())
    return larger


def _placed_like(made: ExtendedHead, head: Head) -> ExtendedHead:
    reference = next(head.parameters())
    return made.to(reference).train(head.training)


def _outputs(head: Head, features: Tensor) -> Tensor:
    """Return the expectation values of a quantum head's tasks, or the logits of another head."""
    base = _base(head)
    if not isinstance(base, QuantumHead):
        logits: Tensor = base(features, joined=True)
        return logits
    return torch.cat(list(base.expectation_values(base.angles(features)).values()), dim=1)


def _folds(task: Task, targets: Tensor, seed: int) -> list[tuple[Array, Array]]:
    """Return folds of the rows, stratified by class if every class has at least two rows."""
    from sklearn.model_selection import KFold, StratifiedKFold

    rows = np.zeros(len(targets))
    seed = seed and seed % 2**32  # scikit-learn takes no other seed
    if task.kind in ("binary", "multiclass"):
        labels = targets.numpy().astype(int)
        least = np.unique(labels, return_counts=True)[1].min()
        if least >= 2:
            splitter = StratifiedKFold(min(FOLDS, int(least)), shuffle=True, random_state=seed)
            return list(splitter.split(rows, labels))
    return list(KFold(min(FOLDS, len(targets)), shuffle=True, random_state=seed).split(rows))


def _race(
    new: _NewTask, ways: dict[str, Way]
) -> tuple[dict[str, float], dict[str, list[tuple[Array, Tensor]]]]:
    """Return each method's mean loss and logits on held-out rows; drop methods far behind."""
    sums = {name: np.zeros(2) for name in ways}
    logits: dict[str, list[tuple[Array, Tensor]]] = {name: [] for name in ways}
    running = list(ways)
    for number, (rows, left) in enumerate(_folds(new.task, new.rows.targets, new.seed)):
        own = new.rows.take(left)
        for name in running:
            predicted = new.logits(ways[name](rows), left)
            logits[name].append((left, predicted))
            terms = new.task.loss_terms(predicted, own.targets, own.weights)
            sums[name] += [float(term) for term in terms]
        if number == 0:
            first = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
            bound = BEHIND * min(first.values()) + MARGIN
            running = [name for name, loss in first.items() if loss <= bound]
    losses = {n: float(total / count) if count else inf for n, (total, count) in sums.items()}
    return losses, logits


def _place(
    extended: ExtendedHead, task: Task, weights: Tensor, biases: Tensor, mean: Tensor
) -> None:
    """Set the task's layer, with biases for readings that are not centred."""
    assert extended.readouts is not None
    assert extended.readouts.bias is not None
    with torch.no_grad():
        extended.readouts.weight[task.name].copy_(weights)
        extended.readouts.bias[task.name].copy_(biases - weights @ mean)


def adapted(
    model: Any, task: Task, data: Any, sample_weight: Any, *, methods: Sequence[str], seed: int,
    make: type,
) -> Any:  # fmt: skip
    """Return the larger model, an instance of `make`; see `MultiTaskModel.adapt`."""
    import sklearn.linear_model  # noqa: F401  (loads the libraries whose threads are limited)
    from threadpoolctl import threadpool_limits

    check_plain("head", model.head, "be copied", parametrised=False)
    if not isinstance(model.head, Head):
        kind = type(model.head).__name__
        raise InvalidInputError(f"only a head of qmtl.heads can be adapted, got a {kind}")
    if not isinstance(task, Task):
        raise InvalidInputError(f"new_task must be a Task, got a {type(task).__name__}")
    inputs, targets, weights = _labelled_rows(model, task, data, sample_weight)
    scale = None
    if task.kind == "regression":
        check_labels(task, targets)
        mean, std = scale = label_scale(targets, weights)
        wide = targets.reshape(len(targets), -1).double()
        targets = ((wide - mean) / std).reshape(targets.shape)
    try:
        features = model.features(inputs)
    except RuntimeError as error:  # torch's modules raise it for another width
        raise InvalidInputError(
            f"inputs of shape {tuple(inputs.shape)} do not go through the model's encoder "
            f"{type(model.encoder).__name__}: {' '.join(str(error).split())}"
        ) from error
    # The fits are small, and threads of several libraries would wait for each other.
    with threadpool_limits(1):
        options: dict[str, Any] = {"methods": methods, "seed": seed, "sample_weight": weights}
        head, _ = adapted_head(model.head, task, features, targets, **options)
    larger = larger_model(make, model, copy.deepcopy(model.encoder), head)
    if scale is not None:
        larger.set_target_scale(task.name, *scale)
    _check_same(model, larger, inputs[:256])
    return larger


def _check_same(model: Any, larger: Any, inputs: Tensor) -> None:
    """Raise if a larger model gives different outputs for a model's tasks."""
    names = [task.name for task in model.tasks]
    with seeded(0):
        before = model.predict(inputs, names)
    with seeded(0):
        after = larger.predict(inputs, names)
    for name, values in before.items():
        if not torch.equal(values, after[name]):
            raise QmtlError(f"the outputs of task {name!r} changed when a task was added")


def _labelled_rows(
    model: Any, task: Task, data: Any, sample_weight: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return a task's labelled rows: inputs, canonical targets, and weights of at most 1."""
    if isinstance(data, MultiTaskData):
        if sample_weight is not None:
            raise InvalidInputError(
                "sample_weight goes with a pair of inputs and labels; MultiTaskData has the "
                "weights of its rows"
            )
        inputs, targets, sample_weight = _of_data(model, task, data)
    elif isinstance(data, tuple) and len(data) == 2:
        inputs, targets = model.as_samples(data[0]), task.to_targets(data[1])
    else:
        raise InvalidInputError(
            f"data must be MultiTaskData or a pair of inputs and labels, got {type(data).__name__}"
        )
    if len(inputs) != len(targets):
        raise InvalidInputError(
            f"task {task.name!r}: got {len(inputs)} rows of inputs and {len(targets)} labels"
        )
    known, weights = task.labelled(targets).cpu(), row_weights(sample_weight, len(targets))
    if weights is not None:
        known = known & (weights > 0)
        weights = weights[known] / weights.max()
    return model.as_samples(inputs[known]), targets[known].cpu(), weights


def _of_data(model: Any, task: Task, data: MultiTaskData) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return inputs, targets and weights of the train and validation rows."""
    own = data.task(task.name)
    if not task.labelled_like(own):
        raise InvalidInputError(
            f"the new task {task.name!r} is {task.labels_in_words()}; the data's is "
            f"{own.labels_in_words()}"
        )
    if None not in (model.columns, data.columns) and model.columns != data.columns:
        sides = column_differences(model.columns, data.columns)
        raise InvalidInputError(
            f"the model and the data encode their tables differently: the model has {sides[0]}; "
            f"the data have {sides[1]}; give (data frame, labels), which the model encodes itself"
        )
    splits = (data.train, data.validation)
    inputs = torch.cat([split.inputs for split in splits])
    targets = torch.cat([split.targets[task.name] for split in splits])
    if all(split.sample_weight is None for split in splits):
        return inputs, targets, None
    weights = [
        torch.ones(len(split), dtype=torch.float64)
        if split.sample_weight is None
        else split.sample_weight
        for split in splits
    ]
    return inputs, targets, torch.cat(weights)
