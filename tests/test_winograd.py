"""Fast filters are filters."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from onnxtune.winograd import MOST, POINTS, fast

PLAIN = [(m, r, 1) for r in range(1, MOST + 1) for m in range(1, MOST + 2 - r) if m + r - 1 >= 3]
SIZES = [*PLAIN, *((m, r, s) for s in (2, 3) for r in range(s + 1, 8) for m in (2, 3, 5))]


@pytest.mark.parametrize(("m", "r", "stride"), SIZES)
def test_it_is_the_filter_on_all_unit_inputs_and_taps(m: int, r: int, stride: int) -> None:
    """Both sides are linear in inputs and in taps: equal on unit vectors is equal everywhere."""
    algorithm = fast(m, r, stride)
    have = np.einsum("ki,ij,il->kjl", algorithm.outputs, algorithm.filter, algorithm.inputs)
    want = np.zeros((m, r, stride * (m - 1) + r))
    for k in range(m):
        for j in range(r):
            want[k, j, stride * k + j] = 1
    np.testing.assert_allclose(have, want, atol=1e-12)


@pytest.mark.parametrize(("m", "r", "stride"), SIZES)
def test_inputs_are_summed_with_whole_numbers(m: int, r: int, stride: int) -> None:
    inputs = fast(m, r, stride).inputs
    assert np.array_equal(inputs, np.round(inputs))


@pytest.mark.parametrize(("m", "r", "stride"), SIZES)
def test_the_point_one_adds_to_all_outputs_alike(m: int, r: int, stride: int) -> None:
    algorithm = fast(m, r, stride)
    assert POINTS[algorithm.one] == Fraction(1)
    assert np.array_equal(algorithm.outputs[:, algorithm.one], np.ones(m))


@pytest.mark.parametrize(("m", "r", "stride"), [*SIZES[-3:], (4, 3, 2)])
def test_a_stride_takes_fewer_products_than_taps(m: int, r: int, stride: int) -> None:
    assert fast(m, r, stride).inputs.shape[0] < m * r


@pytest.mark.parametrize(("m", "r"), [(1, 1), (0, 3), (3, 0), (2, MOST)])
def test_other_sizes_are_refused(m: int, r: int) -> None:
    with pytest.raises(ValueError, match=rf"F\({m}, {r}\) takes"):
        fast(m, r)
