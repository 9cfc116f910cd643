"""Taking samples, with a clock of our own: order, counting, and when to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxtune import measure as module
from onnxtune.measure import (
    CLOCK_STEP,
    LONG_CALL,
    SETTLING,
    Plan,
    Turns,
    collect,
    interleave,
    measure,
    steady,
    uncut,
    warm,
    warm_up,
)


class Clock:
    """Time passes only when somebody calls; every call is noted. `cuts`: how often others took the processor."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cuts = 0
        self.log: list[str] = []

    def call(self, name: str, seconds: float | Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now += seconds if isinstance(seconds, float) else seconds()

        return run

    def make(
        self, name: str, seconds: float | Callable[[], float], cost: float = 0.0
    ) -> Callable[[], Callable[[], None]]:
        """Sessions of a model: made in `cost` seconds, and noted."""

        def fresh() -> Callable[[], None]:
            self.log.append(f"make {name}")
            self.now += cost
            return self.call(name, seconds)

        return fresh


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(module, "preemptions", lambda: clock.cuts)
    return clock


# --- rounds ----------------------------------------------------------------------------------------------


def test_each_round_has_each_contestant_once(clock: Clock) -> None:
    calls = [clock.call(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    turns = interleave(calls, [0, 0, 0], 10, seed=0)
    assert turns.times == pytest.approx(np.tile([1.0, 2.0, 4.0], (10, 1)))
    assert turns.tries.tolist() == [10, 10, 10]
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
    turns = interleave([clock.call("a", lambda: next(first))], [3], 5, seed=0)
    assert turns.times[:, 0] == pytest.approx(np.ones(5))
    assert len(clock.log) == 20


def test_a_run_that_others_cut_is_taken_again(clock: Clock) -> None:
    """Two cuts, one cut, none: the third run counts."""
    script = iter([(9e-3, 2), (5e-3, 1), (1e-3, 0)] + [(1e-3, 0)] * 3)

    def run() -> float:
        seconds, cuts = next(script)
        clock.cuts += cuts
        return seconds

    turns = interleave([clock.call("a", run)], [0], 4, seed=0)
    assert turns.times[:, 0] == pytest.approx([1e-3] * 4)
    assert turns.cuts[:, 0].tolist() == [0] * 4
    assert turns.tries.tolist() == [6]


def test_where_every_run_is_cut_it_is_not_tried_for_ever(clock: Clock) -> None:
    def run() -> float:
        clock.cuts += 1
        return 1e-3

    turns = interleave([clock.call("a", run)], [0], 10, seed=0)
    assert turns.tries.tolist() == [3 * 4 + 7], "three turns of four tries, then one each"
    assert (turns.cuts == 1).all()


def test_a_run_too_long_to_stay_uncut_is_not_taken_again(clock: Clock) -> None:
    def run() -> float:
        clock.cuts += 1
        return 1.0

    turns = interleave([clock.call("a", run)], [0], 10, seed=0)
    assert turns.tries.tolist() == [10]
    assert (turns.times == 1.0).all()


def test_cut_runs_are_left_out_only_where_enough_others_are_there() -> None:
    times = np.arange(12.0).reshape(6, 2) + 1
    cuts = np.array([[0, 0], [0, 1], [0, 1], [1, 1], [0, 1], [0, 0]])
    kept = uncut(Turns(times, cuts, np.array([6, 6])))
    assert np.isnan(kept[:, 0]).tolist() == [False, False, False, True, False, False]
    assert (kept[:, 1] == times[:, 1]).all(), "two uncut runs are too few to say anything"


# --- warming up ------------------------------------------------------------------------------------------


def test_warming_up_takes_its_time_and_gives_the_fastest_call(clock: Clock) -> None:
    times = iter([9.0, 2.0, 3.0, 2.5, 99.0])
    assert warm(clock.call("a", lambda: next(times)), 16.0) == 2.0
    assert len(clock.log) == 4
    clock.log.clear()
    assert warm(clock.call("a", 5.0), 0.0) == pytest.approx(5.0)
    assert len(clock.log) == 3, "at least three"


def test_warming_up_goes_on_until_the_times_are_steady(clock: Clock) -> None:
    falling = iter([1.0 * 0.9**i if i < 20 else 0.12 for i in range(200)])
    result = warm_up(clock.call("a", lambda: next(falling)), 1.0, 100.0)
    assert result.steady
    assert 20 < len(result.times) < 100


def test_what_never_becomes_steady_is_said(clock: Clock) -> None:
    rising = iter(1.1**i for i in range(1000))
    result = warm_up(clock.call("a", lambda: next(rising)), 1.0, 1000.0)
    assert not result.steady
    assert result.times.sum() >= 1000.0


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1.0] * 9, True),
        ([1.0, 1.0], False),
        ([3, 3, 3, 2, 2, 2, 1, 1, 1], False),
        ([9, 9, 9, 1, 1, 1, 1.01, 1.02, 1], True),
        ([1, 1, 1, 1, 1, 5, 1, 5, 1], True),
    ],
    ids=["same", "too few", "falling", "settled", "cut now and then"],
)
def test_steady(times: list[float], expected: bool) -> None:
    assert steady(np.array(times)) == expected


