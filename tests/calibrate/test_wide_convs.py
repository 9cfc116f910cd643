"""Convolutions too wide for a covariance: the sample says the same as the covariance would, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from layers import maps, moments, sample, square, weights
from smallnet import classifier, images, write_data

from onnxtune.apply import apply
from onnxtune.calibrate import evidence as evidence_module
from onnxtune.calibrate import forms
from onnxtune.calibrate import layer as layer_module
from onnxtune.calibrate.covariance import intensity, shrunk
from onnxtune.calibrate.dataset import open_dataset
from onnxtune.calibrate.evidence import gather
from onnxtune.calibrate.forms import Form
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.models import model_of
from onnxtune.calibrate.solve import fit, predict, relative_error
from onnxtune.calibrate.wide_convs import Rows, Sampled
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.runtime import Session, Target
from onnxtune.testing import rule_named

FIVE = square(5)
FORMS = [
    (forms.stack(FIVE, [(3, 3), (3, 3)]), (5,)),
    (forms.separable(FIVE), (7,)),
    (forms.bottleneck(FIVE), (3, 4)),
    (forms.cp(FIVE), (14,)),
]
every_form = pytest.mark.parametrize(("form", "mid"), FORMS, ids=[f.name for f, _ in FORMS])


def rows_of(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x @ weight.reshape(len(weight), -1).T + bias


def test_products_are_those_of_the_covariance() -> None:
    """With all rows in the sample: the same shrunk covariance, the same products, the same normal equations."""
    weight, bias = weights(8, 6, 5)
    x = sample(maps(6, 8), FIVE)
    y = rows_of(x, weight, bias)
    rows, data = Rows.of(x, y), moments(x, y)
    problem, c = Sampled.of(weight, rows), shrunk(data)
    assert rows.variance == pytest.approx(np.trace(data.xx) / len(data.xx), rel=1e-5)
    assert rows.shrink == pytest.approx(intensity(data), rel=0.3)
    full = (1 - rows.shrink) * data.xx + rows.shrink * rows.variance * np.eye(len(c))
    flat = weight.reshape(8, -1)
    assert np.allclose(problem.target, weight)
    assert np.allclose(problem.times(weight).reshape(8, -1), flat @ full, rtol=1e-4, atol=1e-4)
    assert problem.energy == pytest.approx(np.vdot(flat @ full, flat), rel=1e-5)
    for form, mid in FORMS:
        model, w = model_of(form), forms.unfitted(form, (8, 6), mid, np.random.default_rng(0)).weights
        features = model.features(w)
        t = features.reshape(len(features), -1)
        assert np.allclose(model.last(w, weight), flat @ t.T)
        gram, cross = problem.normal(model, w)
        scale = np.abs(t @ full @ t.T).max()
        assert np.allclose(gram, t @ full @ t.T, atol=1e-5 * scale)
        assert np.allclose(cross, flat @ full @ t.T, atol=1e-5 * np.abs(cross).max())
    kernel = weight + 0.1
    assert np.allclose(problem.bias(kernel, bias), y.mean(0) - kernel.reshape(8, -1) @ x.mean(0), atol=1e-4)


def test_the_target_makes_up_for_errors_of_earlier_layers() -> None:
    weight, bias = weights(8, 6, 5)
    x = maps(6)
    rows, wrong = sample(x, FIVE), sample(x + 0.3 * np.roll(x, 1, axis=1) + 0.2, FIVE)
    y = rows_of(rows, weight, bias)
    target = Sampled.of(weight, Rows.of(wrong, y)).target
    corrected, plain = (wrong @ k.reshape(8, -1).T for k in (target, weight))
    ours, theirs = (relative_error(y, p + (y - p).mean(0)) for p in (corrected, plain))
    assert ours < 0.6 * theirs


@every_form
def test_as_good_as_the_covariance_and_better_than_without_data(form: Form, mid: tuple[int, ...]) -> None:
    """On rows held out. From as many rows as columns nearly what all rows give, from a third still much."""
    weight, bias = weights(8, 6, 5)
    x, held = sample(maps(6), FIVE), sample(maps(6, 20, seed=0)[10:], FIVE, seed=1)
    y, wanted = rows_of(x, weight, bias), rows_of(held, weight, bias)
    free = fit(form, weight, bias, None, mid).factors
    full = fit(form, weight, bias, moments(x, y), mid).factors
    errors = []
    for seed, count in ((0, 3 * len(x[0])), (0, len(x[0])), *((s, len(x[0]) // 3) for s in range(5))):
        some = np.sort(np.random.default_rng(seed).permutation(len(x))[:count])
        found = fit(form, weight, bias, Rows.of(x[some], y[some]), mid, iterations=8)
        assert all(b <= a * (1 + 1e-6) for a, b in zip(found.history, found.history[1:], strict=False))
        errors.append(relative_error(wanted, predict(found.factors, held)))
    best, worst = (relative_error(wanted, predict(f, held)) for f in (full, free))
    assert errors[0] < 1.2 * best
    assert errors[1] < 1.35 * best
    assert np.median(errors[2:]) < 0.98 * worst  # so few rows now and then tell nothing


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything beyond 100 columns is wide; few rows are kept."""
    monkeypatch.setattr(layer_module, "MOST_COLUMNS", 100)
    monkeypatch.setattr(evidence_module, "WIDE_ROWS", 700)


