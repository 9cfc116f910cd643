"""The rule fires where it should, keeps the function, and says why where it does not fire."""

from __future__ import annotations

import numpy as np
import pytest
from onnxtune_plugin_clips import merge_clips

from onnxtune.catalog import plugin_rule
from onnxtune.testing import assert_declines, assert_rewrites, model_of

RULE = plugin_rule("merge_clips", merge_clips, "onnxtune-plugin-clips")


def clips(a: float, b: float, c: float, d: float) -> dict[str, np.ndarray]:
    return {name: np.float32(value) for name, value in zip("abcd", (a, b, c, d), strict=True)}


TEXT = "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { t = Clip (x, a, b)  y = Clip (t, c, d) }"


@pytest.mark.parametrize("bounds", [(0, 6, 0, 1), (-1, 1, 0, 6), (0, 1, 0, 1), (0, 6, 6, 9)])
def test_one_clip_is_left(bounds: tuple[float, float, float, float]) -> None:
    assert_rewrites(RULE, model_of(TEXT, clips(*bounds)), count=1, contains={"Clip": 1})


def test_intervals_apart_are_declined() -> None:
    assert_declines(RULE, model_of(TEXT, clips(0, 1, 2, 3)), "no number in common")


def test_the_first_clip_has_another_reader() -> None:
    text = TEXT.replace("=> (float[N, 3, 8, 8] y)", "=> (float[N, 3, 8, 8] y, float[N, 3, 8, 8] t)")
    assert_declines(RULE, model_of(text, clips(0, 6, 0, 1)), "graph output")
