"""LowRankLinearHead: linear heads through a shared bottleneck."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError, check_integer
from qmtl.heads._head import Head
from qmtl.heads._initial import drawn_seed, linear_weights
from qmtl.heads._linear import DenseLayers
from qmtl.tasks import Task


class LowRankLinearHead(Head):
    """Linear heads whose joint weight matrix has a low rank: V_t (U x) + b_t.

    All tasks share the projection U of shape (rank, n_features), which has no bias. The matrix V_t
    of shape (n_outputs, rank) belongs to task t. With a fixed rank the head has O(T) parameters,
    even if the representation grows with the number of tasks. Every task uses the whole
    representation.

    Args:
        tasks: the tasks.
        n_features: width of the representation.
        rank: width of the bottleneck.
        bias: whether each output has a bias. Without a bias, only an encoder's bias that passes
            through the bottleneck can shift the outputs.
        seed: seed of the initial weights, drawn per task; None draws it from torch's global
            generator.

    Shape:
        features ``(batch, n_features)`` to ``{task: (batch, n_outputs)}``.

    Raises:
        InvalidInputError: for a width or rank below 1.

    Example:
        >>> import torch
        >>> head = LowRankLinearHead([Task.binary("a"), Task.multiclass("b", 3)], 6, rank=2, seed=0)
        >>> {name: tuple(logits.shape) for name, logits in head(torch.zeros(2, 6)).items()}
        {'a': (2, 1), 'b': (2, 3)}

    References:
        Ando and Zhang, A framework for learning predictive structures from multiple tasks and
        unlabeled data, JMLR 6 (2005); their structural matrix is U.
    """

    settings = ("rank", "bias")
    """Attributes that a saved model keeps beside tasks and width."""

    def __init__(
        self,
        tasks: Sequence[Task],
        n_features: int,
        rank: int,
        *,
        bias: bool = True,
        seed: int | None = None,
    ) -> None:
        rank = check_integer("rank", rank)
        super().__init__(tasks, n_features)
        self.rank, self.bias = rank, bias
        seed = drawn_seed(seed)
        weight, _ = linear_weights(seed, "projection", n_features, rank)
        self.projection: nn.Linear = nn.utils.skip_init(
            nn.Linear, n_features, rank, bias=False, device=weight.device
        )
        self.projection.weight.data = weight
        self.layers = DenseLayers(seed, self.tasks, rank, bias=bias)

    @classmethod
    def matching(cls, circuit: HeadCircuit, *, seed: int | None = None) -> Self:
        """Return the head with a parameter count closest to the quantum head's.

        See `closest_low_rank`.

        Example:
            >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(16)])
            >>> head = LowRankLinearHead.matching(circuit)
            >>> head, head.count_parameters(), circuit.count_parameters().total
            (LowRankLinearHead(32 features, rank 3, no bias, 144 parameters), 144, 144)
        """
        budget = circuit.count_parameters().total
        rank, bias = closest_low_rank(circuit.tasks, circuit.n_features, budget)
        return cls(circuit.tasks, circuit.n_features, rank, bias=bias, seed=seed)

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        logits: Tensor = self.layers(self.projection(features), names)
        return logits

    def __repr__(self) -> str:
        bias = "bias" if self.bias else "no bias"
        return (
            f"LowRankLinearHead({self.n_features} features, rank {self.rank}, {bias}, "
            f"{self.count_parameters()} parameters)"
        )


def low_rank_count(tasks: Sequence[Task], n_features: int, rank: int, *, bias: bool = True) -> int:
    """Count parameters of low-rank linear heads: rank · (n_features + O), and O biases."""
    outputs = sum(task.n_outputs for task in tasks)
    return rank * (n_features + outputs) + (outputs if bias else 0)


def closest_low_rank(tasks: Sequence[Task], n_features: int, budget: int) -> tuple[int, bool]:
    """Return the rank, and whether to have a bias, for a parameter count closest to `budget`.

    The rank is at most that of a dense head, min(n_features, outputs of all tasks), because a
    larger rank adds no further function. Of two equally close counts, the function prefers the
    larger count; of two equal counts, the head with a bias.

    Args:
        tasks: the tasks.
        n_features: width of the representation.
        budget: the target parameter count.

    Raises:
        InvalidInputError: for a budget below 1.
    """
    if budget < 1:
        raise InvalidInputError(f"budget must be at least 1 parameter, got {budget}")
    ranks = range(1, min(n_features, sum(task.n_outputs for task in tasks)) + 1)
    options = [(rank, bias) for rank in ranks for bias in (True, False)]

    def distance(option: tuple[int, bool]) -> tuple[int, int, bool]:
        rank, bias = option
        count = low_rank_count(tasks, n_features, rank, bias=bias)
        return abs(count - budget), -count, not bias

    return min(options, key=distance)
