"""First weights of a factorised kernel, by singular value decompositions; all stages but the last matter.

Where the taps of two stages never overlap (1x1 or K x 1 against 1 x K) the decomposition is the optimum
for a covariance that is a Kronecker product. Where they do, the kernel is spread over the pairs of taps
that make up each of its taps, in equal parts:

    H[(o,p),(c,a)] = W[o,c,step p + a] / N(step p + a)      ~ U[o,m,p] V[m,c,a]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.linalg

from onnxtune.calibrate import composition
from onnxtune.calibrate.composition import Pair
from onnxtune.calibrate.forms import Form
from onnxtune.calibrate.models import Metric, Weights
from onnxtune.calibrate.moments import Array


def starts(
    form: Form, target: Array, metric: Metric, mid: Sequence[int], random: np.random.Generator
) -> Iterator[Weights]:
    """Weights to start from. target: (O, C, *kernel)."""
    if form.depthwise:
        yield from _canonical(target, metric, mid[0], random)
    else:
        yield _chain(form, target, metric, mid, random)


def _chain(form: Form, target: Array, metric: Metric, mid: Sequence[int], random: np.random.Generator) -> Weights:
    """One stage after the other is split off; its outputs are made uncorrelated with variance 1."""
    rest, channel, weights = target, metric.channel, []
    kernel = form.window.kernel
    for stage, step, m in zip(form.stages, form.steps(), mid, strict=False):
        inner = stage.kernel
        outer = tuple((n - k) // s + 1 for n, k, s in zip(rest.shape[2:], inner, stage.strides, strict=True))
        outer = tuple(1 if n == k else p for p, n, k in zip(outer, rest.shape[2:], inner, strict=True))
        further = tuple(a * b for a, b in zip(step, stage.strides, strict=True))
        columns = np.linalg.cholesky(np.kron(channel, metric.window(kernel, inner, step)))
        rows = np.linalg.cholesky(metric.window(kernel, outer, further))
        lifted = _lift(rest, outer, inner, stage.strides)  # (O, p, C a)
        weighted = np.einsum("pq,opn->oqn", rows, lifted @ columns)
        right = _right_singular(weighted.reshape(-1, len(columns)), m, random)
        found = scipy.linalg.solve_triangular(columns, right.T, lower=True, trans="T").T
        weights.append(found.reshape(m, rest.shape[1], *inner))
        rest = scipy.linalg.solve_triangular(
            rows, (weighted @ right.T).transpose(1, 0, 2).reshape(len(rows), -1), lower=True, trans="T"
        )
        rest = rest.reshape(len(rows), len(target), m).transpose(1, 2, 0).reshape(len(target), m, *outer)
        channel = np.eye(m)
    return (*weights, rest)


def _lift(kernel: Array, outer: Pair, inner: Pair, step: Pair) -> Array:
    """(O, p, C a): the kernel spread over pairs of taps."""
    ones = np.ones((1, 1, *outer)), np.ones((1, 1, *inner))
    spread = kernel / composition.compose(*ones, step)
    parts = []
    for i in range(outer[0]):
        for j in range(outer[1]):
            top, left = i * step[0], j * step[1]
            parts.append(spread[:, :, top : top + inner[0], left : left + inner[1]].reshape(len(kernel), -1))
    return np.stack(parts, axis=1)


def _right_singular(matrix: Array, number: int, random: np.random.Generator) -> Array:
    """(number, columns): the leading right singular vectors, random rows beyond the rank."""
    n, columns = matrix.shape
    wanted = min(number, n, columns)
    if columns <= n:
        _, vectors = scipy.linalg.eigh(matrix.T @ matrix, subset_by_index=(columns - wanted, columns - 1))
        rows = vectors.T[::-1]
    else:
        values, vectors = scipy.linalg.eigh(matrix @ matrix.T, subset_by_index=(n - wanted, n - 1))
        rows = (vectors.T @ matrix)[::-1] / np.sqrt(np.maximum(values[::-1, None], 1e-300))
        rows = rows[values[::-1] > 1e-14 * max(values[-1], 1e-300)]
    more = random.standard_normal((number - len(rows), columns)) / columns**0.5
    return np.concatenate([rows, more])


def _canonical(target: Array, metric: Metric, rank: int, random: np.random.Generator) -> Iterator[Weights]:
    """D and B from the leading spatial filters of each input channel, principal channel, or output channel."""
    o, c = target.shape[:2]
    root_c, root_s = np.linalg.cholesky(metric.channel), np.linalg.cholesky(metric.spatial)
    kernel = target.reshape(o, c, -1)
    weighted = root_c.T @ (kernel @ root_s)
    principal = _right_singular(weighted.transpose(0, 2, 1).reshape(-1, c), c, random)
    rotated = np.tensordot(principal, weighted, (1, 1))
    lengths = np.sqrt(np.diag(metric.channel))
    plain = lengths[:, None, None] * (kernel @ root_s).transpose(1, 0, 2)
    for matrices, channels in ((rotated, principal), (plain, root_c / lengths[:, None]), (weighted, None)):
        u, sizes, v = np.linalg.svd(matrices, full_matrices=False)
        chosen = np.argsort(-sizes, axis=None, kind="stable")[:rank]
        owner, order = np.unravel_index(chosen, sizes.shape)
        b = v[owner, order]
        d = u[owner, :, order] if channels is None else channels[owner]
        more = rank - len(chosen)
        b = np.concatenate([b, random.standard_normal((more, b.shape[1])) / b.shape[1] ** 0.5])
        d = np.concatenate([d, random.standard_normal((more, c)) / c**0.5])
        b = scipy.linalg.solve_triangular(root_s, b.T, lower=True, trans="T").T
        d = scipy.linalg.solve_triangular(root_c, d.T, lower=True, trans="T").T
        yield (d[..., None, None], b.reshape(rank, 1, *target.shape[2:]), np.zeros((o, rank, 1, 1)))
