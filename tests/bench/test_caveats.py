"""Warnings on made-up samples: each where it belongs, and none where nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from onnxtune.bench.caveats import (
    KINDS,
    FirstRunSlow,
    NoisyMachine,
    OddValues,
    Outliers,
    Oversubscribed,
    Throttling,
    TooFast,
    Unsteady,
    as_json,
    odd_share,
    of_model,
    outliers,
    oversubscribed,
    throttling,
)

GOOD = 1e-3 * (1 + 0.01 * np.sin(np.arange(200)))


def kinds(samples: np.ndarray, repeats: int = 1, first: float = 1.2e-3, odd: float = 0.0) -> set[str]:
    return {type(c).__name__ for c in of_model("m", samples, repeats, first, odd)}


def test_good_samples_have_no_caveat() -> None:
    assert kinds(GOOD) == set()


def test_each_kind_where_it_belongs() -> None:
    assert kinds(GOOD / 100, repeats=20, first=1.2e-5) == {"TooFast"}
    assert kinds(GOOD, first=5e-3) == {"FirstRunSlow"}
    assert kinds(GOOD, odd=0.5) == {"OddValues"}
    assert kinds(np.where(np.arange(200) % 20 == 0, 5, 1) * GOOD) == {"Outliers"}


def test_the_share_and_size_of_outliers() -> None:
    samples = np.ones(100)
    samples[:3] = [2.0, 3.0, 7.0]
    assert outliers(samples) == (0.03, 7.0)
    assert outliers(1 + 0.5 * np.random.default_rng(0).random(100))[0] == 0, "wide scatter is no outlier"


@pytest.mark.parametrize(("rise", "said"), [(0.0, False), (0.03, False), (0.2, True), (-0.2, False)])
def test_throttling_is_a_rise_over_all_models(rise: float, said: bool) -> None:
    rng = np.random.default_rng(0)
    times = 1e-3 * np.linspace(1, 1 + rise, 12)[:, None, None, None] * (1 + 0.01 * rng.random((12, 5, 2, 2)))
    found = throttling(times)
    assert (found is not None) == said
    if found is not None:
        assert found.slowdown == pytest.approx(0.15, abs=0.05)


def test_throttling_is_not_read_off_scatter_or_few_blocks() -> None:
    scattered = np.array([1.0, 1.4, 1.0, 1.1, 1.2, 1.0, 1.1, 1.5, 1.15])[:, None]
    assert throttling(scattered) is None
    assert throttling(np.array([1.0, 1.0, 2.0, 2.0, 2.0])[:, None]) is None


@pytest.mark.parametrize(
    ("threads", "load", "cores", "said"),
    [(2, 0.0, 2, False), (4, 0.0, 2, True), (2, 2.0, 2, True), (1, 9.0, 2, False), (2, None, 2, False)],
)
def test_oversubscription(threads: int, load: float | None, cores: int, said: bool) -> None:
    assert (oversubscribed(threads, load, cores) is not None) == said


def test_odd_values_are_counted() -> None:
    tiny = np.finfo(np.float32).tiny / 2
    outputs = {"y": np.array([np.nan, np.inf, tiny, 0, 1, 2, 3, 4], np.float32), "k": np.arange(9)}
    assert odd_share(outputs) == 3 / 8
    assert odd_share({"k": np.arange(9)}) == 0


def test_every_kind_says_numbers_and_a_remedy() -> None:
    made = (
        NoisyMachine(0.03, 0.4, 2.0), Throttling(0.1), TooFast("m", 1e-5, 20), Outliers("m", 0.1, 7.0),
        FirstRunSlow("m", 5e-3, 1e-3), Unsteady("m", 3.0), Oversubscribed(8, 1.0, 2), OddValues("m", 0.5),
    )  # fmt: skip
    assert {type(c) for c in made} == set(KINDS), "the type is closed: a new kind is tested here"
    for caveat in made:
        entry = as_json(caveat)
        assert entry["kind"] == type(caveat).__name__
        assert any(ch.isdigit() for ch in entry["text"])
        assert len(entry["remedy"]) > 10