# --- blocks and looks ------------------------------------------------------------------------------------

PLAN = Plan(warmup=0.0, rounds=5, duration=1.0, precision=0.01, patience=3)


def made(log: list[str]) -> int:
    return sum(word.startswith("make") for word in log)


@pytest.mark.parametrize(
    ("seconds", "fewest", "rounds"),
    [(1.0, None, 8), (1.0, 2, 2), (0.08, 2, 4), (1e-4, 2, 8)],
    ids=["as planned", "the fewest", "what the duration has room for", "short calls"],
)
def test_long_calls_get_fewer_rounds_where_the_plan_allows_it(
    clock: Clock, seconds: float, fewest: int | None, rounds: int
) -> None:
    plan = Plan(warmup=0.0, rounds=8, duration=4.0, precision=0.01, fewest=fewest)
    result = measure(clock.make("a", seconds), clock.make("b", seconds / 2), plan)
    each = len(result.before) / plan.blocks / 2
    assert each >= rounds if seconds < 0.01 else each == rounds
    assert result.verdict == "faster"


def test_a_clear_answer_stops_after_the_first_blocks(clock: Clock) -> None:
    result = measure(clock.make("a", 2e-3), clock.make("b", 1e-3), PLAN)
    assert result.speedup == pytest.approx(2.0)
    assert result.verdict == "faster"
    assert result.blocks == PLAN.blocks
    assert len(result.before) == len(result.after) >= PLAN.blocks * PLAN.rounds * 2
    assert result.noise == pytest.approx(0, abs=1e-9)


def test_every_block_has_fresh_sessions_in_another_order(clock: Clock) -> None:
    measure(clock.make("a", 2e-3), clock.make("b", 1e-3), PLAN)
    words = [w for w in clock.log if w.startswith("make")]
    blocks = [tuple(words[i : i + 4]) for i in range(0, len(words), 4)]
    assert all(sorted(b) == ["make a", "make a", "make b", "make b"] for b in blocks)
    assert len(blocks) == PLAN.blocks
    assert len(set(blocks)) > 1


def test_a_fresh_session_runs_before_it_counts(clock: Clock) -> None:
    """The first two calls of a session take a hundred times as long: they are in no figure."""

    def make() -> Callable[[], None]:
        left = [SETTLING]

        def seconds() -> float:
            left[0] -= 1
            return 0.1 if left[0] >= 0 else 1e-3

        return clock.call("a", seconds)

    assert measure(make, make, PLAN).before.max() == pytest.approx(1e-3)


def noisy(seed: int, center: float = 1e-2, spread: float = 0.3) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: float(center * np.exp(rng.normal(0, spread)))


@pytest.mark.parametrize(("spread", "factor"), [(0.015, 1), (0.3, PLAN.patience)], ids=["unclear", "blurred"])
def test_an_unclear_answer_goes_on_until_time_is_up(clock: Clock, spread: float, factor: float) -> None:
    """Blurred samples (other work on the machine) are worth more time."""
    result = measure(*(clock.make(n, noisy(i, spread=spread)) for i, n in enumerate("ab")), PLAN)
    assert clock.now > factor * PLAN.duration or result.blocks == PLAN.most
    assert clock.now < 1.6 * factor * PLAN.duration, "and then ends with the block it is in"
    assert result.verdict == "no measurable change"


def test_equal_contestants_are_seldom_told_apart(clock: Clock) -> None:
    """Asking again and again until the answer is clear must not find differences that are not there."""
    verdicts = []
    for seed in range(40):
        makes = [clock.make(n, noisy(100 * seed + i, spread=0.05)) for i, n in enumerate("ab")]
        verdicts.append(measure(*makes, Plan(warmup=0.0, rounds=5, duration=3.0, seed=seed)).verdict)
    assert verdicts.count("no measurable change") >= 37  # more than 3 of 40 at 1 % each: a chance of 0.07 %


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_change_of_five_percent_is_found(clock: Clock, noise: float) -> None:
    verdicts = []
    for seed in range(20):
        makes = [
            clock.make(n, noisy(100 * seed + i, c, noise)) for i, (n, c) in enumerate((("a", 1e-2), ("b", 1.05e-2)))
        ]
        verdicts.append(measure(*makes, Plan(warmup=0.0, rounds=5, duration=3.0, seed=seed)).verdict)
    assert verdicts.count("slower") >= 18


