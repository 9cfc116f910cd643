"""bottleneck_conv: fewer channels before or after the kernel."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import (
    assert_declined,
    assert_recovers,
    assert_same_shapes,
    conv_model,
    levels_of,
    near_misses,
    random_weight,
)

from onnxtune.windows import Window

RULE = "bottleneck_conv"

CASES = [
    (Window((5, 5), (1, 1), (1, 1), (2, 2), (2, 2)), "bottleneck 1x1-5x5"),
    (Window((3, 3), (2, 2), (1, 1), (1, 0), (1, 2)), "bottleneck 3x3-1x1"),
    (Window((3, 3), (1, 1), (2, 2), (2, 2), (2, 2)), "bottleneck 1x1-3x3-1x1"),
]


@pytest.mark.parametrize(("window", "form"), CASES)
def test_a_kernel_of_that_form_is_found_again(window: Window, form: str) -> None:
    assert_recovers(RULE, window, form)


@settings(max_examples=5, deadline=None)
@given(
    st.tuples(st.integers(4, 12), st.integers(3, 9)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([(5, 5), (3, 5), (7, 4)]),
)
def test_levels_run_and_have_the_shapes_that_were_timed(
    widths: tuple[int, int], pads: tuple[int, ...], strides: tuple[int, int], kernel: tuple[int, int]
) -> None:
    attributes = f"pads = {list(pads)}, strides = {list(strides)}"
    proto = conv_model(random_weight(*widths, *kernel), attributes)
    assert_same_shapes(RULE, proto, multiple=1, ratios=[0.3, 0.7])


@pytest.mark.parametrize(("proto", "reason"), near_misses())
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declined(RULE, proto, reason)


def test_nothing_to_say_on_1x1() -> None:
    found, declined = levels_of(RULE, conv_model(random_weight(8, 8, 1, 1), "pads = [0, 0, 0, 0]"), min_share=0.0)
    assert not found
    assert not declined
