"""LowRankLinearHead: its product, its rank, and how close it comes to a parameter count."""

import pytest
import torch

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.heads import LowRankLinearHead
from qmtl.heads._low_rank import closest_low_rank, low_rank_count
from qmtl.tasks import Task
from tests.heads.rival_samples import mixed_tasks


@pytest.mark.parametrize("bias", [True, False])
def test_is_a_dense_head_of_low_rank(bias):
    tasks = mixed_tasks(4)
    head = LowRankLinearHead(tasks, 9, rank=3, bias=bias, seed=0).double()
    x = torch.randn(20, 9, dtype=torch.float64)
    zero = head(torch.zeros(1, 9, dtype=torch.float64))
    logits = head(x)
    rows = []
    for task in tasks:
        weight = head.layers.weight[task.name] @ head.projection.weight
        offset = head.layers.bias[task.name] if bias else torch.zeros(task.n_outputs).double()
        torch.testing.assert_close(logits[task.name], x @ weight.T + offset)
        torch.testing.assert_close(zero[task.name][0], offset)
        rows.append(weight)
    assert torch.linalg.matrix_rank(torch.cat(rows)) == 3


def test_initial_weights_are_those_of_torch():
    head = LowRankLinearHead([Task.binary(f"t{i}") for i in range(300)], 400, rank=25, seed=0)
    weights = head.layers.weight.parameter
    for values, width in [(head.projection.weight, 400), (weights, 25)]:
        assert values.abs().max() <= width**-0.5
        assert float(values.detach().std()) == pytest.approx((3 * width) ** -0.5, rel=0.03)


class TestClosest:
    @pytest.mark.parametrize("n_tasks", [1, 2, 3, 5, 9, 14])
    def test_no_other_choice_is_closer(self, n_tasks):
        tasks = mixed_tasks(n_tasks)
        circuit = HeadCircuit(tasks)
        width, budget = circuit.n_features, circuit.count_parameters().total
        head = LowRankLinearHead.matching(circuit, seed=0)
        largest = min(width, sum(task.n_outputs for task in tasks))
        assert 1 <= head.rank <= largest
        reached = abs(head.count_parameters() - budget)
        for rank in range(1, largest + 1):
            for bias in (True, False):
                assert reached <= abs(low_rank_count(tasks, width, rank, bias=bias) - budget)

    @pytest.mark.parametrize("n_tasks", [3, 16, 256])
    def test_equal_for_binary_tasks(self, n_tasks):
        circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(n_tasks)])
        head = LowRankLinearHead.matching(circuit, seed=0)
        assert (head.rank, head.bias) == (3, False)
        assert head.count_parameters() == circuit.count_parameters().total == 9 * n_tasks

    def test_ranks_end_with_the_dense_head(self):
        tasks = [Task.binary("a"), Task.binary("b")]
        assert closest_low_rank(tasks, 50, 10**6) == (2, True)
        assert closest_low_rank(tasks, 1, 10**6) == (1, True)

    def test_ties(self):
        # One output on two features: rank 1 has 3 parameters, or 4 with a bias.
        assert closest_low_rank([Task.binary("a")], 2, 3) == (1, False)
        # Two outputs on two features: 4, 6 (bias), 8, 10 (bias); 7 lies between two.
        assert closest_low_rank([Task.multilabel("a", 2)], 2, 7) == (2, False)

    def test_bad_budget(self):
        with pytest.raises(InvalidInputError, match="at least 1 parameter, got 0"):
            closest_low_rank([Task.binary("a")], 2, 0)


@pytest.mark.parametrize(("width", "rank", "what"), [(0, 1, "n_features"), (2, 0, "rank")])
def test_bad_sizes(width, rank, what):
    with pytest.raises(InvalidInputError, match=f"{what} must be an integer >= 1, got 0"):
        LowRankLinearHead([Task.binary("a")], width, rank)


def test_repr_says_the_count():
    head = LowRankLinearHead([Task.binary("a"), Task.binary("b")], 4, rank=1)
    assert repr(head) == "LowRankLinearHead(4 features, rank 1, bias, 8 parameters)"
