"""Smaller forms of a fully connected layer y = W x + b, W (J, d), fitted to what it really sees.

    low rank    Q = leading eigenvectors of W* C W*^T;  y = Q (Q^T W* x) + mean y - Q Q^T W* mean x
    pooled      z = P x (z, d):  W' = W* C P^T (P C P^T)^-1,  b' = mean y - W' P mean x
    maps        P the same R spatial maps for every channel: x (C, S) -> x B^T (C, R), B (R, S);
                W' and B are each linear given the other, fitted by turns

    one layer   y = W' z + b' by least squares, where y is more than a layer of x

W* = W + (C_yx - W C)(C)^-1 is W itself where y is the layer's own output. C is shrunk (priors.py): a head is
fitted to one row per image, often fewer than it has columns. But for the last form nothing is regressed, so there is
no noise but that of C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from onnxtune.calibrate.covariance import Kronecker, ridge, shrunk
from onnxtune.calibrate.moments import Array, Moments
from onnxtune.calibrate.priors import estimate
from onnxtune.calibrate.solve import solve_right


@dataclass(frozen=True, eq=False)
class Head:
    """y = outer (inner x) + bias. `rel_error`: expected, under the shrunk covariance."""

    inner: Array
    """(z, d); for maps (R, S), applied to every channel"""
    outer: Array
    """(J, z); for maps (J, C R), channel by channel"""
    bias: Array
    rel_error: float


def low_rank(
    weight: Array, bias: Array | None, moments: Moments | None, rank: int, channels: int | None = None
) -> Head:
    """The product of (J, rank) and (rank, d). Without data: the truncated singular value decomposition.

    `channels` of the maps that x is made of, None for rows of features: see priors.py.
    """
    covariance = None if moments is None else estimate(moments, channels)
    target, mean_x, mean_y = _layer(weight, bias, moments, covariance)
    through = target if covariance is None else target @ covariance
    gram = through @ target.T
    values, vectors = scipy.linalg.eigh((gram + gram.T) / 2)
    q = vectors[:, ::-1][:, :rank]
    inner = q.T @ target
    lost = max(0.0, float(values[: len(values) - q.shape[1]].sum()))
    return Head(inner, q, mean_y - q @ (inner @ mean_x), _root(lost, float(values.sum())))


def pooled(weight: Array, bias: Array | None, moments: Moments | None, pooling: Array) -> Head:
    """The best layer on pooled features `pooling` x, pooling (z, d)."""
    covariance = None if moments is None else shrunk(moments)
    target, mean_x, mean_y = _layer(weight, bias, moments, covariance)
    through = pooling if covariance is None else pooling @ covariance
    outer = solve_right(through @ pooling.T, target @ through.T)
    error = _lost(target - outer @ pooling, target, covariance)
    return Head(pooling, outer, mean_y - outer @ (pooling @ mean_x), error)


def best_maps(weight: Array, covariance: Kronecker, number: int) -> Array:
    """(number, S): the best maps for a Kronecker covariance A (x) B; where `learned_maps` starts.

    maps = L^-T q, B = L L^T, q the leading eigenvectors of L^T (sum_j W_j^T A W_j) L, W_j (C, S).
    """
    s = len(covariance.spatial)
    kernel = weight.reshape(len(weight), -1, s)
    root = np.linalg.cholesky(covariance.spatial)
    mixed = np.einsum("cd,jds->jcs", covariance.channel, kernel, optimize=True)
    gram = root.T @ np.tensordot(kernel, mixed, ((0, 1), (0, 1))) @ root
    _, vectors = scipy.linalg.eigh((gram + gram.T) / 2)
    return np.asarray(scipy.linalg.solve_triangular(root, vectors[:, ::-1][:, :number], lower=True, trans="T").T)


def learned_maps(
    weight: Array, bias: Array | None, moments: Moments, channels: int, number: int, iterations: int = 10
) -> Head:
    """`number` maps shared by all channels, and the layer on what they give, fitted by turns."""
    covariance = shrunk(moments)
    target, mean_x, mean_y = _layer(weight, bias, moments, covariance)
    j, s = len(target), target.shape[1] // channels
    blocks = covariance.reshape(channels, s, channels, s)
    channel = np.einsum("csds->cd", blocks) / s
    spatial = np.einsum("cscu->su", blocks) / np.trace(channel)
    maps = best_maps(target, Kronecker(ridge(channel, 1e-6), ridge(spatial, 1e-6)), number)
    pairs = np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(channels**2, s * s)
    cross = (target @ covariance).reshape(j, channels, s)
    best: tuple[float, Array, Array] | None = None
    for _ in range(iterations):
        maps = np.linalg.qr(maps.T)[0].T
        seen = np.tensordot(blocks, maps, (3, 1))  # (C, S, C, R)
        gram = np.tensordot(maps, seen, (1, 1)).transpose(1, 0, 2, 3).reshape(channels * number, -1)
        outer = solve_right(gram, (cross @ maps.T).reshape(j, -1))
        kernel = outer.reshape(j, channels, number)
        error = _lost(target - (kernel @ maps).reshape(j, -1), target, covariance)
        if best is not None and error >= best[0] * (1 - 1e-5):
            break
        best = (error, maps, outer)
        weights = np.einsum("jcr,jdq->rqcd", kernel, kernel, optimize=True).reshape(number**2, -1)
        normal = (weights @ pairs).reshape(number, number, s, s).transpose(0, 2, 1, 3).reshape(number * s, -1)
        right = np.einsum("jcr,jcs->rs", kernel, cross).ravel()
        maps = solve_right((normal + normal.T) / 2, right[None])[0].reshape(number, s)
    assert best is not None
    error, maps, outer = best
    pooled_mean = (mean_x.reshape(channels, s) @ maps.T).ravel()
    return Head(maps, outer, mean_y - outer @ pooled_mean, error)


def one_layer(z: Array, y: Array) -> tuple[Array, Array, float]:
    """W' (J, C) and b' (J,) for rows z (n, C), y (n, J), n > 1: ridge regression, and its error on rows left out.

    The ridge is that of the least error of leaving out one row, e_i / (1 - H_ii) in closed form. Directions in which
    the centred, standardised rows do not vary are dropped first: where there are as many columns as rows, one of them
    would make H_ii 1.
    """
    z, y = z.astype(np.float64), y.astype(np.float64)
    n, mean_z, mean_y = len(z), z.mean(0), y.mean(0)
    scale = z.std(0)
    scale[scale <= 1e-12 * max(float(scale.max()), 1e-300)] = np.inf  # a constant column says nothing
    u, s, vt = np.linalg.svd((z - mean_z) / scale, full_matrices=False)
    keep = s > 1e-9 * max(float(s[0]), 1e-300)
    u, s, vt = u[:, keep], s[keep], vt[keep]
    seen = u.T @ (y - mean_y)
    best = (np.square(y - mean_y).sum() * (n / (n - 1)) ** 2, np.inf)  # the mean alone
    for ridge_ in n * np.logspace(-8, 3, 34):
        kept = s**2 / (s**2 + ridge_)
        spare = 1 - np.square(u) @ kept - 1 / n
        if spare.min() > 1e-9:
            left = (y - mean_y - u @ (kept[:, None] * seen)) / spare[:, None]
            best = min(best, (float(np.square(left).sum()), float(ridge_)))
    error, ridge_ = best
    weight = ((vt.T * (s / (s**2 + ridge_))) @ seen).T / scale
    return weight, mean_y - weight @ mean_z, _root(float(error), float(np.square(y - mean_y).sum()))


def _layer(
    weight: Array, bias: Array | None, moments: Moments | None, covariance: Array | None
) -> tuple[Array, Array, Array]:
    """W*, and the means of x and y that the new layer must map; `covariance` of x, None for the identity."""
    if moments is None or covariance is None:
        return weight, np.zeros(weight.shape[1]), np.zeros(len(weight)) if bias is None else bias
    wrong = moments.yx - weight @ moments.xx
    if np.abs(wrong).max() <= 1e-9 * np.abs(moments.yx).max():
        return weight, moments.mean_x, moments.mean_y
    target = weight + scipy.linalg.solve(covariance, wrong.T, assume_a="pos").T
    return target, moments.mean_x, moments.mean_y


def _lost(less: Array, target: Array, covariance: Array | None) -> float:
    energies = (np.vdot(a, a if covariance is None else a @ covariance) for a in (less, target))
    return _root(*(float(e) for e in energies))


def _root(part: float, whole: float) -> float:
    return float(np.sqrt(max(part, 0.0) / max(whole, np.finfo(float).tiny)))
