"""Reading a Conv as numbers and writing it again."""

from __future__ import annotations

import numpy as np
import pytest

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.model import Model
from onnxtune.testing import model_of

W = np.arange(4 * 2 * 9, dtype=np.float32).reshape(4, 2, 3, 3)
FULL = "group = 2, strides = [2, 1], dilations = [1, 2], pads = [1, 0, 2, 1]"


def read(attributes: str, inputs: str = "x, w, b") -> tuple[Facts, Convolution | str]:
    text = f"g (float[N, 4, 9, 9] x, float[4] fed) => (float[N, 4, H, V] y) {{ y = Conv <{attributes}> ({inputs}) }}"
    facts = Facts(Model(model_of(text, {"w": W, "b": np.ones(4, np.float32)})))
    return facts, convolution(facts, facts.nodes[0])


def test_reads_all_parameters() -> None:
    _, conv = read(FULL)
    assert isinstance(conv, Convolution)
    assert (conv.in_channels, conv.out_channels, conv.group) == (4, 4, 2)
    assert conv.window.pads == [1, 0, 2, 1]
    assert conv.weight.dtype == np.float64
    assert not conv.pointwise
    assert not conv.depthwise


def test_writes_what_it_read() -> None:
    facts, conv = read(FULL)
    assert isinstance(conv, Convolution)
    new = Builder("new", facts.names, facts.opset)
    fragment = new.finish({"y": add_conv(new, conv.x, conv.weight, conv.bias, conv.window, conv.dtype, conv.group)})
    attributes = {a.name: a for a in fragment.nodes[0].attribute}
    assert list(attributes["pads"].ints) == [1, 0, 2, 1]
    assert list(attributes["strides"].ints) == [2, 1]
    assert attributes["group"].i == 2
    assert len(fragment.initializers) == 2


def test_without_bias() -> None:
    _, conv = read("group = 2", "x, w")
    assert isinstance(conv, Convolution)
    assert conv.bias is None
    assert not conv.shift.any()


@pytest.mark.parametrize(
    ("attributes", "inputs", "reason"),
    [
        ("group = 2", "x, w, fed", "not constant"),
        ('group = 2, strides = [2, 2], auto_pad = "SAME_UPPER"', "x, w", "depends on the input's size"),
    ],
)
def test_says_why_not(attributes: str, inputs: str, reason: str) -> None:
    _, conv = read(attributes, inputs)
    assert isinstance(conv, str)
    assert reason in conv
