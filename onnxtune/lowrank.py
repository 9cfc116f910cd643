"""Exact factors of matrices whose rank is low up to the rounding in which they are stored.

A matrix stored with unit roundoff u differs from the one that was meant by at most u |M| (Frobenius norm).
It is called of rank r when the best matrix of rank r lies within 4 u |M|: its own rounding and a few more
(folded scales, a product of factors). What is further away is an approximation and not taken.

Most matrices of a network have full rank, which a small part of them proves: if k rows and some columns of M
have a k-th singular value above the tolerance, so has M, and the rank is at least k. Only what passes this
test is looked at completely, with random sketches that double in size (Halko, Martinsson, Tropp: Finding
structure with randomness, 2011).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
TOLERANCE = 4.0
SAFETY = 10.0
"""How far above the tolerance a singular value must be for the quick test, which squares them."""
OVERSAMPLED = 6


def proves_more(view: NDArray[Any], split: int, rank: int, roundoff: float) -> bool:
    """Does a part of the matrix prove that its rank is above `rank`? False: it may be or not.

    The matrix is an array whose first `split` axes are its rows, the others its columns, in any memory
    order; only the part is copied.
    """
    rng = np.random.default_rng(0)
    shape = (math.prod(view.shape[:split]), math.prod(view.shape[split:]))
    need = rank + 1
    if need > min(shape):
        return False
    rows = np.sort(rng.permutation(shape[0])[: need + need // 4 + 8])
    columns = np.sort(rng.permutation(shape[1])[: need + need // 4 + 8])
    where = (*np.unravel_index(rows[:, None], view.shape[:split]), *np.unravel_index(columns, view.shape[split:]))
    part = view[where].astype(np.float64)
    part = part[np.argsort(-np.square(part).sum(axis=1))[:need]]
    limit = SAFETY * _tolerance(view, roundoff)
    try:
        np.linalg.cholesky(part @ part.T - limit**2 * np.eye(len(part)))
    except np.linalg.LinAlgError:
        return False
    return True


def factors(stack: NDArray[Any], largest: int, roundoff: float) -> tuple[Matrix, Matrix] | None:
    """stack (B, m, n) = left (B, m, r) @ right (B, r, n) with one r <= `largest`, else None.

    The factors of a matrix have equal norms. Where ranks differ, the smaller ones are filled with zeros.
    """
    if largest < 1 or not stack.any():
        return None
    rng = np.random.default_rng(0)
    pairs = []
    for matrix in stack:
        wide = matrix.astype(np.float64)
        if (pair := _factor(wide, largest, _tolerance(matrix, roundoff), rng)) is None:
            return None
        pairs.append(pair)
    rank = max(left.shape[1] for left, _ in pairs)
    left = np.zeros((*stack.shape[:2], rank))
    right = np.zeros((len(stack), rank, stack.shape[2]))
    for b, (u, v) in enumerate(pairs):
        left[b, :, : u.shape[1]], right[b, : v.shape[0]] = u, v
    return left, right


def _tolerance(matrix: NDArray[Any], roundoff: float) -> float:
    return TOLERANCE * max(roundoff, 1e-15) * float(np.linalg.norm(matrix))


def _factor(matrix: Matrix, largest: int, tolerance: float, rng: np.random.Generator) -> tuple[Matrix, Matrix] | None:
    """The matrix (m, n) as (m, r) @ (r, n) with the smallest r, None when that is above `largest`."""
    limit = min(*matrix.shape, largest + OVERSAMPLED)
    size = 0
    while True:
        size = min(max(16, 2 * size), limit)
        basis = np.linalg.qr(matrix @ rng.standard_normal((matrix.shape[1], size)))[0]
        basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
        small = basis.T @ matrix
        missed = float(np.linalg.norm(matrix - basis @ small))
        if missed <= tolerance:
            break
        if size == limit:
            return None
    u, s, v = np.linalg.svd(small, full_matrices=False)
    tails = np.sqrt(np.append(np.cumsum(np.square(s)[::-1])[::-1], 0.0) + missed**2)
    rank = int(np.argmax(tails <= tolerance))
    if rank > largest:
        return None
    root = np.sqrt(s[:rank])
    return (basis @ u[:, :rank]) * root, root[:, None] * v[:rank]
