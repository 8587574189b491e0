"""Seeded splits: stratified by the labels, by groups of rows, or by patient; samples of rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import MISSING, Task, is_missing

SPLITS = ("train", "validation", "test")

Indices = tuple[Tensor, Tensor, Tensor]


def label_codes(tasks: Sequence[Task], targets: Mapping[str, Tensor]) -> Tensor | None:
    """Return the classification labels as int64 (N, columns), one column per task or label.

    A missing label is a separate class (-100), so that disjoint data are stratified by task. Return
    None if no task is a classification.

    Example:
        >>> label_codes([Task.binary("a")], {"a": torch.tensor([1.0, float("nan")])})
        tensor([[   1],
                [-100]])
    """
    labels = [targets[task.name] for task in tasks if task.is_classification]
    columns = [own.nan_to_num(nan=MISSING).long().reshape(len(own), -1) for own in labels]
    return torch.cat(columns, dim=1) if columns else None


def split_indices(
    n: int,
    fractions: Sequence[float],
    seed: int,
    stratify: Tensor | None = None,
    groups: Any = None,
) -> Indices:
    """Return the sorted row numbers of the training, validation and test split.

    Args:
        n: number of rows.
        fractions: three shares that sum to 1, (train, validation, test).
        seed: the same seed gives the same split.
        stratify: int64 codes (N,) or (N, columns). The split is stratified by the combination of
            all columns if each combination occurs often enough; else by the column with the rarest
            class, among those that are frequent enough; else not at all. Rare classes are in the
            training split at least.
        groups: one hashable value per row; rows of one group stay together, and rows without a
            value are one group. The fractions then count groups, and `stratify` is ignored.
    """
    check_seed(seed)
    if groups is None:
        parts = _split_rows(n, split_sizes(n, fractions, "rows"), seed, stratify)
        if stratify is not None:
            parts = _with_every_class(parts, _columns(stratify))
    else:
        members = _group_numbers(groups, n)
        sizes = split_sizes(members.max(initial=-1) + 1, fractions, f"groups ({n} rows)")
        parts = _split_groups(members, sizes, seed)
    train, validation, test = (torch.from_numpy(np.sort(part).astype(np.int64)) for part in parts)
    return train, validation, test


def explicit_indices(
    n: int, given: Mapping[str, Any], numbers: np.ndarray | None = None
) -> Indices:
    """Check the row numbers of each split, or masks over the rows `numbers`; keep their order."""
    numbers = np.arange(n) if numbers is None else numbers
    for name in given:
        if name not in SPLITS:
            raise unknown_name("split", name, SPLITS)
    seen: dict[int, str] = {}
    parts = []
    for name in SPLITS:
        try:
            rows = np.asarray(given.get(name, ()))
        except ValueError:
            raise InvalidInputError(
                f"splits: the {name} split needs whole row numbers (N,), got "
                f"{type(given[name]).__name__}; those of a torch Subset are its indices"
            ) from None
        if rows.dtype == bool and rows.shape == numbers.shape:
            rows = numbers[rows]
        if rows.size == 0:
            raise InvalidInputError(f"splits: the {name} split is empty; give it some row numbers")
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InvalidInputError(
                f"splits: the {name} split needs whole row numbers (N,), got {rows.dtype} "
                f"{rows.shape}"
            )
        for row in rows.tolist():
            if not 0 <= row < n:
                raise InvalidInputError(
                    f"splits: the {name} split names row {row}, but rows are 0..{n - 1}"
                )
            if row in seen:
                raise InvalidInputError(
                    f"splits: row {row} is named twice, in {seen[row]} and in {name}"
                )
            seen[row] = name
        parts.append(torch.from_numpy(rows.astype(np.int64)))
    train, validation, test = parts
    return train, validation, test


def among_kept(splits: Any, numbers: np.ndarray, kept: np.ndarray) -> Any:
    """Convert splits of row numbers to positions among the kept rows; leave fractions as they are.

    `numbers` are the row numbers in the file, which may have empty rows in between.
    """
    n = int(numbers[-1]) + 1
    if not isinstance(splits, Mapping) or (kept.all() and len(numbers) == n):
        return splits
    place = np.full(n, -2)
    place[numbers] = np.where(kept, np.cumsum(kept) - 1, -1)
    found = {}
    for name, rows in zip(SPLITS, explicit_indices(n, splits, numbers), strict=True):
        places = place[rows.numpy()]
        if (places == -2).any():
            row = int(rows[int((places == -2).argmax())])
            raise InvalidInputError(f"splits: the {name} split names row {row}, which is empty")
        found[name] = places[places >= 0]
    return found


def choose_rows(
    n: int,
    splits: Sequence[float] | Mapping[str, Any],
    seed: int,
    stratify: Tensor | None = None,
    groups: Any = None,
) -> Indices:
    """Return the rows of each split, from fractions or from a dict of row numbers."""
    if not isinstance(splits, Mapping):
        return split_indices(n, splits, seed, stratify, groups)
    if groups is not None:
        raise InvalidInputError("groups: expected None when splits gives row numbers")
    return explicit_indices(n, splits)


def check_seed(seed: object) -> None:
    """Refuse a value that NumPy and scikit-learn do not accept as a seed."""
    is_int = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not (is_int and 0 <= int(seed) < 2**32):  # type: ignore[call-overload]
        raise InvalidInputError(f"seed: expected a whole number 0..2^32-1, got {seed!r}")


def split_sizes(n: int, fractions: Sequence[float], what: str) -> tuple[int, int, int]:
    """Return how many of n items go to each split, at least one; `what` names them in messages."""
    try:
        shares = [float(share) for share in fractions]
    except (TypeError, ValueError):
        shares = []
    valid = len(shares) == 3 and all(0 <= share <= 1 for share in shares)
    if not valid or abs(sum(shares) - 1) > 1e-6:
        raise InvalidInputError(
            f"splits: expected three fractions (train, validation, test) of at least 0 that sum "
            f"to 1, got {fractions!r}"
        )
    validation, test = round(n * shares[1]), round(n * shares[2])
    if shares[0] == 0:  # rounding must not add a row to an empty share
        test = n - validation
    sizes = (n - validation - test, validation, test)
    for name, size in zip(SPLITS, sizes, strict=True):
        if size < 1:
            raise InvalidInputError(
                f"splits: the {name} split would be empty: {n} {what} with fractions "
                f"{tuple(shares)} give {sizes[0]} train, {validation} validation, {test} test"
            )
    return sizes


def _group_numbers(groups: Any, n: int) -> np.ndarray:
    values = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(values) != n:
        raise InvalidInputError(f"groups: expected one per row, {n}, got {len(values)}")
    numbers: dict[Any, int] = {}
    try:
        names = [None if is_missing(value) else value for value in values]
        return np.array([numbers.setdefault(name, len(numbers)) for name in names])
    except TypeError as error:
        raise InvalidInputError(
            "groups: expected one number or text per row, got rows of several values"
        ) from error


def _split_groups(members: np.ndarray, sizes: tuple[int, int, int], seed: int) -> list[np.ndarray]:
    from sklearn.model_selection import GroupShuffleSplit

    def cut(rows: np.ndarray, first: int, second: int) -> list[np.ndarray]:
        way = GroupShuffleSplit(1, train_size=first, test_size=second, random_state=seed)
        return [rows[part] for part in next(way.split(rows, groups=members[rows]))]

    rest, test = cut(np.arange(len(members)), sizes[0] + sizes[1], sizes[2])
    return [*cut(rest, sizes[0], sizes[1]), test]


def _split_rows(
    n: int, sizes: tuple[int, int, int], seed: int, stratify: Tensor | None
) -> list[np.ndarray]:
    for strata in _strata(n, stratify):
        try:
            rest, test = _stratified_cut(strata, sizes[0] + sizes[1], sizes[2], seed)
            train, validation = _stratified_cut(strata[rest], sizes[0], sizes[1], seed)
        except ValueError:  # a stratum is too small for a cut: try the next choice of strata
            continue
        return [rest[train], rest[validation], test]
    order = np.random.default_rng(seed).permutation(n)
    return np.split(order, [sizes[0], sizes[0] + sizes[1]])


def _columns(stratify: Tensor) -> np.ndarray:
    codes: np.ndarray = stratify.detach().cpu().numpy().reshape(len(stratify), -1)
    return codes


def _with_every_class(parts: Sequence[np.ndarray], codes: np.ndarray) -> list[np.ndarray]:
    """Exchange rows until the first part, the training split, has every class.

    A row leaves the first part only if other rows there have its classes.
    """
    train, *others = (part.copy() for part in parts)
    ranks = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in codes.T]
    rank, columns = np.stack(ranks, axis=1), np.arange(codes.shape[1])
    counts = np.zeros((int(rank.max()) + 1, len(columns)), np.int64)  # of the training rows
    np.add.at(counts, (rank[train], columns), 1)
    last = len(train)
    for part in others:
        for place, column in np.argwhere(counts[rank[part], columns] == 0).tolist():
            if counts[rank[part[place], column], column]:
                continue  # an exchange before has brought a row of this class
            last -= 1
            while last >= 0 and not (counts[rank[train[last]], columns] > 1).all():
                last -= 1
            if last < 0:
                return [train, *others]
            counts[rank[train[last]], columns] -= 1
            counts[rank[part[place]], columns] += 1
            train[last], part[place] = part[place], train[last]
    return [train, *others]


def _strata(n: int, stratify: Tensor | None) -> Iterator[np.ndarray]:
    """Yield several choices of a stratum for every row, the preferred choice first."""
    if stratify is None or stratify.numel() == 0:
        return
    codes = _columns(stratify)
    if len(codes) != n:
        raise InvalidInputError(f"stratify: expected {n} rows of codes, got {len(codes)}")
    columns = [_dense(column) for column in codes.T]
    together = columns[0]
    for column in columns[1:]:  # in row order, as in np.unique(axis=0)
        pairs = together * (column.max() + 1) + column
        together = _dense(pairs)
    columns = [column for column in columns if column.max() > 0]  # a single class cannot stratify
    columns.sort(key=lambda column: int(np.bincount(column).min()))  # stable: ties in task order
    # A stratum needs at least three members to be in every split.
    yield from (c for c in (together, *columns) if np.bincount(c).min() >= 3)
    for column in columns:  # merge classes that are too rare with the most common one
        counts = np.bincount(column)
        yield np.where(counts[column] >= 3, column, counts.argmax())


def _dense(codes: np.ndarray) -> np.ndarray:
    """Replace whole numbers by their ranks among the distinct values, as in `numpy.unique`."""
    start = codes - codes.min()
    if start.max() > len(codes):
        return np.unique(codes, return_inverse=True)[1].reshape(-1)
    place: np.ndarray = (np.cumsum(np.bincount(start) > 0) - 1)[start]
    return place


def _stratified_cut(
    strata: np.ndarray, first: int, second: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two disjoint stratified samples, the same as sklearn's StratifiedShuffleSplit.

    This is five times as fast, and avoids the import of scikit-learn, which takes a second. Raises
    ValueError if a stratum is too small.
    """
    counts = np.bincount(strata)
    counts = counts[counts > 0]
    if counts.min() < 2 or min(first, second) < len(counts):
        raise ValueError("a stratum is too small")
    random = np.random.RandomState(seed)
    from_each = _shares(counts, first, random)
    to_each = from_each + _shares(counts - from_each, second, random)
    small = strata.astype(np.min_scalar_type(strata.max()))  # the fewer bits, the faster to sort
    members = np.split(np.argsort(small, kind="stable"), np.cumsum(counts)[:-1])
    shuffled = [own[random.permutation(len(own))] for own in members]
    one = [own[:end] for own, end in zip(shuffled, from_each, strict=True)]
    two = [own[a:b] for own, a, b in zip(shuffled, from_each, to_each, strict=True)]
    return random.permutation(np.concatenate(one)), random.permutation(np.concatenate(two))


