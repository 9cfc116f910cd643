"""Taking latency samples: interleaved rounds in random order until the answer is clear or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxtune.compare import Comparison, compare

Call = Callable[[], None]
CLOCK_STEP = 200e-6
"""Seconds that one sample should last at least, so that the timer and the call are small beside it."""
CLOCK_TICK = 1e-7
"""Seconds that no clock resolves better: the least that a call is taken to last."""
LONG_CALL = 5e-3
"""Seconds from which a call refills the caches by itself."""

FEWEST = 8
"""Rounds of long calls after which a clear answer is believed."""
BLURRED = 5
"""An interval wider than this many times the wanted precision is worth the plan's `patience`."""


@dataclass(frozen=True)
class Plan:
    """How long to measure. A comparison ends when its interval is narrower than `precision` (relative), or
    lies clearly on one side of 1, but not before `rounds` rounds (a clear answer that takes much longer than
    `duration`: not before FEWEST); and at the latest after `duration` seconds, `patience` times as long where
    other work on the machine has blurred the samples."""

    warmup: float = 0.05
    rounds: int = 24
    duration: float = 1.0
    precision: float = 0.01
    confidence: float = 0.99
    patience: float = 1.0
    seed: int = 0

    @property
    def key(self) -> str:
        return f"{self.patience}/{self.warmup}/{self.rounds}/{self.duration}/{self.precision}/{self.confidence}"


def interleave(calls: Sequence[Call], repeats: Sequence[int], rounds: int, seed: int) -> NDArray[np.float64]:
    """Seconds per call, (rounds, contestants): every round runs each contestant once, in random order.

    A turn of a short call starts with one that is not counted: caches and threads still belong to
    the previous contestant. Long calls (`repeats` below 1) are counted once and from the start.
    """
    rng = np.random.default_rng(seed)
    samples = np.empty((rounds, len(calls)))
    clock = time.perf_counter
    for row in samples:
        for i in rng.permutation(len(calls)):
            call, count = calls[i], max(repeats[i], 1)
            if repeats[i] > 0:
                call()
            start = clock()
            for _ in range(count):
                call()
            row[i] = (clock() - start) / count
    return samples


def warm(call: Call, seconds: float) -> float:
    """Run for `seconds` (at least 3 times); returns the fastest call, in seconds."""
    best, start = np.inf, time.perf_counter()
    count = 0
    while count < 3 or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
        count += 1
    return max(float(best), CLOCK_TICK)  # a coarse clock may show no time at all


def measure(before: Call, after: Call, again: Call, plan: Plan) -> Comparison:
    """A/B with its A/A control in the same rounds: `again` is a second instance of `before`."""
    calls = (before, after, again)
    times = [warm(call, plan.warmup) for call in calls]
    repeats = [max(1, round(CLOCK_STEP / t)) if t < LONG_CALL else 0 for t in times]
    started = time.perf_counter()
    taken: list[NDArray[np.float64]] = []
    rounds = plan.rounds if plan.rounds * sum(times) <= plan.duration else min(plan.rounds, FEWEST)
    while True:
        taken.append(interleave(calls, repeats, rounds, plan.seed + len(taken)))
        samples = np.concatenate(taken)
        early = plan.rounds - len(samples)
        rounds = early if early > 0 else max(1, plan.rounds // 2, len(samples) // 4)  # judging takes time too
        result = compare(*samples.T, seed=plan.seed, confidence=plan.confidence)
        width = (result.high - result.low) / result.speedup
        clear = result.low > 1 + 2 * plan.precision or result.high < 1 - plan.precision
        limit = plan.duration * (plan.patience if width > BLURRED * plan.precision else 1)
        if clear or (early <= 0 and (width < plan.precision or time.perf_counter() - started > limit)):
            return result
