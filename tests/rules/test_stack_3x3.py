"""stack_3x3: large kernels as stacks of small ones."""

from __future__ import annotations

import pytest
from levels import assert_recovers, check_conv_rule, conv_model, levels_of, random_weight

from onnxtune.windows import Window

RULE = "stack_3x3"

CASES = [
    (Window((5, 5), (1, 1), (1, 1), (2, 2), (2, 2)), "stack 3x3-3x3"),
    (Window((5, 5), (2, 2), (1, 1), (2, 1), (1, 2)), "stack 3x3-3x3/2x2"),
    (Window((5, 5), (1, 1), (2, 2), (4, 4), (4, 4)), "stack 3x3-3x3"),
    (Window((7, 7), (1, 1), (1, 1), (3, 3), (3, 3)), "stack 3x3-5x5"),
    (Window((3, 5), (1, 1), (1, 1), (1, 2), (1, 2)), "stack 1x3-3x3"),
]


@pytest.mark.parametrize(("window", "form"), CASES)
def test_a_kernel_of_that_form_is_found_again(window: Window, form: str) -> None:
    assert_recovers(RULE, window, form)


def test_what_holds_for_all_of_them() -> None:
    check_conv_rule(RULE)


def test_3x3_is_left_alone() -> None:
    found, _ = levels_of(RULE, conv_model(random_weight(8, 8, 3, 3), "pads = [1, 1, 1, 1]"), min_share=0.0)
    assert not found
