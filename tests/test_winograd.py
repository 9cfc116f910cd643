"""Fast filters are filters."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from onnxtune.winograd import MOST, POINTS, fast

SIZES = [(m, r) for r in range(1, MOST + 1) for m in range(1, MOST + 2 - r) if m + r - 1 >= 3]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_it_is_the_filter_on_all_unit_inputs_and_taps(m: int, r: int) -> None:
    """Both sides are linear in inputs and in taps: equal on unit vectors is equal everywhere."""
    algorithm = fast(m, r)
    n = m + r - 1
    have = np.einsum("ki,ij,il->kjl", algorithm.outputs, algorithm.filter, algorithm.inputs)
    want = np.zeros((m, r, n))
    for k in range(m):
        for j in range(r):
            want[k, j, k + j] = 1
    np.testing.assert_allclose(have, want, atol=1e-12)


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_inputs_are_summed_with_whole_numbers(m: int, r: int) -> None:
    assert np.array_equal(fast(m, r).inputs, np.round(fast(m, r).inputs))


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_the_point_one_adds_to_all_outputs_alike(m: int, r: int) -> None:
    assert POINTS[fast(m, r).one] == Fraction(1)
    assert np.array_equal(fast(m, r).outputs[:, fast(m, r).one], np.ones(m))


@pytest.mark.parametrize(("m", "r"), [(1, 1), (0, 3), (3, 0), (2, MOST)])
def test_other_sizes_are_refused(m: int, r: int) -> None:
    with pytest.raises(ValueError, match=rf"F\({m}, {r}\) takes"):
        fast(m, r)
