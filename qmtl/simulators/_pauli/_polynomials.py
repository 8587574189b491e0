"""Polynomials in cosines and sines, as a list of products and sums of two products.

Register 0 holds 1; registers 1 + 2i and 2 + 2i hold the cosine and the sine of angle i; then come
constants; every operation writes the next register. Equal operations are written only once.

Constants are products of *factors*, such as a noise channel's effect on a string. A value carries
the factors that it has not been multiplied by yet. When two values are added, their common factors
stay outside the sum, so that uniform noise is almost free.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Kinds of operation: x·y, x·y + z·w, x·y - z·w.
PRODUCT, SUM, DIFFERENCE = range(3)

# A factor is one number of a noise channel: (channel, index of the number). A constant is a product
# of factors, in sorted order.
Factor = tuple[int, int]
Factors = tuple[Factor, ...]
# A polynomial under construction: its register, its sign, and its factors; None is zero.
Value = tuple[int, int, Factors] | None
ONE: Value = (0, 1, ())
# Registers under construction: constants count down from -1, operations up from this number.
_FIRST_OPERATION = 1 << 40


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

        Example:
            >>> builder = Builder(1)
            >>> square = builder.combine((cosine(0), cosine(0)))
            >>> builder.finish([square]).evaluate([torch.tensor(0.0)], like=torch.zeros(1))
            [tensor(1.)]
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
    return 1 + 2 * angle, 1, ()


def sine(angle: int, sign: int = 1) -> Value:
    """Return the sine of an angle, or of its negative."""
    return 2 + 2 * angle, sign, ()


class Builder:
    """Writes `Polynomials` of a given number of angles."""

    def __init__(self, n_angles: int) -> None:
        self.n_angles = n_angles
        self._rows: dict[tuple[int, int, int, int, int], int] = {}
        self._constants: dict[Factors, int] = {}

    def __len__(self) -> int:
        """Return the number of operations written so far."""
        return len(self._rows)

    def combine(self, *products: tuple[Value, Value]) -> Value:
        """Write the sum of one or two products, each of two values."""
        if len(products) == 1 and products[0][0] is ONE:
            return products[0][1]
        found = [
            (a[0], b[0], a[1] * b[1], tuple(sorted(a[2] + b[2])) if a[2] else b[2])
            for a, b in products
            if a is not None and b is not None
        ]
        if not found:
            return None
        x, y, sign, factors = found[0]
        if len(found) == 1:
            return self._times(x, y), sign, factors
        z, w, other, others = found[1]
        kind, common = SUM if sign == other else DIFFERENCE, factors
        if factors != others:
            # Only the factors that the two do not share are multiplied now.
            shared = Counter(factors) & Counter(others)
            common = tuple(sorted(shared.elements()))
            x, y = self._scaled(x, y, Counter(factors) - shared)
            z, w = self._scaled(z, w, Counter(others) - shared)
        return self._write(kind, x, y, z, w), sign, common

    def _scaled(self, x: int, y: int, factors: Counter[Factor]) -> tuple[int, int]:
        """Return two registers whose product is `x` times `y` times the factors."""
        constant = self._constant(tuple(sorted(factors.elements())))
        return (constant, y) if x == 0 else (x, self._times(constant, y))

    def _constant(self, factors: Factors) -> int:
        return self._constants.setdefault(factors, -1 - len(self._constants)) if factors else 0

    def _times(self, x: int, y: int) -> int:
        return x + y if x == 0 or y == 0 else self._write(PRODUCT, x, y, 0, 0)

    def _write(self, kind: int, x: int, y: int, z: int, w: int) -> int:
        row = (kind, min(x, y), max(x, y), min(z, w), max(z, w))
        return self._rows.setdefault(row, _FIRST_OPERATION + len(self._rows))

    def finish(self, values: Sequence[Value]) -> Polynomials:
        """Return the polynomials of `values`, without the operations that no value needs."""
        done = [
            (0, 0) if value is None else (self._times(self._constant(value[2]), value[0]), value[1])
            for value in values
        ]
        needed = {register for register, _ in done}
        for row, register in reversed(self._rows.items()):
            if register in needed:
                needed.update(row[1:])
        constants = [factors for factors, register in self._constants.items() if register in needed]
        kept = [(row, register) for row, register in self._rows.items() if register in needed]
        order = [*range(1 + 2 * self.n_angles), *map(self._constants.__getitem__, constants)]
        order += [register for _, register in kept]
        place = {register: i for i, register in enumerate(order)}
        ops = [(kind, *map(place.__getitem__, registers)) for (kind, *registers), _ in kept]
        return Polynomials(
            self.n_angles,
            np.array(ops, np.int64).reshape(-1, 5),
            np.array([place[register] for register, _ in done], np.int64),
            np.array([sign for _, sign in done], np.int64),
            tuple(constants),
        )
