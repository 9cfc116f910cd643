"""Declared ranges of inputs: parsed strictly, kept by every test input, relied on only where declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxtune
from onnxtune.errors import UsageError
from onnxtune.feeds import cases
from onnxtune.model import Model
from onnxtune.ranges import checked_ranges, clipped, parse_ranges
from onnxtune.testing import model_of


def net(low: float = 0.0) -> onnx.ModelProto:
    """Two of 64 channels are below 0 wherever inputs are in [0, 1]; others depend on the input's sign."""
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal(s).astype(np.float32) for s in ((64, 2, 3, 3), (4, 64, 1, 1)))
    b = np.full(64, 0.5, np.float32)
    w[:32], b[:32] = -0.1, -0.1 + low
    return model_of(
        """g (float[N, 2, 20, 20] x) => (float[N, 4, 20, 20] y)
           { a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  c = Relu (a)  y = Conv (c, v) }""",
        {"w": w, "b": b, "v": v},
    )


def test_parsing() -> None:
    assert parse_ranges(["x:0:1", "in:0:-1e3:2.5"]) == {"x": (0.0, 1.0), "in:0": (-1000.0, 2.5)}
    for text in ("x", "x:1", ":0:1", "x:1:1", "x:2:1", "x:a:b", "x:0:inf", "x:nan:1"):
        with pytest.raises(UsageError, match="NAME:LOW:HIGH"):
            parse_ranges([text])


@pytest.mark.parametrize("value", [{"y": (0, 1)}, {"x": 3}, {"x": (0, 1, 2)}, {"x": (1, 0)}, {"x": ("a", 1)}])
def test_checking(value: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        checked_ranges(Model(net()), value)


def test_an_input_without_numbers() -> None:
    proto = model_of("g (bool[3] x) => (bool[3] y) { y = Not (x) }")
    with pytest.raises(UsageError, match="does not hold numbers"):
        checked_ranges(Model(proto), {"x": (0, 1)})


def test_test_inputs_keep_to_it() -> None:
    ranges = {"x": (0.25, 0.75)}
    found = list(cases(Model(net()), {"x": (1, 2, 20, 20)}, ranges=ranges))
    assert len(found) == 8
    for case in found:
        assert case.feeds["x"].dtype == np.float32
        assert 0.25 <= case.feeds["x"].min() <= case.feeds["x"].max() <= 0.75
    assert np.ptp(found[-1].feeds["x"]) > 0.45
    assert clipped({"z": np.array([7])}, ranges)["z"] == 7


def test_a_rewrite_that_is_right_in_the_range_only() -> None:
    chosen: dict[str, Any] = {"providers": "cpu", "threads": 1, "cache": False, "time_budget": 20}
    chosen |= {"only": ("remove_dead_channels",), "force_rules": ("remove_dead_channels",)}
    result = onnxtune.optimize(net(), input_ranges={"x": (0, 1)}, **chosen)
    assert result.report.status in ("faster", "forced")
    assert (32, 2, 3, 3) in {tuple(i.dims) for i in result.model.graph.initializer}
    (kept,) = result.report.kept
    assert kept.rewrite.details["input_ranges"] == {"x": [0.0, 1.0]}
    other = onnxtune.optimize(net(), **chosen)
    assert not other.report.kept
    again = onnxtune.optimize(result.model, input_ranges={"x": (0, 1)}, **chosen)
    assert again.report.status == "already tuned"


def test_inputs_of_the_user_must_agree() -> None:
    feeds = {"x": np.full((1, 2, 20, 20), -1, np.float32)}
    with pytest.raises(UsageError, match="user input 1: 'x' holds"):
        onnxtune.optimize(net(), input_ranges={"x": (0, 1)}, inputs=[feeds], providers="cpu")
