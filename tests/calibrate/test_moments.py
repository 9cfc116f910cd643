"""Moments in one pass, in batches, merged, and far from zero; the reservoir."""

from __future__ import annotations

import numpy as np
import pytest

from onnxtune.calibrate.moments import MOST_COLUMNS, Accumulator, Moments, Reservoir


def rows(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, 7)) @ random.standard_normal((7, 7)) + 5 * random.standard_normal(7)
    return x, np.tanh(x @ random.standard_normal((7, 3)))


def direct(x: np.ndarray, y: np.ndarray) -> Moments:
    z, t = x - x.mean(0), y - y.mean(0)
    n = len(x)
    fourth = float((np.square(z).sum(1) ** 2).mean())
    return Moments(n, x.mean(0), y.mean(0), z.T @ z / n, t.T @ z / n, np.square(t).mean(0), fourth)


def assert_equal(a: Moments, b: Moments, rtol: float = 1e-11) -> None:
    assert a.count == b.count
    for name in ("mean_x", "mean_y", "xx", "yx", "yy", "fourth"):
        want = np.asarray(getattr(b, name))
        assert np.allclose(getattr(a, name), want, rtol=0, atol=rtol * np.abs(want).max()), name


@pytest.mark.parametrize("sizes", [[300], [1, 299], [100, 0, 100, 100], [1] * 300])
def test_batches(sizes: list[int]) -> None:
    x, y = rows()
    gathered = Accumulator(7, 3)
    at = 0
    for size in sizes:
        gathered.add(x[at : at + size], y[at : at + size])
        at += size
    assert_equal(gathered.finish(), direct(x, y))


def test_merged_accumulators_equal_one_pass() -> None:
    x, y = rows()
    a, b, empty = Accumulator(7, 3), Accumulator(7, 3), Accumulator(7, 3)
    a.add(x[:50], y[:50])
    b.add(x[50:120] + 0, y[50:120])
    b.add(x[120:], y[120:])
    empty.merge(a)
    empty.merge(Accumulator(7, 3))
    empty.merge(b)
    assert_equal(empty.finish(), direct(x, y))


def test_a_large_mean_costs_no_digits() -> None:
    x, y = rows()
    gathered = Accumulator(7, 3)
    for i in range(0, 300, 50):
        gathered.add(x[i : i + 50] + 1e6, y[i : i + 50])
    found, want = gathered.finish(), direct(x, y)
    assert np.allclose(found.xx, want.xx, rtol=1e-7)
    assert found.fourth == pytest.approx(want.fourth, rel=1e-6)


def test_inputs_alone_and_float32() -> None:
    x, _ = rows()
    gathered = Accumulator(7)
    gathered.add(x.astype(np.float32))
    assert gathered.finish().yx.shape == (0, 7)
    assert gathered.finish().xx.dtype == np.float64


def test_a_layer_answers_its_own_input() -> None:
    x, y = rows()
    random = np.random.default_rng(1)
    weight, bias = random.standard_normal((4, 7)), random.standard_normal(4)
    gathered = Accumulator(7, 3)
    gathered.add(x, y)
    assert_equal(gathered.finish().answered_by(weight, bias), direct(x, x @ weight.T + bias))
    assert_equal(gathered.finish().answered_by(weight, None), direct(x, x @ weight.T))


def test_limits() -> None:
    with pytest.raises(ValueError, match="too large"):
        Accumulator(MOST_COLUMNS + 1)
    with pytest.raises(ValueError, match="no rows"):
        Accumulator(3).finish()
    with pytest.raises(ValueError, match="no rows"):
        _ = Reservoir(3).rows


def test_reservoir_is_bounded_seeded_and_uniform() -> None:
    numbers = np.arange(1000.0)[:, None]
    hits = np.zeros(1000)
    for seed in range(200):
        kept = Reservoir(100, seed)
        for i in range(0, 1000, 130):
            kept.add(numbers[i : i + 130], -numbers[i : i + 130])
        x, y = kept.rows
        assert x.shape == (100, 1)
        assert np.array_equal(x, -y)
        assert len(np.unique(x)) == 100
        hits[x[:, 0].astype(int)] += 1
    assert np.allclose(hits.reshape(10, -1).mean(1), 20, atol=2)
    again = Reservoir(100, 199)
    for i in range(0, 1000, 130):
        again.add(numbers[i : i + 130], -numbers[i : i + 130])
    assert np.array_equal(again.rows[0], x)


def test_reservoir_with_fewer_rows_keeps_all_in_order() -> None:
    kept = Reservoir(100)
    kept.add(np.arange(5.0)[:, None], np.zeros((5, 2)))
    kept.add(np.arange(5.0, 9.0)[:, None], np.zeros((4, 2)))
    assert kept.rows[0][:, 0].tolist() == list(range(9))
