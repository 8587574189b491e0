"""Polynomials in cosines and sines, as a straight line of products and sums of two products.

Register 0 holds 1; registers 1 + 2i and 2 + 2i hold the cosine and the sine of angle i; every
operation writes the next register. Equal operations are written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DIFFERENCE", "ONE", "PRODUCT", "SUM", "Builder", "Polynomials", "Value"]

# Kinds of operation: x·y, x·y + z·w, x·y - z·w.
PRODUCT, SUM, DIFFERENCE = range(3)

# A polynomial while it is written: its register and sign; None is zero.
Value = tuple[int, int] | None
ONE: Value = (0, 1)


@dataclass(frozen=True)
class Polynomials:
    """Several polynomials of the same angles.

    Attributes:
        n_angles: how many angles there are.
        ops: rows (kind, x, y, z, w) of registers; row k writes register 1 + 2·n_angles + k.
        outputs: the register of each polynomial.
        signs: its sign, or 0 for a polynomial that is zero.
    """

    n_angles: int
    ops: NDArray[np.int64]
    outputs: NDArray[np.int64]
    signs: NDArray[np.int64]

    @property
    def n_registers(self) -> int:
        """Registers, with the constant and the cosines and sines."""
        return 1 + 2 * self.n_angles + len(self.ops)

    def evaluate(self, angles: Sequence[Tensor], like: Tensor) -> list[Tensor]:
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
        for kind, x, y, z, w in self.ops.tolist():
            value = registers[x] * registers[y]
            if kind != PRODUCT:
                other = registers[z] * registers[w]
                value = value + other if kind == SUM else value - other
            registers.append(value)
        places = zip(self.outputs.tolist(), self.signs.tolist(), strict=True)
        return [registers[place] * sign for place, sign in places]


class Builder:
    """Writes `Polynomials`."""

    def __init__(self, n_angles: int) -> None:
        self.n_angles = n_angles
        self._rows: dict[tuple[int, int, int, int, int], int] = {}

    def __len__(self) -> int:
        """How many operations have been written."""
        return len(self._rows)

    def cosine(self, angle: int) -> Value:
        """The cosine of an angle."""
        return 1 + 2 * angle, 1

    def sine(self, angle: int, sign: int = 1) -> Value:
        """The sine of an angle, or of its negative."""
        return 2 + 2 * angle, sign

    def combine(self, a: Value, b: Value, c: Value = None, d: Value = None) -> Value:
        """a·b + c·d."""
        first = None if a is None or b is None else (*sorted((a[0], b[0])), a[1] * b[1])
        second = None if c is None or d is None else (*sorted((c[0], d[0])), c[1] * d[1])
        if first is None:
            first, second = second, None
        if first is None:
            return None
        x, y, sign = first
        if second is None:
            # x is the smaller register: 0 is the constant 1.
            return (y, sign) if x == 0 else (self._write(PRODUCT, x, y, 0, 0), sign)
        z, w, other = second
        return self._write(SUM if sign == other else DIFFERENCE, x, y, z, w), sign

    def _write(self, kind: int, x: int, y: int, z: int, w: int) -> int:
        return self._rows.setdefault((kind, x, y, z, w), 1 + 2 * self.n_angles + len(self._rows))

    def finish(self, values: Sequence[Value]) -> Polynomials:
        """The polynomials of these values, without the operations that none of them needs."""
        first = 1 + 2 * self.n_angles
        rows = list(self._rows)
        needed = {value[0] for value in values if value is not None}
        for k in range(len(rows) - 1, -1, -1):
            if first + k in needed:
                kind, x, y, z, w = rows[k]
                needed |= {x, y} if kind == PRODUCT else {x, y, z, w}
        kept = [k for k in range(len(rows)) if first + k in needed]
        place = {r: r for r in range(first)} | {first + k: first + i for i, k in enumerate(kept)}
        ops = [(rows[k][0], *(place[r] for r in rows[k][1:])) for k in kept]
        return Polynomials(
            self.n_angles,
            np.array(ops, np.int64).reshape(-1, 5),
            np.array([0 if v is None else place[v[0]] for v in values], np.int64),
            np.array([0 if v is None else v[1] for v in values], np.int64),
        )
