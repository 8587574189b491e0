"""Rows on top of each other, against the same rows each for itself."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.training._sparse_rows import Places, SparseRows


@st.composite
def sparse_rows(draw):
    """Random tasks, put into groups in which no two depend on the same place."""
    n_tasks, n_places = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    depends = torch.rand(n_tasks, n_places, generator=generator) < draw(st.floats(0, 1))
    groups, taken = [], []
    for row in depends:
        group = next((i for i, t in enumerate(taken) if not (t & row).any()), len(taken))
        if group == len(taken):
            taken.append(torch.zeros_like(row))
        taken[group] = taken[group] | row
        groups.append(group)
    rest = draw(st.sampled_from([(), (3,), (2, 3)]))
    joint = torch.randn(len(taken), n_places, *rest, generator=generator, dtype=torch.float64)
    places = Places.of(*depends.nonzero().unbind(1), torch.tensor(groups), n_places)
    return depends, torch.tensor(groups), SparseRows(joint, places)


@given(sparse_rows())
def test_each_row_is_its_groups_where_its_task_depends(case):
    depends, groups, rows = case
    shape = (*depends.shape, *[1] * (rows.joint.ndim - 2))
    torch.testing.assert_close(rows.dense(), rows.joint[groups] * depends.view(shape))


@given(sparse_rows())
def test_the_gramian_is_that_of_the_rows(case):
    rows = case[2]
    matrix = rows.dense().flatten(1)
    torch.testing.assert_close(rows.gramian(), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


@given(sparse_rows())
def test_padded_places_are_those_of_each_task(case):
    depends, _, rows = case
    places, real = rows.places.padded()
    for row, found, is_real in zip(depends, places, real, strict=True):
        assert found[is_real].tolist() == row.nonzero().flatten().tolist()


def test_a_task_that_depends_on_nothing():
    nothing = torch.empty(0, dtype=torch.long)
    places = Places.of(nothing, nothing, torch.tensor([0, 0]), 3)
    assert SparseRows(torch.ones(1, 3), places).gramian().tolist() == [[0, 0], [0, 0]]
