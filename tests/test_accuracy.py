"""Estimated drops and their bounds: right on average, honest in coverage, careful where little is known."""

from __future__ import annotations

import numpy as np
import pytest

from onnxtune import accuracy
from onnxtune.errors import UsageError


def network(n: int, seed: int, noise: float, heat: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits before, after, labels): labels drawn from the posterior, after = before + noise."""
    rng = np.random.default_rng(seed)
    logits = 2.5 * rng.standard_normal((n, 10))
    posterior = np.exp(accuracy.log_softmax(logits))
    labels = (posterior.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits * heat, (logits + noise * rng.standard_normal(logits.shape)) * heat, labels


def test_nothing_changed_is_no_drop_but_no_proof_either() -> None:
    before, _, labels = network(200, 0, 0.0)
    drop = accuracy.classifier_drop(before, before, labels, 0.9)
    assert drop.estimate == 0
    assert drop.labelled == 0
    assert drop.flips == 0
    assert 0 < drop.bound < 0.02


def test_temperature_is_found() -> None:
    before, _, labels = network(4000, 1, 0.0, heat=2.0)
    assert accuracy.temperature(before, labels) == pytest.approx(2.0, rel=0.1)


def test_a_mixture_of_expected_and_counted_drop_varies_less_than_the_counted_one() -> None:
    samples = [network(400, seed, 0.3) for seed in range(60)]
    runs = [accuracy.classifier_drop(*sample, 0.9) for sample in samples]
    alone = [accuracy.classifier_drop(before, after, None, 0.9, heat=1.0) for before, after, _ in samples]
    counted = np.array([r.labelled for r in runs])
    mixed, expected = (np.array([r.estimate for r in found]) for found in (runs, alone))
    assert expected.std() < mixed.std() < counted.std() / 2
    assert mixed.mean() == pytest.approx(counted.mean(), abs=0.004)
    assert all(a.weight == 0 < r.weight < 1 for r, a in zip(runs, alone, strict=True))


def test_many_labels_decide() -> None:
    weights = [float(accuracy.classifier_drop(*network(n, 2, 0.3), 0.9).estimator.split("%")[0]) for n in (200, 20_000)]
    assert weights[0] < 30
    assert weights[1] > 75


def test_the_bound_holds_as_often_as_it_says() -> None:
    truth = accuracy.classifier_drop(*network(60_000, 1000, 0.4), 0.9).labelled
    assert truth is not None
    bounds = [accuracy.classifier_drop(*network(300, seed, 0.4), 0.9).bound for seed in range(100)]
    assert np.mean([b >= truth for b in bounds]) >= 0.9


def test_labels_take_over_where_the_expected_drop_is_far_too_low() -> None:
    before, after, labels = network(3000, 3, 0.0)
    after = before.copy()
    lost = np.flatnonzero(before.argmax(1) == labels)[:120]
    after[lost, labels[lost]] = (
        before[lost].max(1) - 1e-3
    )  # near ties by the posterior's light, all wrong by the labels
    after[lost, (labels[lost] + 1) % 10] = before[lost].max(1)
    blurred = before / 50  # a posterior that knows nothing
    drop = accuracy.classifier_drop(blurred, after / 50, labels, 0.9, heat=1.0)
    assert drop.labelled == pytest.approx(0.04)
    assert drop.estimate == pytest.approx(0.04, abs=0.001)
    assert drop.bound > 0.043


def test_the_bound_holds_where_the_posterior_is_wrong_about_flips() -> None:
    """Of flips, more or less than the posterior expects are losses, by an amount that is drawn."""
    rng = np.random.default_rng(0)
    held = 0
    for bias in rng.normal(0.0, accuracy.DOUBT, 200):
        before = np.zeros((800, 3))
        before[:, 0], before[:, 1] = 3.0, -3.0
        flipped = rng.random(800) < 0.05
        before[flipped, 1] = 2.7
        after = before.copy()
        after[flipped, 1] = 3.1
        p = np.exp(accuracy.log_softmax(before))
        shift = np.where(flipped, bias / 2, 0.0)
        draw, first = rng.random(800), p[:, 0] + shift
        labels = np.where(draw < first, 0, np.where(draw < first + p[:, 1] - shift, 1, 2))
        truth = 0.05 * ((p[flipped, 0] - p[flipped, 1]).mean() + bias)
        held += accuracy.classifier_drop(before, after, labels, 0.9, heat=1.0).bound >= truth
    assert held >= 0.88 * 200


def test_labels_can_veto() -> None:
    drop = accuracy.Drop("top1", "", 0.001, 0.002, 0.9, 100, 0.01, labelled=0.05, labelled_low=0.03)
    assert not drop.within(0.01)
    assert drop.within(0.04)


def test_agreement_is_bounded_exactly() -> None:
    before = np.eye(10)[np.arange(400) % 10]
    after = before.copy()
    after[:4] = np.roll(after[:4], 1, axis=1)
    drop = accuracy.agreement_drop(before, after, 0.95)
    assert drop.estimate == pytest.approx(0.01)
    assert drop.bound == pytest.approx(0.0227, abs=2e-4)  # Clopper-Pearson for 4 of 400
    assert accuracy.agreement_drop(before, before, 0.95).bound == pytest.approx(1 - 0.05 ** (1 / 400))
    assert accuracy.agreement_drop(before, np.roll(before, 1, 1), 0.95).bound == 1.0


def test_top5_counts_sets() -> None:
    before, after, labels = network(500, 5, 0.2)
    drop = accuracy.classifier_drop(before, after, labels, 0.9, top=5)
    assert drop.metric == "top5"
    assert drop.before is not None
    assert drop.before > accuracy.classifier_drop(before, after, labels, 0.9).before  # type: ignore[operator]


def test_probabilities_count_as_logits() -> None:
    before, after, labels = network(300, 6, 0.3)
    soft = [np.exp(accuracy.log_softmax(v)) for v in (before, after)]
    convert = accuracy.logits_of(soft[0])
    plain = accuracy.classifier_drop(before, after, labels, 0.9)
    assert accuracy.classifier_drop(convert(soft[0]), convert(soft[1]), labels, 0.9).estimate == pytest.approx(
        plain.estimate
    )


def test_psnr_and_its_assumed_drop() -> None:
    want = np.zeros((2, 1, 4, 4))
    have = want + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(accuracy.psnr(have, want, 1.0), [20, 40])
    np.testing.assert_allclose(accuracy.assumed_psnr_drop(have, want, 1.0)[1], 10 * np.log10(2))


def test_relative_error() -> None:
    want = np.array([[0.0, 2.0], [5.0, 5.0]])
    np.testing.assert_allclose(accuracy.relative_error(want + 0.5, want), [0.5, 0.1])


@pytest.mark.parametrize(
    ("text", "metric", "value"),
    [
        ("0.5%", "top1", 0.005),
        (0.01, "top1", 0.01),
        ("0.1", "psnr", 0.1),
        ("0.1dB", "psnr", 0.1),
        ("1 %", "relative_error", 0.01),
    ],
)
def test_budgets(text: str | float, metric: str, value: float) -> None:
    assert accuracy.parse_budget(text, metric) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "metric"), [("x", "top1"), ("-1%", "top1"), ("nan", "top1"), ("1", "top1"), ("1%", "psnr")]
)
def test_budgets_that_make_no_sense(text: str, metric: str) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        accuracy.parse_budget(text, metric)


def test_samples_that_a_tighter_budget_needs() -> None:
    drop = accuracy.Drop("top1", "", 0.002, 0.01, 0.9, 100, 0.05)
    assert drop.needed(0.001) is None
    assert drop.needed(0.003) == pytest.approx((1.2816 * 0.05 / 0.001) ** 2, rel=0.01)
    assert drop.needed(0.5) == 100


def test_what_more_samples_would_tell_is_foreseen() -> None:
    few = accuracy.classifier_drop(*network(400, 7, 0.3), 0.9)
    many = [accuracy.classifier_drop(*network(1600, seed, 0.3), 0.95) for seed in range(20)]
    widths = [m.bound - m.estimate for m in many]
    assert few.foreseen(1600, 0.95) - few.estimate == pytest.approx(np.mean(widths), rel=0.2)
    assert few.foreseen(400, 0.9) == pytest.approx(few.bound, rel=0.1)


def test_only_labels_end_a_doubt() -> None:
    told = accuracy.Drop("top1", "", 0.002, 0.008, 0.9, 100, 0.03, doubt=0.004)
    assert told.needed(0.006) is None
    assert told.needed(0.0075) == pytest.approx(0.03**2 / ((0.0055 / 1.2816) ** 2 - 0.004**2), rel=0.01)
    labelled = accuracy.Drop("top1", "", 0.002, 0.008, 0.9, 100, 0.03, doubt=0.004, weight=0.1)
    needed = labelled.needed(0.006)
    assert needed is not None
    assert labelled.spread(needed) <= 0.004 / accuracy.normal_quantile(0.9) < labelled.spread(needed - 1)
