"""Factorised kernels as functions of their weights, for the solver: value, derivatives, preconditioner.

Both kinds know a preconditioner: the Hessian of each stage alone, as it would be if the covariance of the
input were a Kronecker product A (x) B of channels and taps:

    stage X with U after and V before it:   (S^T (I (x) B) S) (x) (V (A (x) B) V^T),  S = shifts of U
    depthwise B, input D, output A' of cp:  (A'^T A' o D A D^T) (x) B, and so on with the roles exchanged

For the last stage the true covariance is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxtune.calibrate import composition
from onnxtune.calibrate.composition import Pair
from onnxtune.calibrate.covariance import ridge
from onnxtune.calibrate.forms import Form, composed
from onnxtune.calibrate.moments import Array

Weights = tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Metric:
    """A covariance of a layer's patches as a Kronecker product of channels and taps."""

    channel: Array
    """(C, C)"""
    spatial: Array
    """(taps, taps), mean diagonal 1"""

    @staticmethod
    def plain(channels: int, taps: int) -> Metric:
        """Of inputs without any correlation."""
        return Metric(np.eye(channels), np.eye(taps))

    @staticmethod
    def of(full: Array, channels: int, taps: int) -> Metric:
        """The closest to a covariance (d, d)."""
        blocks = full.reshape(channels, taps, channels, taps)
        channel = np.einsum("ckdk->cd", blocks) / taps
        spatial = np.einsum("ckcl->kl", blocks) / np.trace(channel)
        return Metric(definite(channel), definite(spatial))

    def times(self, kernel: Array) -> Array:
        """(O, C taps) times the product, in the kernel's precision."""
        cube = kernel.reshape(len(kernel), len(self.channel), len(self.spatial))
        found = self.channel.astype(kernel.dtype) @ (cube @ self.spatial.astype(kernel.dtype))
        return np.asarray(found.reshape(len(kernel), -1))

    def window(self, kernel: Pair, size: Pair, step: Pair) -> Array:
        """`spatial` at the taps of a kernel of this size, spread by `step` inside a kernel of size `kernel`."""
        taps = np.arange(int(np.prod(kernel))).reshape(kernel)
        chosen = taps[: (size[0] - 1) * step[0] + 1 : step[0], : (size[1] - 1) * step[1] + 1 : step[1]].ravel()
        return np.asarray(self.spatial[np.ix_(chosen, chosen)])


Solve = Callable[[Sequence[Array]], list[Array]]


class Model(Protocol):
    """A kernel (O, C, *kernel) as a function of weights, the last of which it depends on linearly."""

    def value(self, w: Weights) -> Array: ...

    def forward(self, w: Weights, change: Sequence[Array]) -> Array:
        """The derivative of the value in the direction of `change`."""

    def backward(self, w: Weights, gradient: Array) -> list[Array]:
        """The adjoint of `forward`."""

    def last(self, w: Weights, rows: Array) -> Array:
        """rows (n, C, *kernel) times the features of the last stage: (n, f)."""

    def features(self, w: Weights) -> Array:
        """The features of the last stage: (f, C, *kernel), the kernel is linear in them."""

    def preconditioner(self, w: Weights, metric: Metric, gram: Array) -> Solve:
        """An approximate inverse of the Hessian in single precision; `gram` (f, f): of the last stage's features."""

    def balance(self, w: Weights) -> Weights:
        """The same kernel from well-conditioned weights."""


def model_of(form: Form) -> Model:
    return Canonical() if form.depthwise else Chain(form)


