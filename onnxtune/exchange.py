"""Which difference between two kinds of sessions could be chance: an exact interval by relabelling. Pure functions.

A block of a measurement has four fresh sessions, two of each model, made and run in random order. Were the models
equal, it would be luck which two of the four bear which name: every one of the six ways to name them was as likely.
So the difference that was seen is held against the differences under all other namings of all blocks (Fisher, The
Design of Experiments, 1935, chapter 3; Edgington & Onghena, Randomization Tests, 2007). Nothing is assumed of the
noise: it may have heavy tails, drift, jump between two speeds or stick; luck of a session's memory layout is in it.

The interval holds every shift d for which "after is d slower" is not refuted. For a naming m with contrast a_m and
overlap b_m with the true one (1 all blocks the same, -1 all swapped), shift d makes the contrast a_m - d b_m; it does
not exceed the true one a - d where d <= u_m = (a - a_m) / (1 - b_m). Quantiles of u_m are therefore the limits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAMINGS = np.array(
    [[-1, -1, 1, 1], [1, 1, -1, -1], [-1, 1, -1, 1], [1, -1, 1, -1], [-1, 1, 1, -1], [1, -1, -1, 1]], np.float64
) / 2  # fmt: skip
"""Contrasts of the six namings of (before, before, after, after); the first is the true one."""
OVERLAP = np.array([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
ENUMERATED = 6
"""Blocks up to which all namings are gone through (6 ** 6 = 46656); from there on they are drawn."""
DRAWS = 10_000


def shift_interval(values: Array, weights: Array, error: float, seed: int) -> tuple[float, float, float]:
    """How far the last two columns lie above the first two: estimate, and interval that errs with chance `error`.

    `values`: (blocks, 4), each session's location; `weights`: (blocks,), how much a block counts. The
    limits are infinite where so few blocks refute nothing at that error.
    """
    share = weights / weights.sum()
    contrasts = share[:, None] * (values @ NAMINGS.T)
    overlaps = share[:, None] * OVERLAP
    estimate = float(contrasts[:, 0].sum())
    blocks = len(values)
    if blocks <= ENUMERATED:
        a, b = np.zeros(1), np.zeros(1)
        for row, overlap in zip(contrasts, overlaps, strict=True):
            a, b = np.add.outer(a, row).ravel(), np.add.outer(b, overlap).ravel()
        same = np.zeros(len(a), bool)
        same[0] = True
    else:
        picks = np.random.default_rng(seed).integers(0, len(NAMINGS), (DRAWS, blocks))
        picks[0] = 0  # the naming that was seen is one of them
        rows = np.arange(blocks)
        a, b = contrasts[rows, picks].sum(1), overlaps[rows, picks].sum(1)
        same = (picks == 0).all(1)
    limits = (estimate - a[~same]) / (1 - b[~same])
    limits.sort()
    beyond = math.floor(error / 2 * len(a) * (1 + 1e-12)) - int(same.sum())
    if beyond < 0:
        return estimate, -math.inf, math.inf
    return estimate, float(limits[beyond]), float(limits[-1 - beyond])


def session_interval(values: Array, error: float) -> tuple[float, float, float]:
    """The same from few sets of sessions, too few to relabel: Student's t, with the spread of equal sessions.

    `values`: (sets, 4). For models whose sessions take so long to make that they are not made anew.
    """
    from scipy.special import stdtrit

    sets = len(values)
    twins = np.concatenate([values[:, 0] - values[:, 1], values[:, 2] - values[:, 3]])
    spread = math.sqrt(float(np.mean(twins**2)) / 2)
    estimate = float((values @ NAMINGS[0]).mean())
    half = float(stdtrit(2 * sets, 1 - error / 2)) * spread / math.sqrt(sets)
    return estimate, estimate - half, estimate + half


def split_noise(values: Array, weights: Array, seed: int, share: float = 0.9) -> float:
    """What equal sessions differ by over the whole measurement, in `share` of the ways to pair them: A/A splits.

    `values`: (blocks, 2 x models), twins side by side. A split calls in every block one of two sessions of the same
    model `before` and its twin `after`.
    """
    part = weights / weights.sum()
    twins = (values[:, ::2] - values[:, 1::2]).T
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (500, len(values)))
    return float(np.quantile(np.abs((part * twins) @ signs.T), share))
