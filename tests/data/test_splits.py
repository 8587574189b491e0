"""Splits: complete, seeded, stratified, grouped, never silently empty."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedShuffleSplit

from qmtl.data import validation_cut
from qmtl.data._splits import explicit_indices, label_codes, split_indices
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task

THIRDS = (0.6, 0.2, 0.2)


def assert_partition(parts, n):
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert all(len(part) and part.dtype == torch.int64 for part in parts)


def test_seeded_and_complete():
    labels = torch.arange(100) % 3
    for stratify in (None, labels):
        parts = split_indices(100, THIRDS, 7, stratify)
        assert_partition(parts, 100)
        assert [len(part) for part in parts] == [60, 20, 20]
        again = split_indices(100, THIRDS, 7, stratify)
        other = split_indices(100, THIRDS, 8, stratify)
        assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
        assert not torch.equal(parts[2], other[2])


def test_seeds_of_numpy():
    """A large one takes no longer than a small one."""
    largest = 2**32 - 1
    parts = split_indices(50, THIRDS, np.uint32(largest))
    expected = split_indices(50, THIRDS, largest)
    assert all(torch.equal(a, b) for a, b in zip(parts, expected, strict=True))
    with pytest.raises(InvalidInputError, match="seed: expected a whole number"):
        split_indices(50, THIRDS, np.int64(-1))


@pytest.mark.parametrize("n_strata", [2, 7, 40])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_rows_are_those_of_scikit_learn(seed, n_strata):
    random = np.random.default_rng(seed)
    strata = np.concatenate([np.arange(n_strata).repeat(3), random.geometric(0.3, 400) % n_strata])
    train, validation, test = split_indices(len(strata), THIRDS, seed, torch.from_numpy(strata))
    rest = np.arange(len(strata))
    for held_out, n_kept in ((test, len(train) + len(validation)), (validation, len(train))):
        cut = StratifiedShuffleSplit(
            n_splits=1, train_size=n_kept, test_size=len(held_out), random_state=seed
        )
        kept, chosen = next(cut.split(rest, strata[rest]))
        assert sorted(rest[chosen]) == held_out.tolist()
        rest = rest[kept]
    assert sorted(rest) == train.tolist()


def test_stratified_by_the_combination():
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(rng.integers(0, 2, (400, 2)))
    together = codes[:, 0] * 2 + codes[:, 1]
    for part in split_indices(400, THIRDS, 0, codes):
        shares = torch.bincount(together[part], minlength=4) / len(part)
        expected = torch.bincount(together, minlength=4) / 400
        assert (shares - expected).abs().max() < 0.02


def test_falls_back_to_the_rarest_column():
    common = torch.arange(200) % 2
    rare = (torch.arange(200) % 20 == 0).long()  # 10 of 200, all with common == 0
    unique = torch.zeros(200, dtype=torch.int64)
    unique[0] = 1  # makes a combination with one member
    parts = split_indices(200, THIRDS, 0, torch.stack([common, rare, unique], dim=1))
    assert [int(rare[part].sum()) for part in parts] == [6, 2, 2]


def test_a_class_too_rare_still_stratifies_the_others():
    labels = torch.tensor([0] * 50 + [1] * 49 + [2])
    parts = split_indices(100, THIRDS, 0, labels)
    assert_partition(parts, 100)
    assert all(abs(float((labels[part] == 1).float().mean()) - 0.49) < 0.05 for part in parts)


def test_tiny_and_all_different_still_split():
    for n in (3, 5, 10):
        parts = split_indices(n, (0.34, 0.33, 0.33), 0, torch.arange(n))
        assert_partition(parts, n)


def test_groups_stay_together():
    groups = [f"p{i % 15}" for i in range(90)]
    parts = split_indices(90, THIRDS, 1, torch.arange(90) % 2, groups)
    assert_partition(parts, 90)
    sides = [{groups[row] for row in part.tolist()} for part in parts]
    assert len(set.union(*sides)) == 15
    assert [len(side) for side in sides] == [9, 3, 3]


def test_label_codes():
    tasks = [Task.binary("a"), Task.regression("r"), Task.multilabel("l", 2)]
    targets = {"a": torch.tensor([1.0, float("nan")]), "l": torch.ones(2, 2), "r": torch.ones(2)}
    assert label_codes(tasks, targets).tolist() == [[1, 1, 1], [-100, 1, 1]]
    assert label_codes(tasks[1:2], targets) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_indices(3, (0.7, 0.15, 0.15), 0), "the validation split would be empty: 3 "
         "rows with fractions (0.7, 0.15, 0.15) give 3 train, 0 validation, 0 test"),
        (lambda: split_indices(9, (1, 0, 0), 0), "validation split would be empty"),
        (lambda: split_indices(9, (0, 0.5, 0.5), 0), "the train split would be empty"),
        (lambda: split_indices(9, (0.5, 0.5), 0), "three fractions"),
        (lambda: split_indices(9, (0.9, 0.9, -0.8), 0), "three fractions"),
        (lambda: split_indices(9, (0.5, 0.2, 0.2), 0), "sum to 1"),
        (lambda: split_indices(9, "abc", 0), "three fractions"),
        (lambda: split_indices(9, THIRDS, -1), "seed: expected a whole number"),
        (lambda: split_indices(9, THIRDS, 0.5), "seed: expected a whole number"),
        (lambda: split_indices(9, THIRDS, 0, None, [1, 2]), "groups: expected one per row, 9"),
        (lambda: split_indices(4, THIRDS, 0, None, [1, 1, 2, 2]), "2 groups (4 rows)"),
        (lambda: split_indices(2, THIRDS, 0, None, [[1], [2]]), "one number or text per row"),
        (lambda: split_indices(9, THIRDS, 0, torch.zeros(3)), "expected 9 rows of codes, got 3"),
        (lambda: explicit_indices(3, {"trian": [0]}), "unknown split 'trian'; did you mean 'train"),
        (lambda: explicit_indices(3, {"train": [0], "test": [1]}), "validation split is empty"),
        (lambda: explicit_indices(3, {"train": [0], "validation": [0], "test": [1]}),
         "row 0 is named twice, in train and in validation"),
        (lambda: explicit_indices(3, {"train": [5]}), "names row 5, but rows are 0..2"),
        (lambda: explicit_indices(3, {"train": [0.5]}), "whole row numbers"),
        (lambda: explicit_indices(3, {"train": [[0], [1, 2]]}), "whole row numbers (N,), got list"),
    ],
)  # fmt: skip
def test_errors(call, message):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_are_row_numbers():
    masks = {name: np.arange(3) == i for i, name in enumerate(("train", "validation", "test"))}
    assert [part.tolist() for part in explicit_indices(3, masks)] == [[0], [1], [2]]


def test_a_class_of_one_row_is_trained_on():
    for seed in range(20):
        codes = torch.tensor([[0, 0], [1, 0]] * 20)
        codes[seed, 0], codes[39 - seed, 1] = 7, 8
        parts = split_indices(40, THIRDS, seed, codes)
        assert_partition(parts, 40)
        assert [len(part) for part in parts] == [24, 8, 8]
        assert {seed, 39 - seed} <= set(parts[0].tolist())
        kept, held = validation_cut(codes[:, 0].numpy(), 0.3, seed)
        assert seed in kept
        assert len(held) == 12
        assert sorted([*kept, *held]) == list(range(40))


def test_more_rare_classes_than_training_rows_are_no_error():
    parts = split_indices(10, THIRDS, 0, torch.arange(10))
    assert_partition(parts, 10)