def level_of(model: Model, rule: str) -> Level:
    found = rule_named(rule)
    assert found.levels is not None
    said = found.levels(Facts(model, {"image": (1, 3, 12, 12)}), found.settings({"min_share": 0.0}))
    return next(x for x in said if isinstance(x, Level) and x.layer.columns == 600 and x.share > 0.3)


@pytest.mark.parametrize("rule", ["separable_conv", "stack_3x3", "bottleneck_conv", "cp_conv"])
def test_a_wide_layer_is_fitted_in_a_network(rule: str, narrow: None, tmp_path: Path) -> None:
    model = Model(classifier())
    level = level_of(model, rule)
    assert level.layer.wide
    with open_dataset(str(write_data(tmp_path)), model) as data:
        seen = gather(level.layer, model, model, data, np.arange(200), Target(), 0)
        assert seen.gathered is None
        assert seen.x.shape == (700, 600)
        again = gather(level.layer, model, model, data, np.arange(200), Target(), 0)
        found, same = level.fit(seen, False), level.fit(again, False)
    assert list(found.proposal.fragment.initializers) == list(same.proposal.fragment.initializers)
    after, x = apply(model, [found.proposal]), images(50, seed=5)[0]
    want, got = (Session(m, Target()).run({"image": x})["logits"] for m in (model, after))
    raw = apply(model, [level.unfitted])
    assert relative_error(want, got) < 0.5
    assert relative_error(want, got) < 0.5 * relative_error(want, Session(raw, Target()).run({"image": x})["logits"])
    assert found.error < 0.6


def test_channels_before_a_wide_layer_are_pruned(narrow: None, tmp_path: Path) -> None:
    model = Model(classifier())
    found = rule_named("prune_channels")
    assert found.levels is not None
    said = found.levels(Facts(model, {"image": (1, 3, 12, 12)}), found.settings({"min_share": 0.0}))
    level = next(x for x in said if isinstance(x, Level) and x.layer.columns == 600 and x.settings["channels"] == 16)
    with open_dataset(str(write_data(tmp_path)), model) as data:
        fitted = level.fit(gather(level.layer, model, model, data, np.arange(200), Target(), 0), False)
    x = images(50, seed=5)[0]
    want, got, raw = (
        Session(m, Target()).run({"image": x})["logits"]
        for m in (model, apply(model, [fitted.proposal]), apply(model, [level.unfitted]))
    )
    assert relative_error(want, got) < 0.5 * relative_error(want, raw)


def test_memory_does_not_grow_with_the_columns_squared_nor_with_the_samples(narrow: None, tmp_path: Path) -> None:
    model = Model(classifier(kernel=9, width=24))  # 1944 columns: a covariance would take 30 MB
    found = rule_named("separable_conv")
    assert found.levels is not None
    said = found.levels(Facts(model, {"image": (1, 3, 12, 12)}), found.settings({"min_share": 0.0}))
    level = next(x for x in said if isinstance(x, Level) and x.layer.columns == 1944)
    peaks = []
    with open_dataset(str(write_data(tmp_path, 900)), model) as data:
        for count in (100, 900):
            tracemalloc.start()
            level.fit(gather(level.layer, model, model, data, np.arange(count), Target(), 0), True)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(peaks) < 8 * 1944**2
    assert peaks[1] < 1.3 * peaks[0]
