"""cp_conv: 1x1, depthwise, 1x1."""

from __future__ import annotations

import pytest
from levels import assert_recovers, check_conv_rule

from onnxtune.windows import Window

RULE = "cp_conv"

CASES = [
    (Window((5, 5), (1, 1), (1, 1), (2, 2), (2, 2)), "cp 1x1-dw5x5-1x1"),
    (Window((3, 3), (2, 2), (1, 1), (1, 0), (1, 2)), "cp 1x1-dw3x3-1x1"),
]


@pytest.mark.parametrize(("window", "form"), CASES)
def test_a_kernel_of_that_form_is_found_again(window: Window, form: str) -> None:
    assert_recovers(RULE, window, form)


def test_what_holds_for_all_of_them() -> None:
    check_conv_rule(RULE)
