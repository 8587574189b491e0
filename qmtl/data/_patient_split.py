"""Splits by patient in which rare labels are spread over all three sides."""

from collections.abc import Sequence

import numpy as np
import torch

from qmtl.data._splits import Indices, check_seed, split_sizes

__all__ = ["patient_split"]


def patient_split(
    patients: np.ndarray, labels: np.ndarray, fractions: Sequence[float], seed: int
) -> Indices:
    """Row numbers of three splits that have no patient in common.

    Iterative stratification (Sechidis et al., doi 10.1007/978-3-642-23808-6_10) over patients:
    those with the label that fewest patients have are dealt out first, each to the split that
    still wants most of it. A random split by patient would often leave a split without any case
    of a rare finding, where its score is undefined.

    Args:
        patients: one number or text per row (N,).
        labels: whether a row has each label, bool (N, labels).
        fractions: shares of the patients: train, validation, test.
        seed: the same seed gives the same split.

    Returns:
        Three sorted int64 tensors.

    Raises:
        InvalidInputError: the fractions do not fit, or a split would be empty.

    Example:
        >>> patients = np.arange(20) // 2
        >>> parts = patient_split(patients, np.ones((20, 1), bool), (0.6, 0.2, 0.2), seed=0)
        >>> [len(part) for part in parts]
        [12, 4, 4]
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
    """The side (0, 1, 2) of each patient, with exactly `sizes` patients on each."""
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
            # Most wanted, then most room (as a share), among the sides that are not full.
            order = np.lexsort((random.random(3), room / sizes, need, room > 0))
            side[patient] = order[-1]
            room[order[-1]] -= 1
            wanted[order[-1]] -= has[patient]
    return side