def _shares(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Return how many of `total` rows to take from each stratum: by largest remainders."""
    exact = counts / counts.sum() * total
    sizes: np.ndarray = np.floor(exact).astype(np.int64)
    remainders = exact - sizes
    for remainder in np.unique(remainders)[::-1]:
        left = total - int(sizes.sum())
        if not left:
            break
        tied = np.flatnonzero(remainders == remainder)
        sizes[random.choice(tied, min(len(tied), left), replace=False)] += 1
    return sizes


def stratified_sample(codes: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw sorted row numbers of a sample that is spread evenly over classes (N,) or (N, columns).

    Systematic sampling: rows are sorted by class, in random order within a class, and taken at
    equal steps. Each class gets its share to within one row, however rare it is. With several
    columns of codes, this holds for the first column, and then for the next ones within its
    classes.
    """
    n = len(codes)
    if not 1 <= size <= n:
        raise InvalidInputError(f"size: expected 1..{n} rows, got {size}")
    random = np.random.default_rng(seed)
    columns = codes.reshape(n, -1).T
    order = np.lexsort((random.permutation(n), *columns[::-1]))
    steps = np.floor((np.arange(size) + random.random()) * (n / size)).astype(np.int64)
    return np.sort(order[np.minimum(steps, n - 1)])


def validation_cut(
    codes: np.ndarray, share: float, seed: int, name: str = "validation"
) -> tuple[np.ndarray, np.ndarray]:
    """Cut training and validation rows by `stratified_sample`; errors use `name` for the share.

    The row of a class with one row is a training row.

    Raises:
        InvalidInputError: the share is not in (0, 1), or a part would be empty.

    Example:
        >>> [part.tolist() for part in validation_cut(np.zeros(4), 0.25, seed=0)]
        [[0, 2, 3], [1]]
    """
    valid = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1
    if not valid:
        raise InvalidInputError(
            f"{name}: expected the share of the training rows, between 0 and 1, got {share!r}"
        )
    size = max(1, round(share * len(codes)))
    if size >= len(codes):
        raise InvalidInputError(
            f"{name}: a share of {share} of {len(codes)} rows leaves none to train on"
        )
    chosen = stratified_sample(codes, size, seed)
    kept = np.setdiff1d(np.arange(len(codes)), chosen)
    kept, chosen = _with_every_class([kept, chosen], codes.reshape(len(codes), -1))
    return np.sort(kept), np.sort(chosen)


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse a value that is not a whole number >= `least`; None is allowed and means all."""
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is not None and not (is_int and value >= least):
        raise InvalidInputError(
            f"{name}: expected a whole number of at least {least}, or None, got {value!r}"
        )


def patient_split(
    patients: np.ndarray, labels: np.ndarray, fractions: Sequence[float], seed: int
) -> Indices:
    """Split row numbers in three so that no patient is in two splits.

    Iterative stratification (Sechidis et al., doi 10.1007/978-3-642-23808-6_10) over patients:
    patients with the rarest label are assigned first, each to the split that lacks most of it. A
    random split by patient would often have no case of a rare finding, whose score would then be
    undefined. `labels`, bool (N, labels), says which labels a row has.
    """
    check_seed(seed)
    names, member = np.unique(patients, return_inverse=True)
    sizes = np.array(split_sizes(len(names), fractions, f"patients ({len(patients)} rows)"))
    has = np.zeros((len(names), labels.shape[1]), dtype=bool)
    np.logical_or.at(has, member, labels)
    side = _deal(has, sizes, np.random.default_rng(seed))[member]
    train, validation, test = (torch.from_numpy(np.flatnonzero(side == s)) for s in range(3))
    return train, validation, test


def _deal(has: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Assign each patient to a split (0, 1, 2), with exactly `sizes` patients in each."""
    side = np.full(len(has), -1)
    room = sizes.copy()
    wanted = np.outer(sizes / len(has), has.sum(axis=0))
    while (side < 0).any():
        left = has & (side < 0)[:, None]
        counts = left.sum(axis=0)
        if counts.any():
            label = int(np.where(counts > 0, counts, len(has) + 1).argmin())
            waiting = np.flatnonzero(left[:, label])
        else:
            label, waiting = -1, np.flatnonzero(side < 0)
        for patient in random.permutation(waiting):
            need = wanted[:, label] if label >= 0 else room / sizes
            # Of the splits that are not full, take the one that lacks most of the label; if several
            # do, the one with the largest share of free places.
            order = np.lexsort((random.random(3), room / sizes, need, room > 0))
            side[patient] = order[-1]
            room[order[-1]] -= 1
            wanted[order[-1]] -= has[patient]
    return side
