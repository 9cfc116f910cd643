"""Patches times weights are what ONNX Runtime's Conv gives."""

from __future__ import annotations

import numpy as np
import pytest
from convs import run_convs
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.calibrate.patches import patches, positions_of, values
from onnxtune.windows import Window

axis = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(st.lists(axis, min_size=1, max_size=2), st.integers(0, 100))
def test_patches_give_the_convolution(axes: list[tuple[int, ...]], seed: int) -> None:
    kernel, strides, dilations, begin, end = (tuple(a[i] for a in axes) for i in range(5))
    random = np.random.default_rng(seed)
    x = random.standard_normal((3, 2, *(13, 11)[: len(axes)])).astype(np.float32)
    weight = random.standard_normal((5, 2, *kernel))
    window = Window(kernel, strides, dilations, begin, end)
    y = run_convs(x, [(weight, None, window, 1)])
    at = positions_of(np.arange(3), y.shape[2:], 4, seed)
    assert np.allclose(patches(x, at, window) @ weight.reshape(5, -1).T, values(y, at), atol=1e-4)


def test_positions_are_distinct_and_cover_borders() -> None:
    at = positions_of(np.arange(50), (4, 5), 7, 0)
    assert at.shape == (50, 7, 2)
    assert all(len({tuple(p) for p in image}) == 7 for image in at)
    assert at.reshape(-1, 2).min(0).tolist() == [0, 0]
    assert at.reshape(-1, 2).max(0).tolist() == [3, 4]


@pytest.mark.parametrize("per_image", [20, 100])
def test_all_positions(per_image: int) -> None:
    at = positions_of(np.arange(2), (4, 5), per_image, 0)
    assert at.shape == (2, 20, 2)
    assert {tuple(p) for p in at[1]} == {(i, j) for i in range(4) for j in range(5)}


def test_positions_follow_from_the_sample_alone() -> None:
    whole, more = positions_of(np.arange(9), (6, 5), 8, 3), positions_of(np.arange(9), (6, 5), 12, 3)
    assert np.array_equal(positions_of(np.array([7, 2]), (6, 5), 8, 3), whole[[7, 2]])
    assert np.array_equal(more[:, :8], whole)
    assert not np.array_equal(positions_of(np.arange(9), (6, 5), 8, 4), whole)
    assert not np.array_equal(whole[0], whole[1])
