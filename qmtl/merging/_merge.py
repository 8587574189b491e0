"""merge: make one model of all tasks from separately trained models."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qmtl._calls import called_with, evaluating
from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, check_integer, is_number, unknown_name
from qmtl.merging._parts import (
    State,
    assembled,
    check_keep_last,
    check_models,
    check_shape,
    set_shared,
    shared_state,
)
from qmtl.methods import Batch
from qmtl.model import MultiTaskModel
from qmtl.tasks import task_layout

ANGLES = ("encoding", "blocks")


def wrapped(angles: Tensor) -> Tensor:
    """Wrap angles (radians) to (-π, π].

    Example:
        >>> wrapped(torch.tensor([3 * math.pi / 2, -math.pi / 2, 0.5]))
        tensor([-1.5708, -1.5708,  0.5000])
    """
    return math.pi - torch.remainder(math.pi - angles, 2 * math.pi)


def differences(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> State:
    """Return a task vector, `state` minus `base` by name, with angles wrapped to (-π, π].

    Example:
        >>> base, state = {"encoding": torch.tensor([3.0])}, {"encoding": torch.tensor([-3.0])}
        >>> differences(state, base)["encoding"]
        tensor([0.2832])
    """
    return {
        name: wrapped(state[name] - base[name]) if name in ANGLES else state[name] - base[name]
        for name in base
    }


def arithmetic(vectors: Sequence[State], scales: Sequence[float]) -> State:
    """Return the sum of task vectors, each times its scale.

    Example:
        >>> arithmetic([{"w": torch.ones(1)}, {"w": torch.ones(1)}], [0.5, 1.0])["w"].tolist()
        [1.5]

    References:
        Task arithmetic, arXiv:2212.04089.
    """
    return {
        name: sum((s * v[name] for s, v in zip(scales, vectors, strict=True)), torch.zeros(()))
        for name in vectors[0]
    }


def disjoint(vectors: Sequence[State], scale: float = 1.0, keep: float = 1.0) -> State:
    """Return the change of each weight by the task that changed the weight most, times `scale`.

    Locate: keep a fraction `keep`, in (0, 1], of the entries of each tensor of every task vector,
    the largest entries. Elect: for each weight, choose the task with the largest change relative to
    the root mean square of its tensor. Disjoint: apply only the change by this task. The paper
    locates weights by gradients on data; qmtl's version needs only the weights.

    Example:
        >>> vectors = [{"w": torch.tensor([1.0, 0.1])}, {"w": torch.tensor([0.1, -1.0])}]
        >>> disjoint(vectors)["w"].tolist()
        [1.0, -1.0]

    References:
        LED-Merging, arXiv:2502.16770.
    """
    merged = {}
    for name, first in vectors[0].items():
        flat = torch.stack([vector[name].flatten() for vector in vectors]).double()
        size = flat.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-30)
        importance = (flat / size).abs()
        largest = importance.topk(math.ceil(keep * flat.shape[1]), dim=1).indices
        located = torch.zeros_like(importance).scatter_(1, largest, 1.0)
        importance = importance * located
        elected = torch.nn.functional.one_hot(importance.argmax(dim=0), len(vectors)).T
        chosen = (flat * elected * located).sum(dim=0)
        merged[name] = (scale * chosen).reshape(first.shape).to(first.dtype)
    return merged


def projective(
    vectors: Sequence[State], scale: float, rank: float = 0.25, steps: int = 200
) -> State:
    """Return the sum of scaled task vectors, plus shifts that reduce interference between tasks.

    The scales λ_t are proportional to 1/‖τ_t‖, with mean `scale`. For each matrix, gradient descent
    minimises Σ_t ‖(Δ + Σ_s λ_s τ_s − τ_t) τ_tᵀ‖² / ‖τ_t‖² over the shift Δ. This is the change of
    the layer's outputs on each task's inputs, because the rows of a task vector lie in the span of
    the inputs. The gradient is projected off the subspace that the tasks share. The leading left
    singular vectors of all task vectors, a fraction `rank` of each matrix's, span this subspace.
    Vectors have no shift. The paper does not define the losses exactly; this form is qmtl's choice.

    References:
        Adaptive projective gradient descent, arXiv:2501.01230.
    """
    squares = [sum(float(v.double().square().sum()) for v in one.values()) for one in vectors]
    # Equal models have task vectors of norm 0.
    inverse = [1 / max(math.sqrt(square), 1e-30) for square in squares]
    scales = [scale * len(vectors) * value / sum(inverse) for value in inverse]
    merged = arithmetic(vectors, scales)
    for name, value in merged.items():
        if value.ndim == 2 and name not in ANGLES:
            taus = [vector[name].double() for vector in vectors]
            shift = _shift(value.double(), taus, rank, steps)
            merged[name] = value + shift.to(value.dtype)
    return merged


def _shift(start: Tensor, taus: Sequence[Tensor], rank: float, steps: int) -> Tensor:
    """Return the shift Δ of one matrix that minimises task interference, (rows, columns)."""
    grams = [tau.T @ tau / tau.square().sum().clamp(min=1e-30) for tau in taus]
    count = max(1, int(rank * min(start.shape)))
    leading = torch.cat([torch.linalg.svd(tau)[0][:, :count] for tau in taus], dim=1)
    vectors, values, _ = torch.linalg.svd(leading, full_matrices=False)
    shared = vectors[:, :count] * (values[:count] > 1e-12)
    # The norm of the sum of the Gram matrices bounds the curvature of the loss.
    step = 0.5 / max(float(torch.linalg.matrix_norm(sum(grams, 0 * grams[0]), 2)), 1e-30)
    shift = torch.zeros_like(start)
    for _ in range(steps):
        gradient = torch.zeros_like(start)
        for tau, gram in zip(taus, grams, strict=True):
            gradient = gradient + 2 * (shift + start - tau) @ gram
        shift = shift - step * (gradient - shared @ (shared.T @ gradient))
    return shift


METHODS = ("arithmetic", "disjoint", "projective", "concrete", "atm")
"""Ways to merge models."""
WITH_DATA = ("concrete", "atm")
"""Ways to merge models that need labelled rows."""
# Further options of each method; the options of "atm" are settings of `qmtl.fit`.
FURTHER = {"disjoint": ("keep",), "projective": ("rank",)}

Shared = Callable[[MultiTaskModel], State]

# Training of a mask: rows of each model's data per step, and the learning rate.
BATCH, RATE = 64, 0.1
# The parameter of a head that holds each merged tensor.
_PLACES = {"blocks": "blocks.parameter", "scales": "scales.parameter"}


def merge(
    models: Sequence[MultiTaskModel],
    method: str = "arithmetic",
    *,
    base: MultiTaskModel | None = None,
    scale: float | None = None,
    data: Sequence[MultiTaskData] | None = None,
    rounds: int = 5,
    steps: int = 60,
    seed: int = 0,
    keep_last: bool = False,
    **options: Any,
) -> MultiTaskModel:
    """Merge several models' encoders and encodings into one model of all their tasks.

    The models must have encoders of the same shape and circuits of the same kind on the same number
    of wires. Tasks keep their blocks; if the models have the same tasks, their blocks are merged,
    too. Angles are merged along the shorter way around the circle. Merging works best for models
    that started training from the same weights; give the untrained model as `base`.

    Args:
        models: the separately trained models.
        method: ``"arithmetic"``: base + scale · Σ of the changes by training; ``"disjoint"``: each
            weight gets only the change by the task that changed it most; ``"projective"``:
            arithmetic scaled by norms, with a learned shift; ``"concrete"``: a mask on the changes,
            learned on data; ``"atm"``: for several rounds, tune on every model's data and average.
        base: the model before training, of the models' shape; None for the models' mean.
        scale: factor of the sum; None for 1 / number of models (1 for ``"disjoint"``). ``"atm"``
            averages and has no scale.
        data: data of every model, for ``"concrete"`` and ``"atm"``, which use training rows only.
        rounds: (atm) number of rounds of tuning and merging.
        steps: (concrete) number of training steps of the mask.
        seed: seed of batches and masks.
        keep_last: whether every model keeps its encoder's last layer and its encoding; for models
            of different tasks in the partitioned layout.
        **options: (atm) further settings of `qmtl.fit`; the default is one epoch per round.
            (disjoint) ``keep``. (projective) ``rank``.

    Raises:
        InvalidInputError: for models that do not fit together, an unknown method, an option that
            the method does not have, or data that are missing or have other tasks.

    Example:
        >>> import qmtl
        >>> def model(name):
        ...     circuit = qmtl.HeadCircuit([qmtl.Task.binary(name)])
        ...     encoder = qmtl.encoders.MLP(10, 8, out_features=circuit.n_features, seed=0)
        ...     return qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> merged = merge([model("a"), model("b")])
        >>> list(merged.predict(torch.ones(1, 10)))
        ['a', 'b']

    References:
        Task arithmetic, arXiv:2212.04089; ATM, arXiv:2411.03055; adaptive projective gradient
        descent, arXiv:2501.01230; Concrete subspace learning, arXiv:2312.06173; LED-Merging,
        arXiv:2502.16770.
    """
    if isinstance(models, MultiTaskModel) or not isinstance(models, Iterable):
        kind = type(models).__name__
        raise InvalidInputError(f"models must be a list of MultiTaskModel, got a {kind}")
    models = list(models)
    same_tasks = check_models(models)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if keep_last:
        check_keep_last(models, same_tasks)
    shared = partial(shared_state, blocks=same_tasks, keep_last=keep_last)
    given = _base_state(models, base, shared)
    states = [shared(model) for model in models]
    _check_options(method, scale, options)
    rounds = check_integer("rounds", rounds)
    steps = check_integer("steps", steps)
    if scale is None:
        scale = 1.0 if method == "disjoint" else 1 / len(models)
    if method in WITH_DATA:
        _check_data(models, data, method)
    mean = _mean(states, states[0])
    # Training does not optimise buffers such as batch statistics, so every method averages them.
    statistics = {f"encoder.{name}" for name, _ in models[0].encoder.named_buffers()}
    start = mean if given is None else given
    start = start | {name: mean[name] for name in start if name in statistics}
    if method == "atm":
        # The first merge averages the trained models.
        first = start if given is None else _mean(states, start)
        return _tuned(models, data or (), first, same_tasks, shared, rounds, seed, options)
    trained = {name: value for name, value in start.items() if name not in statistics}
    vectors = [differences(state, trained) for state in states]
    if method == "concrete":
        change = _masked(models, data or (), start, vectors, scale, steps, seed)
    elif method == "disjoint":
        change = disjoint(vectors, scale, **options)
    elif method == "projective":
        change = projective(vectors, scale, **options)
    else:
        change = arithmetic(vectors, [scale] * len(models))
    return assembled(models, _plus(start, change), same_tasks)


def _check_options(method: str, scale: float | None, options: dict[str, Any]) -> None:
    """Raise `InvalidInputError` for options without effect on the method, or wrong values."""
    if method == "atm":
        if scale is not None:
            raise InvalidInputError(f"method 'atm' averages models and has no scale, got {scale}")
        return
    if scale is not None and not (is_number(scale) and math.isfinite(scale)):
        raise InvalidInputError(f"scale must be a finite number, got {scale!r}")
    for name, value in options.items():
        if name not in FURTHER.get(method, ()):
            known = FURTHER.get(method, ("none",))
            raise unknown_name(f"option of method {method!r}:", name, known)
        if not (is_number(value) and 0 < value <= 1):
            raise InvalidInputError(f"method {method!r}: {name} must be in (0, 1], got {value!r}")


def _base_state(
    models: Sequence[MultiTaskModel], base: MultiTaskModel | None, shared: Shared
) -> State | None:
    if base is None:
        return None
    if not isinstance(base, MultiTaskModel):
        raise InvalidInputError(f"base must be a MultiTaskModel, got {type(base).__name__}")
    check_shape(models[0], base, "base")
    wanted, found = shared(models[0]), shared(base)
    for name, value in wanted.items():
        shape = tuple(found[name].shape) if name in found else "nothing"
        if shape != tuple(value.shape):
            raise InvalidInputError(
                f"base does not have the models' shape: {name} is {shape} in base, "
                f"{tuple(value.shape)} in model 1"
            )
    return {name: found[name] for name in wanted}


def _mean(states: Sequence[State], start: State) -> State:
    """Return the mean of the states: `start` plus the mean difference from `start`."""
    vectors = [differences(state, start) for state in states]
    return _plus(start, arithmetic(vectors, [1 / len(states)] * len(states)))


def _plus(start: State, change: State) -> State:
    return {
        name: value + change[name].to(value) if name in change else value
        for name, value in start.items()
    }


def _check_data(
    models: Sequence[MultiTaskModel], data: Sequence[MultiTaskData] | None, method: str
) -> None:
    count = len(data) if isinstance(data, Sequence) else None
    if data is None or count != len(models):
        got = "none" if data is None else f"a {type(data).__name__}" if count is None else count
        raise InvalidInputError(
            f"method {method!r} needs data=[...], one for each of {len(models)} models, got {got}"
        )
    for number, (model, own) in enumerate(zip(models, data, strict=True), start=1):
        ours, theirs = (", ".join(t.name for t in tasks) for tasks in (model.tasks, own.tasks))
        if ours != theirs:
            raise InvalidInputError(f"model {number} has the tasks {ours}, its data {theirs}")
        for task, given in zip(model.tasks, own.tasks, strict=True):
            if not task.labelled_like(given):
                raise InvalidInputError(
                    f"task {task.name!r} of model {number} is {task.labels_in_words()}; its data "
                    f"have {given.labels_in_words()}"
                )


def _tuned(
    models: Sequence[MultiTaskModel],
    data: Sequence[MultiTaskData],
    start: State,
    same_tasks: bool,
    shared: Shared,
    rounds: int,
    seed: int,
    options: dict[str, Any],
) -> MultiTaskModel:
    """Tune every model from the merged state, merge again, and repeat (ATM)."""
    from qmtl.training import fit

    tuned = [copy.deepcopy(model) for model in models]
    settings: dict[str, Any] = {"max_epochs": 1, "progress": False, "schedule": "constant"}
    settings |= options
    for number in range(rounds):
        for model, own in zip(tuned, data, strict=True):
            set_shared(model, start)
            fit(model, own, seed=seed + number, **settings)
        start = _mean([shared(model) for model in tuned], start)
    return assembled(tuned, start, same_tasks)


def _masked(
    models: Sequence[MultiTaskModel],
    data: Sequence[MultiTaskData],
    start: State,
    vectors: Sequence[State],
    scale: float,
    steps: int,
    seed: int,
) -> State:
    """Return the merged changes times a relaxed mask, trained by the losses on training rows.

    The mask has mean 1 in each tensor, so that training starts at the arithmetic method.
    """
    generator = torch.Generator().manual_seed(seed)
    total = arithmetic(vectors, [scale] * len(vectors))
    logits = {name: torch.zeros_like(value, requires_grad=True) for name, value in total.items()}
    optimizer = torch.optim.Adam(list(logits.values()), lr=RATE)
    for _ in range(steps):
        masked = {}
        for name, value in total.items():
            uniform = torch.rand(value.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
            noise = (uniform / (1 - uniform)).log().to(value)
            masked[name] = _mask(logits[name] + noise) * value
        state = _plus(start, masked)
        pairs = zip(models, data, strict=True)
        loss = torch.stack([_loss(*pair, state, generator) for pair in pairs]).sum()
        optimizer.zero_grad()
        # Gradients of the given models' parameters must not change.
        loss.backward(inputs=list(logits.values()))
        optimizer.step()
    with torch.no_grad():
        return {name: _mask(logits[name]) * value for name, value in total.items()}


def _mask(logits: Tensor) -> Tensor:
    values = torch.sigmoid(logits)
    return values / values.mean().clamp(min=1e-6) if values.numel() else values


def _loss(
    model: MultiTaskModel, data: MultiTaskData, state: State, generator: torch.Generator
) -> Tensor:
    """Return the mean loss of a model's tasks on a batch, with the given shared state."""
    rows = data.train.take(torch.randint(len(data.train), (BATCH,), generator=generator))
    parameters = {
        name if name.startswith("encoder.") else f"head.{_PLACES.get(name, name)}": value
        for name, value in state.items()
        if not name.startswith("head.")
    }
    reference, layout = next(model.parameters()), task_layout(model.tasks)
    batch = Batch(rows.inputs, layout.join_targets(rows.targets), False, rows.relative_weight)
    batch = batch.to(reference.device)
    # Evaluation mode: without dropout and batch statistics.
    with evaluating(model):
        logits = called_with(model, parameters, (batch.inputs.to(reference),), {"joined": True})
    mean, std = model.target_scale()
    wanted = (batch.targets - mean) / std
    sums, counts = layout.loss_terms(logits, wanted, sample_weight=batch.sample_weight)
    there = counts > 0
    return (sums[there] / counts[there]).mean() if bool(there.any()) else torch.zeros(())
