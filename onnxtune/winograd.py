"""Fast algorithms for a short filter: m outputs of an r-tap filter with m + r - 1 products in place of m r.

Toom and Cook multiply polynomials by their values at n = m + r - 1 points: with V(k) the n x k matrix of the
powers 0 .. k - 1 of each point (for the point infinity: 0 .. 0, 1), the product of g (r coefficients) and h (m) is
V(n)^-1 ((V(r) g) * (V(m) h)). Transposed, the same numbers filter (Winograd; Blahut: Fast algorithms for digital
signal processing, chapter 5):

    y = A^T ((G g) * (B^T d)),    A^T = V(m)^T,  G = V(r),  B^T = V(n)^-T
    y[k] = sum over j of d[k + j] g[j],    d: n inputs, g: r taps, y: m outputs

A row of B^T times a number and the row of G divided by it leave y as it is: B^T is made of whole numbers.
Rounding grows with the size of the points; up to eight of them it is a few units in the last place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))
"""The finite points, in the order in which they are taken; infinity is always the last one."""
MOST = len(POINTS) + 1

Matrix = list[list[Fraction]]


@dataclass(frozen=True, eq=False)
class Fast:
    """`inputs`: B^T, (n, n). `filter`: G, (n, r). `outputs`: A^T, (m, n). float64, `inputs` whole numbers."""

    inputs: NDArray[np.float64]
    filter: NDArray[np.float64]
    outputs: NDArray[np.float64]

    @property
    def one(self) -> int:
        """The product that adds itself to all outputs alike: that of the point 1."""
        return 1


@cache
def fast(m: int, r: int) -> Fast:
    """The algorithm F(m, r), 3 to MOST points. Raises ValueError for others."""
    n = m + r - 1
    if m < 1 or r < 1 or not 3 <= n <= MOST:
        raise ValueError(f"F({m}, {r}) takes {n} points, not 3 to {MOST}")
    inverse = _inverse(_powers(n, n))
    inputs: Matrix = [[inverse[j][i] for j in range(n)] for i in range(n)]
    filters = _powers(n, r)
    for i in range(n):
        factor = Fraction(math.lcm(*(x.denominator for x in inputs[i])))
        inputs[i] = [x * factor for x in inputs[i]]
        filters[i] = [x / factor for x in filters[i]]
    powers = _powers(n, m)
    return Fast(_array(inputs), _array(filters), _array([[row[k] for row in powers] for k in range(m)]))


def _powers(n: int, count: int) -> Matrix:
    """V(count): the powers of each of n points."""
    finite = [[point**k for k in range(count)] for point in POINTS[: n - 1]]
    return [*finite, [Fraction(int(k == count - 1)) for k in range(count)]]


def _inverse(matrix: Matrix) -> Matrix:
    """Gauss-Jordan in fractions."""
    n = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


def _array(matrix: Matrix) -> NDArray[np.float64]:
    return np.array([[float(x) for x in row] for row in matrix])
