"""replace_lrn: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.rulebook.replace_lrn import band
from onnxtune.testing import assert_declines, assert_rewrites, model_of


def lrn(
    channels: int = 7, size: int = 5, beta: float = 0.75, bias: float = 1.0, alpha: float = 1e-2, shape: str = ""
) -> onnx.ModelProto:
    shape = shape or f"N, {channels}, 9, 7"
    attributes = f"size = {size}, alpha = {alpha:f}, beta = {beta:f}, bias = {bias:f}"
    return model_of(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = LRN <{attributes}> (x) }}")


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_fires_in_both_forms(size: int, beta: float) -> None:
    assert_rewrites("replace_lrn", lrn(size=size, beta=beta), count=2, contains={"LRN": 0})


def test_window_wider_than_the_channels() -> None:
    assert_rewrites("replace_lrn", lrn(channels=3, size=9), count=2)


def test_old_opset() -> None:
    proto = lrn()
    proto.opset_import[0].version = 9
    assert_rewrites("replace_lrn", proto, count=2)


def test_symbolic_height_and_width() -> None:
    assert_rewrites("replace_lrn", lrn(shape="N, 7, H, W"), sizes={"x": (1, 7, 9, 11)}, count=2)


def test_band_sums_the_same_window_as_the_definition() -> None:
    x = np.arange(6.0)
    summed = band(6, 4, 1.0)[:, :, 0, 0] @ x
    assert summed.tolist() == [sum(x[max(0, c - 1) : c + 3]) for c in range(6)]


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (lrn(shape="N, C, 9, 7"), "channels is not known"),
        (lrn(bias=0.0), "root of a negative number"),
        (lrn(alpha=-0.01), "root of a negative number"),
        (lrn(shape="N, 7, 9"), "rank 3"),
        (lrn(shape="N, 7, 3, 4, 5"), "rank 5"),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines("replace_lrn", proto, reason)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 9),
    size=st.sampled_from([1, 3, 5, 7]),  # ONNX Runtime's own kernel refuses even sizes
    beta=st.sampled_from([0.5, 0.75, 1.0, 0.9]),
    bias=st.floats(0.5, 3, width=32),
    alpha=st.floats(2**-14, 2**-7, width=32),
)
def test_random_parameters(channels: int, size: int, beta: float, bias: float, alpha: float) -> None:
    assert_rewrites("replace_lrn", lrn(channels, size, beta, bias, alpha))
