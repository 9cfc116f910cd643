"""Spending an accuracy budget: what is chosen keeps it on images that nothing was fitted to, and says what it cost.

No clock: the time that a level saves is made up from its multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallnet import classifier, images, write_data

from onnxtune.calibrate.dataset import Dataset, open_dataset
from onnxtune.calibrate.judge import Judge
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.points import Calibration, Point, Timed
from onnxtune.calibrate.search import Search, summary
from onnxtune.calibrate.shortlist import evenly
from onnxtune.calibrate.spending import confidence_of
from onnxtune.calibrate.store import FitStore
from onnxtune.catalog import catalog
from onnxtune.comparison import Comparison
from onnxtune.errors import DataError
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.propose import propose_levels
from onnxtune.runtime import Session, Target
from onnxtune.sizes import bind

LATENCY = 1e-3


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(classifier(width=16))


@pytest.fixture
def data(tmp_path: Path, model: Model) -> Iterator[Dataset]:
    with open_dataset(str(write_data(tmp_path, 400)), model) as opened:
        yield opened


def timed_levels(
    model: Model, names: tuple[str, ...] = ("stack_3x3", "separable_conv", "cp_conv"), **settings: Any
) -> tuple[Facts, list[Timed]]:
    """Levels that leave about a quarter, with made-up times."""
    facts = Facts(model, bind(model).sizes)
    rules = [r for r in catalog() if r.name in names]
    found = []
    for level in propose_levels(facts, rules, {r.name: {"ratios": [0.25, 0.5], **settings} for r in rules}):
        if isinstance(level, Level):
            saved = LATENCY * (level.full_macs - level.macs) / level.full_macs / 2
            before = np.full(8, LATENCY)
            speedup = LATENCY / (LATENCY - saved)
            found.append(Timed(level, Comparison(before, before - saved, speedup, 1.9, 2.1, 0.0, 0.99)))
    return facts, found


def search_of(model: Model, facts: Facts, data: Dataset, max_drop: str, store: FitStore | None = None) -> Search:
    judge = Judge(model, data, Target(threads=1))
    calibration = Calibration(data, max_drop, None, 0.9, store or FitStore(None))
    return Search(facts, judge, calibration, Target(threads=1), 0, LATENCY, lambda stage, done, total: None)


def first(search: Search, timed: list[Timed]) -> Point | None:
    return next(search.passing(timed), None)


def accuracy(model: Model) -> float:
    x, labels = images(4000, seed=5)
    return float((Session(model, Target()).run({"image": x})["logits"].argmax(1) == labels).mean())


@pytest.mark.slow
def test_the_drop_stays_within_the_budget_on_new_images(model: Model, data: Dataset) -> None:
    facts, timed = timed_levels(model)
    search = search_of(model, facts, data, "3%")
    point = first(search, timed)
    assert point is not None
    assert point.latency < 0.8 * LATENCY
    assert point.gate is not None
    assert point.gate.bound <= 0.03
    looks = {p.gate.confidence for p in search.points if p.gate is not None}
    assert looks == {confidence_of(climb, 0.9) for climb in range(len(looks))}
    bolder = [p for p in search.points if p.gate is not None and p.gain > point.gain and search.open(p)]
    assert not bolder
    assert point.gate.samples == len(search.splits.fit) + len(search.splits.gate)
    assert accuracy(model) - accuracy(point.model()) <= 0.03
    told = summary(search, point)
    assert [p["chosen"] for p in told["points"]].count(True) == 1
    assert told["gate"]["estimate"] == point.gate.estimate
    assert {search.why_not(t) for t in timed} - {""}


@pytest.mark.slow
def test_fits_are_the_same_again_and_resumed(
    model: Model, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, timed = timed_levels(model)
    one = first(search_of(model, facts, data, "3%", FitStore(tmp_path / "fits")), timed)
    two = first(search_of(model, facts, data, "3%"), timed)
    assert one is not None
    assert two is not None
    assert one.model().proto == two.model().proto

    def never(*_: object) -> None:
        raise AssertionError("it was fitted again")

    frozen = [replace(t, level=replace(t.level, fit=never)) for t in timed]  # type: ignore[arg-type]
    again = first(search_of(model, facts, data, "3%", FitStore(tmp_path / "fits", resume=True)), frozen)
    assert again is not None
    assert again.model().proto == one.model().proto


@pytest.mark.slow
def test_neighbouring_classes_of_channels_are_pruned_in_one_set(data: Dataset) -> None:
    """Their regions overlap in a layer; in a set they are one rewrite."""
    model = Model(classifier(width=24))
    facts, timed = timed_levels(model, ("prune_channels",), ratios=[0.7], multiple=2, min_share=0.0)
    assert len({t.level.layer.key for t in timed}) == 2
    search = search_of(model, facts, data, "15%")
    point = first(search, timed)
    assert point is not None
    largest = max(search.points, key=lambda p: len(p.options))
    assert [len(g) for g in largest.groups] == [2]
    assert len(largest.fitted) == 1
    shapes = {tuple(w.dims) for w in largest.model().proto.graph.initializer if len(w.dims) == 4}
    kept = [o.timed.level.settings["channels"] for o in largest.options]
    assert shapes == {(kept[0], 3, 5, 5), (kept[1], kept[0], 5, 5)}
    assert accuracy(model) - accuracy(point.model()) <= 0.15


def test_no_budget_no_harm(model: Model, data: Dataset) -> None:
    facts, timed = timed_levels(model)
    search = search_of(model, facts, data, "0%")
    assert first(search, timed[:3]) is None
    assert summary(search, None)["gate"] is None


def test_levels_that_save_next_to_nothing_are_not_fitted(model: Model, data: Dataset) -> None:
    facts, timed = timed_levels(model)
    slow = [replace(t, comparison=replace(t.comparison, after=t.comparison.before, speedup=1.0)) for t in timed]
    search = search_of(model, facts, data, "3%")
    assert first(search, slow) is None
    assert not search.points
    assert "too little" in search.why_not(slow[0])


def test_too_few_samples(model: Model, tmp_path: Path) -> None:
    facts, _ = timed_levels(model)
    with (
        open_dataset(str(write_data(tmp_path, 8)), model) as few,
        pytest.raises(DataError, match="8 samples are too few; at least 64"),
    ):
        search_of(model, facts, few, "1%")


def test_of_a_few_levels_none_is_passed_over_and_of_many_the_ends_stay() -> None:
    few: list[Any] = list(range(8))
    many: list[Any] = list(range(20))
    kept: list[Any] = evenly(many)
    assert evenly(few) == few
    assert len(kept) == 6
    assert (kept[0], kept[-1]) == (0, 19)
