"""Polynomials in cosines and sines, as a list of products and sums of two products.

Register 0 holds 1; registers 1 + 2i and 2 + 2i hold the cosine and the sine of angle i; then come
constants; every operation writes the next register. Equal operations are written only once.

Under construction, a value is a product of *factors* that are not multiplied yet. Common factors of
a sum's two terms stay outside the sum: so many sums become equal, and uniform noise is almost free.
At the end, products share multiplications. The default circuit needs 59 operations instead of 192.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Kinds of operation: x·y, x·y + z·w, x·y - z·w.
PRODUCT, SUM, DIFFERENCE = range(3)

# A factor is a number of a noise channel, as (channel, index of the number), or a register, as
# (REGISTER, its number). A product is a sorted tuple of factors.
REGISTER = -1
Factor = tuple[int, int]
Factors = tuple[Factor, ...]
# A polynomial under construction: its sign and its factors; None is zero.
Value = tuple[int, Factors] | None
ONE: Value = (1, ())
# First preliminary numbers of the registers of sums and of products.
_FIRST_SUM, _FIRST_PRODUCT = 1 << 40, 1 << 41


@dataclass(frozen=True)
class Polynomials:
    """Several polynomials of the same angles.

    Attributes:
        n_angles: number of angles.
        ops: rows (kind, x, y, z, w) of registers; row k writes the k-th register after those of
            angles and constants.
        outputs: the register of each polynomial.
        signs: the sign of each polynomial; 0 for a polynomial that is zero.
        constants: the factors of each constant.
    """

    n_angles: int
    ops: NDArray[np.int64]
    outputs: NDArray[np.int64]
    signs: NDArray[np.int64]
    constants: tuple[Factors, ...] = ()

    @property
    def n_registers(self) -> int:
        """Number of registers, including the 1 and the cosines and sines."""
        return 1 + 2 * self.n_angles + len(self.constants) + len(self.ops)

    def evaluate(
        self, angles: Sequence[Tensor], like: Tensor, constants: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Evaluate the polynomials by torch operations, for any broadcastable angles.

        If there are no angles, the results have the type and device of `like`.
        """
        one = torch.ones_like(angles[0]) if angles else like.new_ones(())
        registers = [one]
        for angle in angles:
            registers += [angle.cos(), angle.sin()]
        registers += constants
        for kind, x, y, z, w in self.ops.tolist():
            value = registers[x] * registers[y]
            if kind != PRODUCT:
                other = registers[z] * registers[w]
                value = value + other if kind == SUM else value - other
            registers.append(value)
        places = zip(self.outputs.tolist(), self.signs.tolist(), strict=True)
        return [registers[place] * sign for place, sign in places]


def cosine(angle: int) -> Value:
    """Return the cosine of an angle."""
    return 1, ((REGISTER, 1 + 2 * angle),)


def sine(angle: int, sign: int = 1) -> Value:
    """Return the sine of an angle, or of its negative."""
    return sign, ((REGISTER, 2 + 2 * angle),)


class Builder:
    """Writes `Polynomials` of a given number of angles."""

    def __init__(self, n_angles: int) -> None:
        self.n_angles = n_angles
        # The register of each sum or difference of two products.
        self._sums: dict[tuple[int, Factors, Factors], int] = {}

    def __len__(self) -> int:
        """Return the number of sums written so far."""
        return len(self._sums)

    def combine(self, *products: tuple[Value, Value]) -> Value:
        """Return the sum of one or two products, each of two values."""
        found = [
            (a[0] * b[0], tuple(sorted(a[1] + b[1])) if a[1] else b[1])
            for a, b in products
            if a is not None and b is not None
        ]
        if len(found) < 2:
            return found[0] if found else None
        (sign, first), (other, second) = found
        shared, one, two = [], list(first), list(second)
        for factor in first:
            if factor in two:
                one.remove(factor)
                two.remove(factor)
                shared.append(factor)
        first, second = tuple(one), tuple(two)
        if second < first:
            sign, first, other, second = other, second, sign, first
        key = SUM if sign == other else DIFFERENCE, first, second
        register = self._sums.setdefault(key, _FIRST_SUM + len(self._sums))
        return sign, tuple(sorted([*shared, (REGISTER, register)]))

    def finish(self, values: Sequence[Value]) -> Polynomials:
        """Return the polynomials of `values`, without the operations that no value needs."""
        done: list[tuple[int, Factors]] = [(0, ()) if v is None else v for v in values]
        sums = self._needed(factor for _, factors in done for factor in factors)
        # A term of a sum may be a product of two registers, but an output must be one register.
        products = dict.fromkeys((factors, 1) for _, factors in done)
        products |= dict.fromkeys((factors, 2) for _, _, *both in sums for factors in both)
        constants: dict[Factors, int] = {}
        words: dict[tuple[Factors, int], list[int]] = {}
        for factors, most in products:
            word = [register for channel, register in factors if channel == REGISTER]
            noise = tuple(factor for factor in factors if factor[0] != REGISTER)
            if noise:
                unused = 1 + 2 * self.n_angles + len(constants)
                word.append(constants.setdefault(noise, unused))
            words[factors, most] = sorted(word)
        pairs = share_products([(word, most) for (_, most), word in words.items()], _FIRST_PRODUCT)
        writer = _Writer(1 + 2 * self.n_angles + len(constants), pairs)
        for register, kind, *both in sums:
            first, second = (writer.operands(words[factors, 2], 2) for factors in both)
            writer.write(register, kind, *first, *second)
        outputs = [writer.operands(words[factors, 1], 1)[0] for _, factors in done]
        return Polynomials(
            self.n_angles,
            np.array(writer.ops, np.int64).reshape(-1, 5),
            np.array(outputs, np.int64),
            np.array([sign for sign, _ in done], np.int64),
            tuple(constants),
        )

    def _needed(self, factors: Iterable[Factor]) -> list[tuple[int, int, Factors, Factors]]:
        """List the sums that these factors depend on: (register, kind, first, second product)."""
        needed, sums = set(factors), []
        for (kind, first, second), register in reversed(self._sums.items()):
            if (REGISTER, register) in needed:
                sums.append((register, kind, first, second))
                needed.update(first + second)
        return sums[::-1]


