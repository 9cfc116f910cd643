"""How long a benchmark measures: what the user asks for, as a plan."""

from __future__ import annotations

from dataclasses import replace

from onnxtune.errors import UsageError
from onnxtune.measure import TWINS, Plan

DEFAULT = Plan(warmup=0.2, rounds=10, duration=5.0, precision=0.01, patience=4, blocks=6, most=20)
"""At least 6 blocks: percentiles need samples even where the answer is clear at once."""
SWEEP_DURATION = 2.0
"""Seconds for each of several cases, where nothing is said."""
FIXED_BLOCKS = 10
"""Blocks over which a given number of iterations is spread."""
STEADY_WITHIN = 3.0
"""Seconds in which a model should become steady."""


def plan(
    *, warmup: float = 0.2, duration: float | None = None, iterations: int | None = None, cases: int = 1, seed: int = 0
) -> Plan:
    """`warmup` and `duration` in seconds; `iterations` of each model. Raises UsageError when both are given.

    With a duration measuring goes on until it is over; with iterations until these are done; with neither until the
    answer is clear or precise, at most for about twice the default duration on a noisy machine.
    """
    if duration is not None and iterations is not None:
        raise UsageError("--duration and --iterations: give one of them")
    if iterations is not None:
        rounds = max(1, -(-iterations // (TWINS * FIXED_BLOCKS)))
        return replace(
            DEFAULT, warmup=warmup, seed=seed, rounds=rounds, blocks=FIXED_BLOCKS, most=FIXED_BLOCKS, precision=0.0,
            duration=float("inf"), eager=False, fill=False,
        )  # fmt: skip
    if duration is not None:
        return replace(
            DEFAULT, warmup=warmup, seed=seed, rounds=5, blocks=4, duration=duration, patience=1, precision=0.0,
            eager=False,
        )  # fmt: skip
    return replace(DEFAULT, warmup=warmup, seed=seed, duration=DEFAULT.duration if cases == 1 else SWEEP_DURATION)
