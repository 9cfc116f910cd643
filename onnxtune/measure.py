"""Taking latency samples: blocks of fresh sessions, interleaved rounds, until the answer is clear or time is up."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    import resource as _resource
except ImportError:  # Windows
    _resource = None  # type: ignore[assignment]

from onnxtune.comparison import RELABELLED, Comparison, compare

Call = Callable[[], object]
Make = Callable[[], Call]
"""Makes a fresh session and gives its call: one inference."""
CLOCK_STEP = 200e-6
"""Seconds that one sample should last at least, so that the timer and the call are small beside it."""
CLOCK_TICK = 1e-7
"""Seconds that no clock resolves better: the least that a call is taken to last."""
LONG_CALL = 5e-3
"""Seconds from which a call refills the caches by itself."""
TWINS = 2
"""Sessions of each model in a block: what two equal ones differ by is the noise."""
SETTLING = 2
"""Calls of a fresh session that do not count: they get its memory from the system."""
GROWTH = 1.5
"""From one look at the samples to the next."""
DEAR = 2.0
"""Sessions are made anew in every block where the first looks' sessions take at most this many times `duration`."""
MOST_ROUNDS = 1000
"""Rounds of a block that say all that its sessions can say."""
RETRIES = 3
"""How often a run is taken again that other processes have cut."""
HOPELESS = 3
"""Turns of a session in a row without an uncut run, after which nothing is taken again in this block."""
SLICE = 0.05
"""Seconds from which a call is not taken again: on a busy machine the system cuts every one that is so long."""
LEAST_UNCUT = 3
"""Uncut runs of a session that are enough to leave the others out."""
BLURRED = 5
"""An interval wider than this many times the wanted precision is worth the plan's `patience`."""


