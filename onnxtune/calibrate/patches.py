"""The rows that a convolution multiplies its weights with, at some of its output positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.windows import Window


def positions_of(
    samples: NDArray[np.integer[Any]], size: tuple[int, ...], per_sample: int, seed: int
) -> NDArray[np.intp]:
    """(samples, P, rank): distinct output positions of each sample, at most all there are.

    They follow from the seed and the sample's number alone, and those for a larger `per_sample` begin with them.
    Border positions are drawn like all others: what zero padding does there is part of the layer.
    """
    total = int(np.prod(size))
    wanted = min(per_sample, total)
    chosen = np.stack([np.random.default_rng((seed, int(s))).permutation(total)[:wanted] for s in samples])
    return np.stack(np.unravel_index(chosen, size), axis=-1)


def patches(x: NDArray[Any], positions: NDArray[np.intp], window: Window) -> NDArray[Any]:
    """(N P, C kh kw) in the order of weight.reshape(C_out, -1): y = patches @ weight.T + bias. x: (N, C, *map)."""
    rank = x.ndim - 2
    if any(window.begin) or any(window.end):
        x = np.pad(x, [(0, 0), (0, 0), *zip(window.begin, window.end, strict=True)])
    spans = tuple((k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True))
    every = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + rank)))
    steps: tuple[Any, ...] = tuple(slice(None, None, d) for d in window.dilations)
    where = [positions[..., axis] * window.strides[axis] for axis in range(rank)]
    index: tuple[Any, ...] = (np.arange(len(x))[:, None], slice(None), *where)
    rows = every[(slice(None),) * x.ndim + steps][index]
    flat: NDArray[Any] = rows.reshape(positions.shape[0] * positions.shape[1], -1)
    return flat


def values(y: NDArray[Any], positions: NDArray[np.intp]) -> NDArray[Any]:
    """(N P, J): what a map y (N, J, *map) holds at these positions."""
    where = [positions[..., axis] for axis in range(y.ndim - 2)]
    index: tuple[Any, ...] = (np.arange(len(y))[:, None], slice(None), *where)
    rows: NDArray[Any] = y[index]
    return rows.reshape(-1, y.shape[1])
