"""Fits go on from earlier ones to the same samples, and the original is asked for its answers once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from smallnet import classifier, write_data

import onnxtune.calibrate.fitter as fitters
from onnxtune.calibrate.answers import Answers
from onnxtune.calibrate.dataset import Dataset, open_dataset
from onnxtune.calibrate.evidence import Evidence, gather
from onnxtune.calibrate.fitter import Fitter
from onnxtune.calibrate.level import Fitted, Level
from onnxtune.calibrate.store import FitStore
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Fragment
from onnxtune.propose import propose_levels
from onnxtune.runtime import Target
from onnxtune.sizes import bind

FIT, FOLD = np.arange(60), np.arange(30, 90)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(classifier(width=8))


@pytest.fixture
def data(tmp_path: Path, model: Model) -> Iterator[Dataset]:
    with open_dataset(str(write_data(tmp_path, 100)), model) as opened:
        yield opened


def levels(model: Model) -> list[Level]:
    """One of each convolution, in the network's order."""
    rules = [r for r in catalog() if r.name == "separable_conv"]
    settings = {r.name: {"ratios": [0.5], "multiple": 2, "min_share": 0.0} for r in rules}
    found = [x for x in propose_levels(Facts(model, bind(model).sizes), rules, settings) if isinstance(x, Level)]
    assert len({x.layer.key for x in found}) == len(found) >= 2
    return found


def fitter_of(model: Model, data: Dataset, store: FitStore | None = None) -> Fitter:
    return Fitter(model, data, data.digest(), store or FitStore(None), Target(threads=1), 0, lambda *_: None)


def watched(level: Level, seen: list[tuple[str, Fragment | None]]) -> Level:
    """Notes for each fit where it started."""

    def fit(evidence: Evidence, rough: bool) -> Fitted:
        seen.append((level.layer.key, None))
        return level.fit(evidence, rough)

    def again(evidence: Evidence, near: Fragment) -> Fitted:
        seen.append((level.layer.key, near))
        assert level.again is not None
        return level.again(evidence, near)

    return replace(level, fit=fit, again=again)


def test_a_fit_starts_from_one_to_the_same_samples_and_no_others(model: Model, data: Dataset) -> None:
    seen: list[tuple[str, Fragment | None]] = []
    first, second = (watched(level, seen) for level in levels(model)[:2])
    fitter = fitter_of(model, data)
    rough = fitter.alone([second], FIT)[0]
    _, whole = fitter.in_order([second], FIT)
    _, fold = fitter.in_order([second], FOLD)
    _, after = fitter.in_order([first, second], FOLD)
    fitter.in_order([second], FIT)  # known: nothing is fitted
    fitter.in_order([first, second], FOLD)
    key, other = second.layer.key, first.layer.key
    assert [k for k, _ in seen] == [key, key, key, other, key]
    starts = [near for _, near in seen]
    assert starts == [None, rough.proposal.fragment, None, None, fold[0].proposal.fragment]
    assert whole[0].error <= rough.error
    assert after[1].error < 1


def test_where_fits_start_is_known_again_after_an_interruption(model: Model, data: Dataset, tmp_path: Path) -> None:
    first, second = levels(model)[:2]

    def run(store: FitStore, *both: Level) -> list[Model]:
        fitter = fitter_of(model, data, store)
        fitter.alone([both[1]], FIT)
        return [fitter.in_order(some, FIT)[0] for some in ([both[1]], both)]

    def never(*_: object) -> Fitted:
        raise AssertionError("it was fitted again")

    made = run(FitStore(tmp_path), first, second)
    frozen = [replace(level, fit=never, again=never) for level in (first, second)]
    again = run(FitStore(tmp_path, resume=True), *frozen)
    assert [m.proto for m in made] == [m.proto for m in again]


def test_the_original_is_asked_once(model: Model, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen is the same, number by number, whether its answers are known or not."""
    first, second = levels(model)[:2]
    student, _ = fitter_of(model, data).in_order([first], FIT)
    held, target = Answers(data.count), Target(threads=1)
    views: list[Model] = []
    exposing = gather.__globals__["exposing"]
    monkeypatch.setitem(gather.__globals__, "exposing", lambda m, t: views.append(m) or exposing(m, t))
    plain, asking, knowing = (
        gather(second.layer, model, student, data, FIT, target, 0, answers=a) for a in (None, held, held)
    )
    assert views == [student, model, student, model, student]
    for other in (asking, knowing):
        assert np.array_equal(plain.moments.xx, other.moments.xx)
        assert np.array_equal(plain.moments.yx, other.moments.yx)
        assert np.array_equal(plain.y, other.y)
        assert plain.out_size == other.out_size


def test_folds_share_the_answers(model: Model, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[bool] = []
    fitter = fitter_of(model, data)
    known = Answers.known

    def telling(self: Answers, *arguments: object) -> object:
        found = known(self, *arguments)  # type: ignore[arg-type]
        counted.append(found is not None)
        return found

    monkeypatch.setattr(fitters.Answers, "known", telling)
    level = levels(model)[1]
    for samples in (FIT, np.arange(40, 100), np.concatenate([FIT[:30], np.arange(70, 100)])):
        fitter.in_order([level], samples)
    assert counted == [False, False, True]
