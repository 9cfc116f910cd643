"""Taking samples, with a clock of our own: order, counting, and when to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from onnxtune import measure as module
from onnxtune.measure import CLOCK_STEP, FEWEST, LONG_CALL, Plan, interleave, measure, warm


class Clock:
    """Time passes only when somebody calls; every call is noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def call(self, name: str, seconds: float | Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now += seconds if isinstance(seconds, float) else seconds()

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def test_each_round_has_each_contestant_once(clock: Clock) -> None:
    calls = [clock.call(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    samples = interleave(calls, [0, 0, 0], 10, seed=0)
    assert samples.shape == (10, 3)
    assert samples == pytest.approx(np.tile([1.0, 2.0, 4.0], (10, 1)))
    rounds = [clock.log[i : i + 3] for i in range(0, 30, 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 2, "the order is random"


def test_the_order_comes_from_the_seed(clock: Clock) -> None:
    logs = []
    for seed in (0, 0, 1):
        clock.log.clear()
        interleave([clock.call(n, 1.0) for n in "ab"], [0, 0], 20, seed)
        logs.append("".join(clock.log))
    assert logs[0] == logs[1] != logs[2]


def test_a_short_call_is_repeated_after_one_that_does_not_count(clock: Clock) -> None:
    first = iter([100.0, 1.0, 1.0, 1.0] * 5)
    samples = interleave([clock.call("a", lambda: next(first))], [3], 5, seed=0)
    assert samples[:, 0] == pytest.approx(np.ones(5))
    assert len(clock.log) == 20


def test_warming_up_takes_its_time_and_gives_the_fastest_call(clock: Clock) -> None:
    times = iter([9.0, 2.0, 3.0, 2.5, 99.0])
    assert warm(clock.call("a", lambda: next(times)), 16.0) == 2.0
    assert len(clock.log) == 4
    clock.log.clear()
    assert warm(clock.call("a", 5.0), 0.0) == pytest.approx(5.0)
    assert len(clock.log) == 3, "at least three"


PLAN = Plan(warmup=0.0, rounds=10, duration=1.0, precision=0.01, patience=3)


def test_a_clear_answer_stops_after_the_first_rounds(clock: Clock) -> None:
    result = measure(clock.call("a", 2e-3), clock.call("b", 1e-3), clock.call("c", 2e-3), PLAN)
    assert result.speedup == pytest.approx(2.0)
    assert result.verdict == "faster"
    assert len(result.before) == len(result.after) == len(result.again) == PLAN.rounds
    assert result.noise == pytest.approx(0, abs=1e-9)


def test_a_clear_answer_of_long_calls_needs_fewer_rounds(clock: Clock) -> None:
    result = measure(clock.call("a", 2.0), clock.call("b", 1.0), clock.call("c", 2.0), PLAN)
    assert result.verdict == "faster"
    assert len(result.before) == FEWEST < PLAN.rounds


def noisy(seed: int, center: float = 1e-2, spread: float = 0.3) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: float(center * np.exp(rng.normal(0, spread)))


@pytest.mark.parametrize(("spread", "factor"), [(0.03, 1), (0.3, PLAN.patience)], ids=["unclear", "blurred"])
def test_an_unclear_answer_goes_on_until_time_is_up(clock: Clock, spread: float, factor: float) -> None:
    """Blurred samples (other work on the machine) are worth more time."""
    calls = [clock.call(n, noisy(i, spread=spread)) for i, n in enumerate("abc")]
    result = measure(*calls, PLAN)
    assert clock.now > factor * PLAN.duration
    assert clock.now < 1.4 * factor * PLAN.duration, "and then ends with the block it is in"
    assert len(result.before) > PLAN.rounds
    assert result.verdict == "no measurable change"


def test_equal_contestants_are_seldom_told_apart(clock: Clock) -> None:
    """Asking again and again until the answer is clear must not find differences that are not there."""
    verdicts = []
    for seed in range(40):
        calls = [clock.call(n, noisy(100 * seed + i, spread=0.05)) for i, n in enumerate("abc")]
        verdicts.append(measure(*calls, PLAN).verdict)
    assert verdicts.count("no measurable change") >= 38


def test_the_first_rounds_are_taken_however_long_they_last(clock: Clock) -> None:
    result = measure(*(clock.call(n, noisy(i, 10.0)) for i, n in enumerate("abc")), PLAN)
    assert len(result.before) == PLAN.rounds


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_plans_of_few_rounds_end(clock: Clock, rounds: int) -> None:
    plan = Plan(warmup=0.0, rounds=rounds, duration=0.5)
    result = measure(*(clock.call(n, noisy(i)) for i, n in enumerate("abc")), plan)
    assert len(result.before) >= rounds


def test_short_calls_are_repeated_and_long_ones_are_not(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = module.interleave

    def spy(calls: object, repeats: list[int], *rest: int) -> object:
        asked.append(list(repeats))
        return real(calls, repeats, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "interleave", spy)
    measure(clock.call("a", CLOCK_STEP / 10), clock.call("b", LONG_CALL / 2), clock.call("c", LONG_CALL * 2), PLAN)
    assert asked[0] == [10, 1, 0]


def test_a_clock_that_stands_still_for_short_calls(clock: Clock) -> None:
    """A coarse clock shows no time at all for one fast call: that divides nothing by zero."""
    ticks = Counter[str]()

    def coarse(name: str) -> Callable[[], float]:
        def seconds() -> float:
            ticks[name] += 1
            return 1e-3 if ticks[name] % 50 == 0 else 0.0

        return seconds

    result = measure(*(clock.call(n, coarse(n)) for n in "abc"), Plan(warmup=0.0, rounds=4, duration=0.01))
    assert np.isfinite(result.speedup)


def test_what_decides_an_answer_is_in_the_key() -> None:
    assert PLAN.key != Plan().key
    assert Plan(seed=1).key == Plan(seed=2).key, "the seed orders the rounds, it does not change what is measured"