class _Writer:
    """Writes operations, and the products that they need before them.

    Args:
        n_given: number of registers that hold angles and constants.
        pairs: the two registers that each product multiplies.
    """

    def __init__(self, n_given: int, pairs: Mapping[int, tuple[int, int]]) -> None:
        self.ops: list[tuple[int, ...]] = []
        # The final number of each register under construction.
        self._place, self._pairs = {register: register for register in range(n_given)}, pairs

    def write(self, register: int, *row: int) -> None:
        """Write an operation (kind, x, y, z, w) that gives `register`."""
        self._place[register] = len(self._place)
        self.ops.append(row)

    def operands(self, registers: Sequence[int], most: int) -> list[int]:
        """Return the registers' final numbers, padded to `most` with register 0, which holds 1."""
        for register in registers:
            if register not in self._place:
                self.write(register, PRODUCT, *self.operands(self._pairs[register], 2), 0, 0)
        return [self._place[register] for register in registers] + [0] * (most - len(registers))


Pair = tuple[int, int]


def share_products(words: Sequence[tuple[list[int], int]], unused: int) -> dict[int, Pair]:
    """Replace pairs of factors by new registers until each product is short enough.

    The pair that most products contain comes first, as in byte-pair encoding. When no two products
    share a pair, each is multiplied separately.

    Args:
        words: each product as a sorted list of its factors' registers, and the most factors that
            may be left. The lists are changed in place.
        unused: the first new register; it is larger than all others.

    Returns:
        For each new register, the two registers that it multiplies.

    Example:
        >>> words = [([1, 2, 3], 1), ([2, 3, 4], 2)]
        >>> share_products(words, 5)
        {5: (2, 3), 6: (1, 5)}
        >>> words
        [([6], 1), ([4, 5], 2)]
    """
    users: dict[Pair, set[int]] = defaultdict(set)
    for i, (word, most) in enumerate(words):
        for pair in _pairs(word, most):
            users[pair].add(i)
    heap = [(-len(found), pair) for pair, found in users.items() if len(found) > 1]
    heapify(heap)
    merged: dict[int, Pair] = {}
    while heap:
        count, pair = heappop(heap)
        if len(users[pair]) != -count:
            # Other pairs may have replaced factors of these products by now.
            if len(users[pair]) > 1:
                heappush(heap, (-len(users[pair]), pair))
            continue
        fresh: set[Pair] = set()
        for i in users.pop(pair):
            word, most = words[i]
            before, (x, y) = _pairs(word, most), pair
            times = word.count(x) // 2 if x == y else min(word.count(x), word.count(y))
            for _ in range(min(times, len(word) - most)):
                word.remove(x)
                word.remove(y)
                word.append(unused)
            after = _pairs(word, most)
            for gone in before - after - {pair}:
                users[gone].discard(i)
            for new in after - before:
                users[new].add(i)
                fresh.add(new)
        for new in (new for new in fresh if len(users[new]) > 1):
            heappush(heap, (-len(users[new]), new))
        merged[unused] = pair
        unused += 1
    for word, most in words:
        while len(word) > most:
            merged[unused] = word.pop(0), word.pop(0)
            word.append(unused)
            unused += 1
    return merged


def _pairs(word: Sequence[int], most: int) -> set[Pair]:
    """Return the pairs of factors that may be merged: none if the product is short enough."""
    return set(combinations(word, 2)) if len(word) > most else set()
