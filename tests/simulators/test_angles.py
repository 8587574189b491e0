"""The table of angles: each angle once, whatever it is made of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import Angle
from qmtl.simulators._angles import Columns, TableBuilder, angle_columns

N_FEATURES, N_WEIGHTS = 5, 4
sampled = st.builds(
    Angle,
    st.lists(st.integers(0, N_FEATURES - 1), min_size=1, max_size=3).map(tuple),
    st.none() | st.integers(0, N_WEIGHTS - 1),
    st.sampled_from([1.0, 1.0, -0.5, 2.0]),
)
fixed = st.builds(
    Angle,
    st.just(()),
    st.none() | st.integers(0, N_WEIGHTS - 1),
    st.sampled_from([1.0, 1.0, -0.5, 2.0]),
)


@st.composite
def places(draw):
    """Angles of some rotations in several places: slots depend on the sample in all or none."""
    slots = [draw(st.sampled_from([sampled, fixed])) for _ in range(draw(st.integers(0, 5)))]
    return [[draw(slot) for slot in slots] for _ in range(draw(st.integers(1, 4)))]


def value_of(angle, features, weights):
    value = angle.constant * torch.ones(len(features), dtype=torch.float64)
    for feature in angle.features:
        value = value * features[:, feature]
    return value if angle.weight is None else value * weights[angle.weight]


@given(st.lists(places(), min_size=1, max_size=3))
def test_every_angle_is_in_the_row_that_the_table_says(groups):
    builder, added = TableBuilder(), []
    for rows in groups:
        columns = Columns.stacked([angle_columns(row) for row in rows])
        added.append(builder.add(columns))
    table = builder.finish()
    features = torch.randn(3, N_FEATURES, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(N_WEIGHTS, dtype=torch.float64, requires_grad=True)
    by_sample, others = table.sampled(features, weights), table.fixed(weights)
    assert by_sample.shape == (table.n_sampled, 3)
    distinct = {False: set(), True: set()}
    found = expected = torch.zeros(())
    for rows, group in zip(added, groups, strict=True):
        for place, angles in zip(rows.rows, group, strict=True):
            for row, angle, depends in zip(place, angles, rows.is_sampled, strict=True):
                value = by_sample[row] if depends else others[row].expand(3)
                torch.testing.assert_close(value, value_of(angle, features, weights))
                factor = torch.randn(3, dtype=torch.float64)
                found = found + (value * factor).sum()
                expected = expected + (value_of(angle, features, weights) * factor).sum()
                distinct[bool(depends)].add(angle)
    assert (len(by_sample), len(others)) == (len(distinct[True]), len(distinct[False]))
    plain = {Angle(a.features[:1], None if a.features else a.weight) for s in distinct.values()
             for a in s}  # fmt: skip
    assert table.is_plain == (plain == distinct[True] | distinct[False] and Angle() not in plain)
    if expected.requires_grad:
        inputs = [features, weights]
        for a, b in zip(torch.autograd.grad(found, inputs, materialize_grads=True),
                        torch.autograd.grad(expected, inputs, materialize_grads=True),
                        strict=True):  # fmt: skip
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_rows(bad):
    builder = TableBuilder()
    builder.add(angle_columns([Angle((0, 1), 0), Angle((2,), None, 0.5)]).at(None))
    builder.add(angle_columns([Angle((), 0, 2.0), Angle((), None, 3.0)]).at(None))
    table = builder.finish()
    features = torch.tensor([[1.0, 2.0, bad]], requires_grad=True)
    weights = torch.tensor([1.0], requires_grad=True)
    assert sorted(table.sampled(features, weights).isfinite()[:, 0].tolist()) == [False, True]
    features = torch.ones(1, 3, requires_grad=True)
    weights = torch.tensor([bad], requires_grad=True)
    found = table.fixed(weights)
    assert sorted(found.isfinite().tolist()) == [False, True]
    (gradient,) = torch.autograd.grad(found[found.isfinite()], weights)
    assert gradient == 0
