"""Projections onto dual cones against quadprog, which TorchJD takes for them."""

import numpy as np
import pytest
import torch
from torchjd.aggregation import DualProj, UPGrad
from torchjd.linalg import QuadprogProjector

from qmtl.training import make_aggregator
from qmtl.training._upgrad import PivotingProjector, complementary

KINDS = ["wide", "square", "rank-deficient", "opposed", "conflicting", "scaled", "copies"]


def jacobian(kind, m, dtype=torch.float64, seed=0):
    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    generator = torch.Generator().manual_seed(seed)
    signs = torch.tensor([1.0, -1.0]).repeat(m)[:m]
    rows = {
        "wide": lambda: normal(m, 4 * m),
        "square": lambda: normal(m, m),
        "rank-deficient": lambda: normal(m, max(1, m // 8)),
        "opposed": lambda: normal(m, 2 * m) + normal(m, 1).sign() * normal(1, 2 * m),
        "conflicting": lambda: torch.eye(m) - 1 / m + 0.01 * normal(m, m),
        "scaled": lambda: normal(m, 3 * m) * torch.logspace(-4, 4, m)[:, None],
        "copies": lambda: normal(m, 5)[: -(-m // 2)].repeat(2, 1)[:m] * signs[:, None],
    }[kind]()  # fmt: skip
    return rows.to(dtype)


def worst(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 3, 8, 21, 48])
def test_equals_quadprog(kind, dtype, m):
    for seed in range(3):
        rows = jacobian(kind, m, dtype, seed)
        gramian, units = rows @ rows.T, torch.eye(m, dtype=dtype) / m
        # quadprog reads one of the triangles, which single precision makes different.
        gramian = (gramian + gramian.T) / 2
        got = PivotingProjector()(units, gramian)
        assert got.dtype == dtype
        limit = 1e-8 if dtype == torch.float64 else 1e-6
        assert worst(got, QuadprogProjector()(units, gramian)) < limit


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [128, 256])
def test_equals_quadprog_for_many_tasks(kind, m):
    rows = jacobian(kind, m)
    gramian, some = rows @ rows.T, torch.eye(m, dtype=rows.dtype)[:: m // 4] / m
    assert worst(PivotingProjector()(some, gramian), QuadprogProjector()(some, gramian)) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [None, 0])
def test_complementary_by_its_definition(kind, rounds):
    """With no rounds everything is left to scipy's least squares."""
    rows = jacobian(kind, 24)
    matrix = (rows @ rows.T / rows.square().sum() + 1e-4 * torch.eye(24)).numpy()
    offsets = np.random.default_rng(0).normal(size=(30, 24))
    z = complementary(matrix, offsets, rounds)
    y = z @ matrix + offsets
    assert (z >= 0).all()
    # What is summed up to y sets the size of its rounding errors.
    scale = (z @ np.abs(matrix)).max()
    assert (y > -1e-12 * scale).all()
    assert (np.abs(z * y) < 1e-12 * scale * z.max()).all()


def test_without_conflict_weights_stay_as_they_are():
    gramian = jacobian("wide", 6).abs()
    gramian = gramian @ gramian.T
    weights = torch.rand(4, 2, 6, dtype=torch.float64)
    assert torch.equal(PivotingProjector()(weights, gramian), weights)


@pytest.mark.parametrize(("name", "kind"), [("upgrad", UPGrad), ("dual-proj", DualProj)])
@pytest.mark.parametrize("preferences", [None, [3.0, 1.0, 0.0, 2.0, 5.0]])
def test_aggregators_are_those_of_torchjd(name, kind, preferences):
    options = {} if preferences is None else {"pref_vector": preferences}
    ours = make_aggregator(name, 5, options, dtype=torch.float64)
    assert isinstance(ours, kind)
    assert isinstance(ours.projector, PivotingProjector)
    theirs = kind(None if preferences is None else torch.tensor(preferences, dtype=torch.float64))
    for seed in range(20):
        rows = jacobian("rank-deficient", 5, seed=seed) + 0.1 * jacobian("square", 5, seed=seed)
        torch.testing.assert_close(ours(rows), theirs(rows), rtol=1e-9, atol=1e-12)


def test_a_jacobian_of_zeros():
    assert torch.equal(make_aggregator("upgrad", 3)(torch.zeros(3, 4)), torch.zeros(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gramian_that_is_not_finite(value):
    gramian = torch.eye(3)
    gramian[1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        PivotingProjector()(torch.eye(3), gramian)


@pytest.mark.parametrize("diagonal", [[1.0, -1.0], [1.0, 0.0], [1.0, 0.5]])
def test_a_matrix_that_is_not_positive_definite(diagonal):
    matrix = np.diag(diagonal) + np.array([[0.0, -1.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match="positive definite"):
        complementary(matrix, np.array([[-1.0, -1.0]]))
