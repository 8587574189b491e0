"""A seeded sample of rows in which every class keeps its share."""

from typing import Any

import numpy as np

from qmtl.errors import InvalidInputError

__all__ = ["check_count", "stratified_sample", "validation_cut"]


def stratified_sample(codes: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Row numbers of a sample, spread evenly over the classes.

    Systematic sampling: rows are sorted by class, in random order within it, and taken at equal
    steps. Each class gets its share to within one row, however rare it is; with several columns of
    codes the first one does, and the next ones within its classes.

    Args:
        codes: class numbers (N,) or (N, columns).
        size: rows wanted, 1..N.
        seed: the same seed gives the same sample.

    Returns:
        Sorted row numbers, int64 (size,).

    Raises:
        InvalidInputError: the size is out of range.

    Example:
        >>> codes = np.array([0] * 80 + [1] * 20)
        >>> np.bincount(codes[stratified_sample(codes, 10, seed=0)])
        array([8, 2])
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
    """Training and validation rows, cut by `stratified_sample`; errors call the share `name`.

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
    return np.setdiff1d(np.arange(len(codes)), chosen), chosen


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least `least`; None passes, it means all.

    Example:
        >>> check_count("max_rows", 0, 2)
        Traceback (most recent call last):
        ...
        qmtl.errors.InvalidInputError: max_rows: expected a whole number of at least 2, or None, \
got 0
    """
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is not None and not (is_int and value >= least):
        raise InvalidInputError(
            f"{name}: expected a whole number of at least {least}, or None, got {value!r}"
        )