@dataclass(frozen=True)
class Plan:
    """How long to measure. A comparison ends when its interval is narrower than `precision`
    (relative), or lies clearly on one side of 1, but not before `blocks` blocks of at least `rounds` rounds; and
    at the latest after `most` blocks or about `duration` seconds, `patience` times as long where other work on the
    machine has blurred the samples. `eager`: an answer that is clear ends it; else only precision does. `fill`: blocks
    get more rounds than `rounds` where the duration has room for them. `fewest`: calls so long that these blocks alone
    would take longer than the duration get fewer rounds, but not fewer than this."""

    warmup: float = 0.05
    rounds: int = 5
    duration: float = 1.0
    precision: float = 0.01
    confidence: float = 0.99
    patience: float = 1.0
    seed: int = 0
    blocks: int = RELABELLED
    most: int = 24
    eager: bool = True
    fill: bool = True
    fewest: int | None = None

    @property
    def key(self) -> str:
        return "/".join(
            str(v)
            for v in (
                self.patience, self.warmup, self.rounds, self.duration, self.precision, self.confidence,
                self.blocks, self.most, self.eager, self.fill, self.fewest,
            )
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Warmup:
    """The first calls of a model's first session, in seconds, and whether they became steady."""

    times: NDArray[np.float64]
    steady: bool

    @property
    def fastest(self) -> float:
        return max(float(self.times.min()), CLOCK_TICK)  # a coarse clock may show no time at all


@dataclass(frozen=True, eq=False)
class Samples:
    """`times`: seconds per inference (blocks, rounds, models, 2 sessions), NaN for runs that other processes cut and
    that do not count; `cut`: their share of all runs of each model. `created`: seconds that each session took to make
    (blocks, models, 2). `repeats`: inferences that one sample is the mean of, per model. `error`: the chance of error
    that the last look was given."""

    times: NDArray[np.float64]
    created: NDArray[np.float64]
    warmups: tuple[Warmup, ...]
    repeats: tuple[int, ...]
    error: float
    cut: tuple[float, ...]

    def of(self, model: int) -> NDArray[np.float64]:
        """(blocks, rounds, 2)."""
        return self.times[:, :, model]


Judge = Callable[[NDArray[np.float64], float], tuple[bool, float]]
"""(samples so far (blocks, rounds, models, 2), chance of error of this look) -> (is it enough?, relative width)."""


@dataclass(frozen=True, eq=False)
class Turns:
    """Of interleaved rounds, both (rounds, contestants): seconds per call, and how often the system took the
    processor away from this process meanwhile. `tries`: runs that it took, those that were taken again included."""

    times: NDArray[np.float64]
    cuts: NDArray[np.int64]
    tries: NDArray[np.int64]


def interleave(calls: Sequence[Call], repeats: Sequence[int], rounds: int, seed: int) -> Turns:
    """Every round runs each contestant once, in random order.

    A turn of a short call starts with one that is not counted: caches and threads still belong to
    the previous contestant. Long calls (`repeats` below 1) are counted once and from the start.
    A run that was cut by other processes is taken again, up to `RETRIES` times; the least cut one counts. Runs
    longer than a `SLICE` are not.
    """
    rng = np.random.default_rng(seed)
    times, cuts = np.empty((rounds, len(calls))), np.zeros((rounds, len(calls)), np.int64)
    tries = np.zeros(len(calls), np.int64)
    failed = [0] * len(calls)
    clock = time.perf_counter
    with _no_garbage_collection():
        for row in range(rounds):
            for i in rng.permutation(len(calls)):
                call, count = calls[i], max(repeats[i], 1)
                if repeats[i] > 0:
                    call()
                best = math.inf
                for _ in range(1 + (RETRIES if failed[i] < HOPELESS else 0)):
                    before = preemptions()
                    start = clock()
                    for _ in range(count):
                        call()
                    seconds = clock() - start
                    cut = preemptions() - before
                    tries[i] += 1
                    if cut < best:
                        best, times[row, i], cuts[row, i] = cut, max(seconds / count, CLOCK_TICK), cut
                    if not cut or seconds > SLICE:
                        break
                failed[i] = failed[i] + 1 if best else 0
    return Turns(times, cuts, tries)


def preemptions() -> int:
    """How often the system has taken the processor away from this process so far (getrusage(2), ru_nivcsw); 0 where
    it does not tell."""
    return 0 if _resource is None else int(_resource.getrusage(_resource.RUSAGE_SELF).ru_nivcsw)


def uncut(turns: Turns) -> NDArray[np.float64]:
    """The times, NaN where a run was cut by others and its session has enough that were not.

    A session with too few keeps all: runs longer than the system's time slice are always cut on a busy machine.
    """
    clean = turns.cuts == 0
    enough = clean.sum(0) >= max(LEAST_UNCUT, len(clean) // 4)
    return np.where(clean | ~enough, turns.times, np.nan)


def warm(call: Call, seconds: float) -> float:
    """Run for `seconds` (at least 3 times); returns the fastest call, in seconds."""
    return warm_up(call, seconds, seconds).fastest


def warm_up(call: Call, seconds: float, limit: float) -> Warmup:
    """Run for `seconds` (at least 3 times), and on until the times are steady or `limit` seconds have passed."""
    times: list[float] = []
    start = time.perf_counter()
    checked = 0
    while True:
        began = time.perf_counter()
        call()
        now = time.perf_counter()
        times.append(now - began)
        if len(times) < 3 or now - start < seconds:
            continue
        over = now - start >= limit
        if over or len(times) >= GROWTH * checked:
            checked = len(times)
            taken = np.array(times)
            if over or steady(taken):
                return Warmup(taken, steady(taken))


def steady(times: NDArray[np.float64], tolerance: float = 0.05) -> bool:
    """Have the calls stopped getting faster or slower? The last third within `tolerance` of the third before it.

    By lower quartiles: what other processes add to a call says nothing of whether the model has warmed up.
    """
    third = len(times) // 3
    if third < 1:
        return False
    last, before = (float(np.quantile(part, 0.25)) for part in (times[-third:], times[-2 * third : -third]))
    return abs(last - before) <= tolerance * before


def collect(makes: Sequence[Make], plan: Plan, judge: Judge, *, steady_within: float = 0.0) -> Samples:
    """Blocks of fresh sessions (two per model) until `judge` has enough or the plan's time is up.

    Every block spends its share of 1 - confidence; a look may err with what the blocks since the last one have
    put aside, the last look with all that is left (alpha spending: Lan & DeMets, Biometrika 70, 1983).
    `steady_within`: seconds that each model's first session may take to become steady.
    """
    rng = np.random.default_rng(plan.seed)
    created = []
    seconds, calls = _fresh(makes, rng)
    warmups = tuple(warm_up(calls[TWINS * i], plan.warmup, max(plan.warmup, steady_within)) for i in range(len(makes)))
    fastest = [w.fastest for w in warmups]
    repeats = [max(1, round(CLOCK_STEP / t)) if t < LONG_CALL else 0 for t in fastest for _ in range(TWINS)]
    cost = float(seconds.sum())
    sets = plan.most if plan.blocks * cost <= DEAR * plan.duration else max(1, int(DEAR * plan.duration / cost))
    least, most = (plan.blocks, plan.most) if sets >= plan.blocks else (sets, sets)
    rounds = max(plan.rounds, -(-plan.blocks * plan.rounds // most))
    usual = np.repeat([float(np.median(w.times)) for w in warmups], TWINS)  # on a busy machine not the fastest
    turn = sum(max(t, CLOCK_TICK) * (r + 1 if r else 1) for t, r in zip(usual, repeats, strict=True))
    if plan.fewest is not None and turn > SLICE:
        rounds = min(rounds, max(plan.fewest, int(plan.duration / (least * turn))))
    if plan.fill:
        room = max(plan.duration / most, cost / 2 if sets >= plan.blocks else 0.0)
        rounds = max(rounds, min(int(room / turn), MOST_ROUNDS))
    taken: list[NDArray[np.float64]] = []
    tries = np.zeros(len(makes), np.int64)
    started, limit, look, spent = time.perf_counter(), plan.duration, least, 0.0
    error, earned = 1 - plan.confidence, (1 - plan.confidence) / most
    while True:
        if taken:
            seconds, calls = _fresh(makes, rng)
        for i in rng.permutation(len(calls)):
            for _ in range(SETTLING if repeats[i] else 1):
                calls[i]()
        turns = interleave(calls, repeats, rounds, int(rng.integers(2**63)))
        taken.append(uncut(turns).reshape(rounds, len(makes), TWINS))
        tries += turns.tries.reshape(len(makes), TWINS).sum(1)
        created.append(seconds)
        calls = []
        gc.collect(1)  # sessions stand in cycles
        count, elapsed = len(taken), time.perf_counter() - started
        if count < least or (count < min(look, most) and elapsed < limit):
            continue
        samples, share = np.stack(taken), count * earned - spent
        done, width = judge(samples, share)
        if width > BLURRED * plan.precision:
            limit = max(limit, plan.duration * plan.patience)
        if not done and (count >= most or elapsed >= limit):
            share = error - spent  # the last look: with all that is left, this one's included
            done, _ = True, judge(samples, share)
        if done:
            cut = 1 - np.isfinite(samples).sum((0, 1, 3)) / tries
            counts = tuple(max(r, 1) for r in repeats[::TWINS])
            return Samples(samples, np.stack(created), warmups, counts, share, tuple(cut.tolist()))
        spent += share
        look = math.ceil(GROWTH * count)


def measure(before: Make, after: Make, plan: Plan) -> Comparison:
    """`after` against `before`: blocks of two fresh sessions of each, in the same rounds."""
    results: list[Comparison] = []

    def judge(times: NDArray[np.float64], error: float) -> tuple[bool, float]:
        result = compare(times[:, :, 0], times[:, :, 1], seed=plan.seed, confidence=plan.confidence, error=error)
        results.append(result)
        return enough(result, plan), result.width

    collect((before, after), plan, judge)
    return results[-1]


def enough(result: Comparison, plan: Plan) -> bool:
    """Is the answer precise, or (where the plan is eager) clear?"""
    clear = result.low > 1 + 2 * plan.precision or result.high < 1 - plan.precision
    return result.width < plan.precision or (plan.eager and clear)


def _fresh(makes: Sequence[Make], rng: np.random.Generator) -> tuple[NDArray[np.float64], list[Call]]:
    """Seconds (models, 2) and calls (two per model, side by side) of new sessions, made in random order."""
    seconds = np.empty(len(makes) * TWINS)
    calls: list[Call | None] = [None] * len(seconds)
    for i in rng.permutation(len(seconds)):
        start = time.perf_counter()
        calls[i] = makes[i // TWINS]()
        seconds[i] = time.perf_counter() - start
    return seconds.reshape(len(makes), TWINS), [c for c in calls if c is not None]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As timeit does: a collection in the middle would be somebody's time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