def test_looks_share_one_chance_of_error(clock: Clock) -> None:
    """What all looks together may err with is 1 - confidence, and the last one has what is left."""
    shares: list[tuple[int, float]] = []

    def judge(times: NDArray[np.float64], error: float) -> tuple[bool, float]:
        shares.append((len(times), error))
        return False, 0.0

    plan = Plan(warmup=0.0, rounds=2, duration=1e9, most=20, fill=False)
    taken = collect([clock.make("a", 1e-2)], plan, judge)
    counts = [count for count, _ in shares]
    assert counts == [4, 6, 9, 14, 20, 20], "the last look is asked again with all that is left"
    assert sum(error for _, error in shares[:-2]) + shares[-1][1] == pytest.approx(0.01)
    assert shares[0][1] == pytest.approx(0.01 * 4 / 20)
    assert taken.error == shares[-1][1]
    assert taken.times.shape == (20, 2, 1, 2)
    assert taken.created.shape == (20, 1, 2)


def test_an_early_look_can_be_clear() -> None:
    """Of four blocks only one naming in 1296 is the true one: what a first look may err with must leave room for it."""
    for plan in (PLAN, Plan()):
        assert 0.01 * plan.blocks / plan.most / 2 * 6**4 >= 1


def test_the_first_blocks_are_taken_however_long_they_last(clock: Clock) -> None:
    result = measure(*(clock.make(n, noisy(i, 10.0)) for i, n in enumerate("ab")), PLAN)
    assert result.blocks == PLAN.blocks
    assert len(result.before) == PLAN.blocks * PLAN.rounds * 2


@pytest.mark.parametrize(("cost", "sets"), [(0.05, 4), (0.3, 1), (10.0, 1), (0.2, 2)])
def test_sessions_that_are_dear_are_made_less_often(clock: Clock, cost: float, sets: int) -> None:
    """The time of four sets of four sessions may be twice the plan's; else there are fewer sets, with longer blocks."""
    result = measure(clock.make("a", 1e-2, cost), clock.make("b", 1e-2, cost), PLAN)
    assert made(clock.log) >= 4 * sets
    assert result.blocks >= sets if sets == PLAN.blocks else result.blocks == sets
    assert len(result.before) >= PLAN.blocks * PLAN.rounds * 2
    assert result.verdict == "no measurable change"


def test_one_set_of_dear_sessions_still_tells_a_great_change(clock: Clock) -> None:
    result = measure(clock.make("a", noisy(0, 2e-2, 0.001), 10.0), clock.make("b", noisy(1, 1e-2, 0.001), 10.0), PLAN)
    assert result.verdict == "faster"


def test_short_calls_are_repeated_and_long_ones_are_not(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = module.interleave

    def spy(calls: object, repeats: list[int], *rest: int) -> object:
        asked.append(list(repeats))
        return real(calls, repeats, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "interleave", spy)
    makes = [clock.make("a", CLOCK_STEP / 10), clock.make("b", LONG_CALL / 2), clock.make("c", LONG_CALL * 2)]
    taken = collect(makes, PLAN, lambda times, error: (True, 0.0))
    assert asked[0] == [10, 10, 1, 1, 0, 0]
    assert taken.repeats == (10, 1, 1)


def test_a_clock_that_stands_still_for_short_calls(clock: Clock) -> None:
    """A coarse clock shows no time at all for one fast call: that divides nothing by zero."""
    ticks = Counter[str]()

    def coarse(name: str) -> Callable[[], float]:
        def seconds() -> float:
            ticks[name] += 1
            return 1e-3 if ticks[name] % 50 == 0 else 0.0

        return seconds

    result = measure(*(clock.make(n, coarse(n)) for n in "ab"), Plan(warmup=0.0, rounds=4, duration=0.01))
    assert np.isfinite(result.speedup)


def test_what_decides_an_answer_is_in_the_key() -> None:
    assert PLAN.key != Plan().key
    assert Plan(eager=False).key != Plan().key
    assert Plan(seed=1).key == Plan(seed=2).key, "the seed orders the rounds, it does not change what is measured"


def test_the_system_tells_of_preemptions() -> None:
    assert module.preemptions() >= 0