@dataclass(frozen=True)
class Chain:
    """Dense stages in a row."""

    form: Form

    def value(self, w: Weights) -> Array:
        return composed(self.form, w)

    def forward(self, w: Weights, change: Sequence[Array]) -> Array:
        kernel, moved = w[0], change[0]
        for weight, delta, step in zip(w[1:], change[1:], self.form.steps()[1:], strict=True):
            moved = composition.compose(weight, moved, step) + composition.compose(delta, kernel, step)
            kernel = composition.compose(weight, kernel, step)
        return moved

    def backward(self, w: Weights, gradient: Array) -> list[Array]:
        before, steps = self._before(w), self.form.steps()
        result: list[Array] = []
        for i in range(len(w) - 1, 0, -1):
            result.append(composition.back_to_outer(before[i], gradient, w[i].shape[2:], steps[i]))
            gradient = composition.back_to_inner(w[i], gradient, before[i].shape[2:], steps[i])
        return [gradient, *reversed(result)]

    def last(self, w: Weights, rows: Array) -> Array:
        step = self.form.steps()[-1]
        return composition.back_to_outer(self._before(w)[-1], rows, w[-1].shape[2:], step).reshape(len(rows), -1)

    def features(self, w: Weights) -> Array:
        return composition.shifted(self._before(w)[-1], w[-1].shape[2:], self.form.steps()[-1])

    def preconditioner(self, w: Weights, metric: Metric, gram: Array) -> Solve:
        before, after = self._before(w), self._after(w)
        parts = []
        for i, weight in enumerate(w[:-1]):
            right = metric.channel if i == 0 else self._filtered(before[i], metric)
            parts.append((self._shifts(after[i], weight, i, metric), _inverse(right)))
        last = _inverse(gram)

        def solve(residual: Sequence[Array]) -> list[Array]:
            result = []
            for (left, right), r in zip(parts, residual[:-1], strict=True):
                m, n, *kernel = r.shape
                rows = left(r.transpose(0, 2, 3, 1).reshape(-1, n)) @ right
                result.append(rows.reshape(m, *kernel, n).transpose(0, 3, 1, 2))
            r = residual[-1]
            return [*result, (r.reshape(len(r), -1) @ last).reshape(r.shape)]

        return solve

    def balance(self, w: Weights) -> Weights:
        """Each stage but the last gets orthonormal filters where it can; the next one takes the rest."""
        done: list[Array] = []
        carried = w[0]
        for following in w[1:]:
            flat = carried.reshape(len(carried), -1)
            if len(flat) <= flat.shape[1]:
                q, r = np.linalg.qr(flat.T)
                carried, following = q.T.reshape(carried.shape), np.einsum("omhw,nm->onhw", following, r)
            done.append(carried)
            carried = following
        return (*done, carried)

    def _before(self, w: Weights) -> list[Array]:
        """Per stage: the kernel of all stages before it."""
        channels = w[0].shape[1]
        result = [np.eye(channels).reshape(channels, channels, 1, 1), w[0]]
        for weight, step in zip(w[1:-1], self.form.steps()[1:], strict=False):
            result.append(composition.compose(weight, result[-1], step))
        return result

    def _after(self, w: Weights) -> list[Array]:
        """Per stage: the kernel of all stages after it, in taps of that stage's output."""
        result = [np.eye(len(w[-1])).reshape(len(w[-1]), len(w[-1]), 1, 1), w[-1]]
        for i in range(len(w) - 2, 0, -1):
            result.append(composition.compose(result[-1], w[i], self.form.stages[i].strides))
        return result[::-1]

    def _shifts(self, after: Array, weight: Array, i: int, metric: Metric) -> Callable[[Array], Array]:
        """Apply the inverse of S^T (I (x) B) S to rows (M taps, n), S the shifts of what comes after stage i:

        (S^T (I (x) B) S)[(m,a),(n,b)] = sum_p,q (U^T U)[(m,p),(n,q)] B[stride p + a, stride q + b]
        """
        kernel, step = self.form.window.kernel, self.form.steps()[i]
        if after.shape[2:] == (1, 1):  # one shift: S^T (I (x) B) S = U^T U (x) B
            flat = after[..., 0, 0]
            outer = _inverse(flat.T @ flat)
            taps = _inverse(metric.window(kernel, weight.shape[2:], step))
            return lambda rows: _by_parts(outer, taps, rows)
        stride, inner, size = self.form.stages[i].strides, weight.shape[2:], after.shape[2:]
        spatial = metric.window(kernel, composition.composite(size, inner, stride), step)
        at = composition.places(size, inner, stride)  # (P, A)
        pairs = spatial[at[:, None, :, None], at[None, :, None, :]]  # (P, P, A, A)
        (p, a), m, flat = at.shape, len(weight), after.reshape(len(after), -1)
        gram = (flat.T @ flat).reshape(m, p, m, p).transpose(0, 2, 1, 3).reshape(m * m, p * p)
        found = (gram @ pairs.reshape(p * p, a * a)).reshape(m, m, a, a).transpose(0, 2, 1, 3)
        whole = _inverse(found.reshape(m * a, m * a))
        return lambda rows: whole @ rows

    def _filtered(self, before: Array, metric: Metric) -> Array:
        """The channel covariance after these filters."""
        spatial = metric.window(self.form.window.kernel, before.shape[2:], (1, 1))
        flat = before.reshape(*before.shape[:2], -1)
        through = np.tensordot(metric.channel, flat @ spatial, ((1,), (1,)))  # (C, M, taps)
        return np.tensordot(flat, through, ((1, 2), (0, 2)))


