"""Layers and inputs for tests: maps whose channels and neighbouring pixels are correlated, as in real nets."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from onnxtune.calibrate.moments import Accumulator, Moments
from onnxtune.calibrate.patches import patches, positions_of
from onnxtune.windows import Window


def square(kernel: int, stride: int = 1) -> Window:
    pad = (kernel // 2,) * 2
    return Window((kernel,) * 2, (stride,) * 2, (1, 1), pad, pad)


def maps(channels: int, images: int = 60, seed: int = 0) -> np.ndarray:
    """(images, channels, 14, 14), not negative, mean not zero."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((images, channels, 14, 14))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 0, 1, 1), mode="wrap") * 3
    mix = random.standard_normal((channels, channels)) * np.geomspace(1, 0.1, channels)
    return np.maximum(np.einsum("cd,ndhw->nchw", mix, smooth), 0)


def weights(out: int, channels: int, kernel: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((out, channels, kernel, kernel)), random.standard_normal(out)


def sample(x: np.ndarray, window: Window, seed: int = 0) -> np.ndarray:
    """All or many patches, borders included."""
    size = tuple(
        (n + b + e - k) // s + 1
        for n, b, e, k, s in zip(x.shape[2:], window.begin, window.end, window.kernel, window.strides, strict=True)
    )
    return patches(x, positions_of(np.arange(len(x)), size, 60, seed), window)


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    gathered = Accumulator(x.shape[1], y.shape[1])
    gathered.add(x, y)
    return gathered.finish()
