"""Arithmetic of task vectors: the change of each shared tensor by training, by its name.

A task vector is a trained state minus the state before training. Names that end in ``encoding`` or
``blocks`` are angles; their differences are wrapped to (-π, π].
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]

ANGLES = ("encoding", "blocks")


def is_angle(name: str) -> bool:
    """Whether the tensor with this name holds angles, which have a period of 2π."""
    return name in ANGLES


def wrapped(angles: Tensor) -> Tensor:
    """Angles (radians) wrapped to (-π, π].

    Example:
        >>> wrapped(torch.tensor([3 * math.pi / 2, -math.pi / 2, 0.5]))
        tensor([-1.5708, -1.5708,  0.5000])
    """
    return math.pi - torch.remainder(math.pi - angles, 2 * math.pi)


def differences(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> State:
    """A task vector: state minus base, angles wrapped.

    Example:
        >>> base, state = {"encoding": torch.tensor([3.0])}, {"encoding": torch.tensor([-3.0])}
        >>> differences(state, base)["encoding"]
        tensor([0.2832])
    """
    return {
        name: wrapped(state[name] - base[name]) if is_angle(name) else state[name] - base[name]
        for name in base
    }


def arithmetic(vectors: Sequence[State], scales: Sequence[float]) -> State:
    """The sum of task vectors, each times its scale.

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
    """Every weight follows the task that changed it most, so that no two updates meet.

    Locate: keep the largest entries of every task vector, a fraction `keep`. Elect: for each
    weight, choose the task whose change is largest in units of its tensor's root mean square.
    Disjoint: apply only that task's change. The paper locates by gradients on data, for safety;
    this version needs only the weights (our reading).

    Args:
        vectors: one task vector per model.
        scale: factor of the sum.
        keep: fraction of each tensor that a task may claim, in (0, 1].

    Example:
        >>> vectors = [{"w": torch.tensor([1.0, 0.1])}, {"w": torch.tensor([0.1, -1.0])}]
        >>> disjoint(vectors)["w"].tolist()
        [1.0, -1.0]

    References:
        LED-Merging, arXiv:2502.16770.
    """
    merged = {}
    for name, first in vectors[0].items():
        stacked = torch.stack([vector[name] for vector in vectors]).double()
        flat = stacked.reshape(len(vectors), -1)
        size = flat.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-30)
        importance = (flat / size).abs()
        count = max(1, math.ceil(keep * flat.shape[1])) if flat.shape[1] else 0
        located = torch.zeros_like(importance)
        if count:
            located.scatter_(1, importance.topk(count, dim=1).indices, 1.0)
        importance = importance * located
        elected = torch.nn.functional.one_hot(importance.argmax(dim=0), len(vectors)).T
        chosen = (flat * elected * located).sum(dim=0)
        merged[name] = (scale * chosen).reshape(first.shape).to(first.dtype)
    return merged


def projective(
    vectors: Sequence[State], scale: float, rank: float = 0.25, steps: int = 200
) -> State:
    """Arithmetic with scales by the norms, and a shift that reduces what the tasks lose.

    The scales of the sum are proportional to 1/‖τ_t‖, with mean `scale`. A common shift Δ of every
    matrix is learned by gradient descent on Σ_t ‖(Δ + Σ_s λ_s τ_s − τ_t) τ_tᵀ‖² / ‖τ_t‖², the
    change that each task's inputs would see (the rows of a task vector lie in the span of its
    inputs). The gradient is projected off the subspace that the tasks share, which is spanned by
    the leading left singular vectors of all. The public text does not define the losses exactly;
    this form is ours. Vectors have no shift.

    Args:
        vectors: one task vector per model.
        scale: mean of the scales.
        rank: fraction of each matrix's singular vectors that count as shared.
        steps: number of steps of gradient descent.

    References:
        Adaptive projective gradient descent, arXiv:2501.01230.
    """
    norms = [
        math.sqrt(sum(float(v.double().square().sum()) for v in vector.values()))
        for vector in vectors
    ]
    inverse = [1 / max(norm, 1e-30) for norm in norms]
    # All norms are zero where the models are equal.
    total = sum(inverse)
    scales = [scale * len(vectors) * value / total for value in inverse]
    merged = arithmetic(vectors, scales)
    for name, value in merged.items():
        if value.ndim == 2 and not is_angle(name):
            taus = [vector[name].double() for vector in vectors]
            shift = _shift(value.double(), taus, rank, steps)
            merged[name] = value + shift.to(value.dtype)
    return merged


def _shift(start: Tensor, taus: Sequence[Tensor], rank: float, steps: int) -> Tensor:
    """The common shift Δ of one matrix, shape (rows, columns)."""
    sizes = [tau.square().sum().clamp(min=1e-30) for tau in taus]
    grams = [tau.T @ tau / size for tau, size in zip(taus, sizes, strict=True)]
    count = max(1, int(rank * min(start.shape)))
    leading = torch.cat([torch.linalg.svd(tau)[0][:, :count] for tau in taus], dim=1)
    vectors, values, _ = torch.linalg.svd(leading, full_matrices=False)
    shared = vectors[:, :count] * (values[:count] > 1e-12)
    # The curvature of the quadratic is at most that of the sum of the Gram matrices.
    step = 0.5 / max(float(torch.linalg.matrix_norm(sum(grams, 0 * grams[0]), 2)), 1e-30)
    shift = torch.zeros_like(start)
    for _ in range(steps):
        gradient = sum(
            (2 * (shift + start - tau) @ gram for tau, gram in zip(taus, grams, strict=True)),
            torch.zeros_like(start),
        )
        shift = shift - step * (gradient - shared @ (shared.T @ gradient))
    return shift