@dataclass(frozen=True)
class Canonical:
    """1x1, depthwise, 1x1: W[o,c,k] = sum_r A[o,r] B[r,k] D[r,c], weights in the order D, B, A."""

    def value(self, w: Weights) -> Array:
        return composition.compose(w[2], w[0] * w[1], (1, 1))

    def forward(self, w: Weights, change: Sequence[Array]) -> Array:
        inner = composition.compose(w[2], change[0] * w[1] + w[0] * change[1], (1, 1))
        return inner + composition.compose(change[2], w[0] * w[1], (1, 1))

    def backward(self, w: Weights, gradient: Array) -> list[Array]:
        inner = np.tensordot(w[2][..., 0, 0], gradient, (0, 0))
        d = (inner * w[1]).sum((2, 3), keepdims=True)
        b = np.einsum("rchw,rc->rhw", inner, w[0][..., 0, 0])[:, None]
        return [d, b, self.last(w, gradient)[..., None, None]]

    def last(self, w: Weights, rows: Array) -> Array:
        return rows.reshape(len(rows), -1) @ (w[0] * w[1]).reshape(len(w[0]), -1).T

    def features(self, w: Weights) -> Array:
        return w[0] * w[1]

    def preconditioner(self, w: Weights, metric: Metric, gram: Array) -> Solve:
        d, b, a = w[0][..., 0, 0], w[1].reshape(len(w[1]), -1), w[2][..., 0, 0]
        outer = a.T @ a
        left_d, right_d = _inverse(outer * (b @ metric.spatial @ b.T)), _inverse(metric.channel)
        left_b, right_b = _inverse(outer * (d @ metric.channel @ d.T)), _inverse(metric.spatial)
        last = _inverse(gram)

        def solve(residual: Sequence[Array]) -> list[Array]:
            r_d, r_b, r_a = (r.reshape(len(r), -1) for r in residual)
            found = (left_d @ r_d @ right_d, left_b @ r_b @ right_b, r_a @ last)
            return [x.reshape(r.shape) for x, r in zip(found, residual, strict=True)]

        return solve

    def balance(self, w: Weights) -> Weights:
        """Filters D and B of length 1; A takes the scales."""
        d, b = (np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True)) for x in w[:2])
        d, b = np.where(d > 0, d, 1.0), np.where(b > 0, b, 1.0)
        return (w[0] / d, w[1] / b, w[2] * (d * b).reshape(1, -1, 1, 1))


def _by_parts(outer: Array, inner: Array, rows: Array) -> Array:
    """(outer (x) inner) rows."""
    cube = rows.reshape(len(outer), len(inner), -1)
    found: Array = np.einsum("mn,kl,nlc->mkc", outer, inner, cube, optimize=True)
    return found.reshape(rows.shape)


def _inverse(matrix: Array) -> Array:
    """Of a positive semidefinite matrix, with a little ridge, in single precision."""
    return np.asarray(np.linalg.inv(ridge(matrix, 1e-7)), dtype=np.float32)


def definite(matrix: Array) -> Array:
    """Symmetric, and with a little ridge."""
    return ridge((matrix + matrix.T) / 2, 1e-7)
