"""Systematic stratified samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.data._splits import stratified_sample, validation_cut
from qmtl.errors import InvalidInputError


@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.integers(0, 1000), st.data())
def test_every_class_has_its_share_to_within_one_row(codes, seed, data):
    codes = np.array(codes)
    size = data.draw(st.integers(1, len(codes)))
    chosen = stratified_sample(codes, size, seed)
    assert len(set(chosen.tolist())) == size
    wanted = np.bincount(codes) * size / len(codes)
    assert (np.abs(np.bincount(codes[chosen], minlength=len(wanted)) - wanted) < 1 + 1e-9).all()


def test_all_columns_count():
    codes = np.array([[i % 2, i // 2 % 3] for i in range(600)])
    chosen = stratified_sample(codes, 60, seed=3)
    counts = np.unique(codes[chosen], axis=0, return_counts=True)[1]
    assert counts.tolist() == [10] * 6


def test_every_row_is_as_likely():
    codes = np.array([0] * 30 + [1] * 10)
    hits = np.zeros(40)
    for seed in range(2000):
        hits[stratified_sample(codes, 8, seed)] += 1
    assert np.abs(hits / 2000 - 0.2).max() < 0.05  # 0.05 is 5.6 standard deviations


def test_the_cut_is_a_partition():
    train, held_out = validation_cut(np.arange(50) % 5, 0.2, seed=1)
    assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(50))
    assert len(held_out) == 10
    with pytest.raises(InvalidInputError, match=r"expected 1\.\.3 rows, got 4"):
        stratified_sample(np.zeros(3), 4, 0)
