"""Errors of one output against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxtune.numerics.difference import Difference, Tally, is_ranked


def tally(*pairs: tuple[object, object], dtype: type = np.float32, count: int | None = None) -> Difference:
    found = Tally("y", "all", "normal")
    for want, have in pairs:
        a, b = np.array(want, dtype), np.array(have, dtype)
        found.add(a, b, len(a) if count is None else count, "")
    return found.result()


def test_numbers_by_hand() -> None:
    d = tally(([[3.0, -4.0]], [[3.0, -3.0]]))
    assert (d.maximum, d.mean, d.relative, d.differing) == (1.0, 0.5, 0.25, 0.5)
    assert d.snr == pytest.approx(10 * math.log10(25 / 1))
    assert d.within


def test_batches_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((12, 7))
    b = a + rng.standard_normal((12, 7)) / 50
    whole, parts = tally((a, b)), tally((a[:5], b[:5]), (a[5:], b[5:]))
    assert parts.samples == whole.samples == 12
    for name in ("maximum", "mean", "relative", "snr", "differing", "top1", "top5"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-6)


def test_equal_values_have_no_noise() -> None:
    d = tally(([[1.0, 2.0]], [[1.0, 2.0]]))
    assert (d.maximum, d.snr, d.differing, d.top1) == (0, None, 0, 1)


def test_agreement_of_classes() -> None:
    want = np.eye(8)[[0, 1, 2, 3]]
    have = want.copy()
    have[0, 5] = 2.0  # another first, the right one second
    have[1] = np.arange(8)  # the right one is the second smallest
    d = tally((want, have))
    assert (d.top1, d.top5) == (0.5, 0.75)


def test_up_to_five_classes_have_no_top5() -> None:
    d = tally((np.eye(5), np.eye(5)))
    assert (d.top1, d.top5) == (1.0, None)


@pytest.mark.parametrize(
    ("shape", "ranked"),
    [((2, 10), True), ((2, 10, 1, 1), True), ((2, 10, 4, 4), False), ((2, 1), False), ((9,), False)],
)
def test_what_ranks_classes(shape: tuple[int, ...], ranked: bool) -> None:
    assert is_ranked(np.zeros(shape, np.float32)) is ranked
    assert not is_ranked(np.zeros(shape, np.int64))


def test_rows_that_fill_up_a_batch_do_not_count() -> None:
    d = tally(([[1.0, 0], [0, 1]], [[1.0, 0], [9, 9]]), count=1)
    assert (d.samples, d.maximum) == (1, 0)


def test_values_that_are_not_finite() -> None:
    same = tally(([[math.nan, math.inf, 1]], [[math.nan, math.inf, 1]]))
    assert (same.maximum, same.differing) == (0, 0)
    worse = tally(([[1.0, 1]], [[math.inf, 1]]))
    assert worse.maximum == math.inf
    better = tally(([[math.inf, 2.0]], [[5.0, 1.0]]))
    assert better.maximum == 1.0


def test_whole_numbers_only_count() -> None:
    d = tally(([[1, 2, 3, 4]], [[1, 2, 3, 5]]), dtype=np.int64)
    assert (d.differing, d.maximum, d.snr, d.top1) == (0.25, 0, None, None)


def test_another_shape() -> None:
    d = tally((np.ones((1, 3)), np.ones((1, 4))))
    assert (d.maximum, d.differing) == (math.inf, 1.0)
    assert d.top1 is None


def test_no_axes_and_no_values() -> None:
    found = Tally("y", "all", "normal")
    found.add(np.array(2.0), np.array(1.0), 1, "")
    assert found.result().relative == 0.5
    assert tally((np.ones((0, 4)), np.ones((0, 4)))).top1 is None
