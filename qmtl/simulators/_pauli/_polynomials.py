"""Polynomials in cosines and sines, as a straight line of products and sums of two products.

Register 0 holds 1; registers 1 + 2i and 2 + 2i hold the cosine and the sine of angle i; then come
constants; every operation writes the next register. Equal operations are written once.

Constants are products of *factors*, such as a noise channel's effect on a string. A value carries
the factors it is still to be multiplied by: what two values have in common is not multiplied before
they are added, so that uniform noise costs next to nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DIFFERENCE", "ONE", "PRODUCT", "SUM", "Builder", "Factors", "Polynomials", "Value"]

# Kinds of operation: x·y, x·y + z·w, x·y - z·w.
PRODUCT, SUM, DIFFERENCE = range(3)

# What a constant is the product of: (channel, which of its numbers), sorted.
Factors = tuple[tuple[int, int], ...]
# A polynomial while it is written: its register, its sign, and factors; None is zero.
Value = tuple[int, int, Factors] | None
ONE: Value = (0, 1, ())
# Registers while they are written: constants count down from -1, operations up from here.
_FIRST_OPERATION = 1 << 40


@dataclass(frozen=True)
class Polynomials:
    """Several polynomials of the same angles.

    Attributes:
        n_angles: how many angles there are.
        ops: rows (kind, x, y, z, w) of registers; row k writes the k-th register after those of
            angles and constants.
        outputs: the register of each polynomial.
        signs: its sign, or 0 for a polynomial that is zero.
        constants: the factors of each constant.
    """

    n_angles: int
    ops: NDArray[np.int64]
    outputs: NDArray[np.int64]
    signs: NDArray[np.int64]
    constants: tuple[Factors, ...] = ()

    @property
    def n_registers(self) -> int:
        """Registers, with the constant and the cosines and sines."""
        return 1 + 2 * self.n_angles + len(self.constants) + len(self.ops)

    def evaluate(
        self, angles: Sequence[Tensor], like: Tensor, constants: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """The polynomials by torch operations, for any broadcastable angles; differentiable.

        Without angles they have the type and device of `like`.

        Example:
            >>> builder = Builder(1)
            >>> square = builder.combine(builder.cosine(0), builder.cosine(0))
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


class Builder:
    """Writes `Polynomials` of so many angles."""

    def __init__(self, n_angles: int) -> None:
        self.n_angles = n_angles
        self._rows: dict[tuple[int, int, int, int, int], int] = {}
        self._constants: dict[Factors, int] = {}

    def __len__(self) -> int:
        """How many operations have been written."""
        return len(self._rows)

    def cosine(self, angle: int) -> Value:
        """The cosine of an angle."""
        return 1 + 2 * angle, 1, ()

    def sine(self, angle: int, sign: int = 1) -> Value:
        """The sine of an angle, or of its negative."""
        return 2 + 2 * angle, sign, ()

    def combine(self, a: Value, b: Value, c: Value = None, d: Value = None) -> Value:
        """a·b + c·d; `a` and `c` carry no factors."""
        first, second = _product(a, b), _product(c, d)
        if first is None:
            first, second = second, None
        if first is None:
            return None
        x, y, sign, factors = first
        if second is None:
            if x == 0 or y == 0:
                return x + y, sign, factors
            return self._write(PRODUCT, *_ordered(x, y), 0, 0), sign, factors
        z, w, other, others = second
        # Only what the two do not have in common is multiplied now.
        common = Counter(factors) & Counter(others)
        x, y = self._scaled(x, y, _without(factors, common))
        z, w = self._scaled(z, w, _without(others, common))
        kind = SUM if sign == other else DIFFERENCE
        register = self._write(kind, *_ordered(x, y), *_ordered(z, w))
        return register, sign, tuple(sorted(common.elements()))

    def _scaled(self, x: int, y: int, factors: Factors) -> tuple[int, int]:
        """Two registers whose product is `x` times `y` times the factors."""
        if not factors:
            return x, y
        constant = self._constant(factors)
        if x == 0:
            return constant, y
        if y == 0:
            return x, constant
        return x, self._write(PRODUCT, *_ordered(constant, y), 0, 0)

    def _constant(self, factors: Factors) -> int:
        return self._constants.setdefault(factors, -1 - len(self._constants))

    def _write(self, kind: int, x: int, y: int, z: int, w: int) -> int:
        return self._rows.setdefault((kind, x, y, z, w), _FIRST_OPERATION + len(self._rows))

    def finish(self, values: Sequence[Value]) -> Polynomials:
        """The polynomials of these values, without the operations that none of them needs."""
        done = [None if v is None else self._whole(v) for v in values]
        rows = list(self._rows)
        needed = {value[0] for value in done if value is not None}
        for k in range(len(rows) - 1, -1, -1):
            if _FIRST_OPERATION + k in needed:
                kind, x, y, z, w = rows[k]
                needed |= {x, y} if kind == PRODUCT else {x, y, z, w}
        constants = [factors for factors, register in self._constants.items() if register in needed]
        first_constant = 1 + 2 * self.n_angles
        place = {r: r for r in range(first_constant)}
        place |= {self._constants[f]: first_constant + i for i, f in enumerate(constants)}
        kept = [k for k in range(len(rows)) if _FIRST_OPERATION + k in needed]
        place |= {
            _FIRST_OPERATION + k: first_constant + len(constants) + i for i, k in enumerate(kept)
        }
        ops = [(rows[k][0], *(place[r] for r in rows[k][1:])) for k in kept]
        return Polynomials(
            self.n_angles,
            np.array(ops, np.int64).reshape(-1, 5),
            np.array([0 if v is None else place[v[0]] for v in done], np.int64),
            np.array([0 if v is None else v[1] for v in done], np.int64),
            tuple(constants),
        )

    def _whole(self, value: tuple[int, int, Factors]) -> tuple[int, int]:
        """A value multiplied by its factors."""
        register, sign, factors = value
        if not factors:
            return register, sign
        constant = self._constant(factors)
        if register == 0:
            return constant, sign
        return self._write(PRODUCT, *_ordered(constant, register), 0, 0), sign


def _ordered(x: int, y: int) -> tuple[int, int]:
    return (x, y) if x <= y else (y, x)


def _product(a: Value, b: Value) -> tuple[int, int, int, Factors] | None:
    if a is None or b is None:
        return None
    return a[0], b[0], a[1] * b[1], b[2]


def _without(factors: Iterable[tuple[int, int]], common: Counter[tuple[int, int]]) -> Factors:
    return tuple(sorted((Counter(factors) - common).elements()))
