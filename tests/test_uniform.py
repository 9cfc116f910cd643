"""Maps whose value does not depend on the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.testing import model_of
from onnxtune.uniform import Uniform, uniform

WEIGHTS: dict[str, NDArray[Any]] = {
    "zero": np.zeros((3, 2, 1, 1), np.float32),
    "one": np.ones((3, 2, 1, 1), np.float32),
    "b": np.array([1, 2, -3], np.float32),
    "map": np.broadcast_to(np.array([4, 5, 6], np.float32).reshape(1, 3, 1, 1), (1, 3, 4, 5)).copy(),
    "ramp": np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5),
    "half": np.array(0.5, np.float32),
    **{name: np.array([value]) for name, value in {"i0": 0, "i1": 1, "i2": 2, "m1": -1}.items()},
    "cut": np.array([1, 2]),
}
LAYER = "t = Conv (x, zero, b)"


def of(body: str, opset: int = 19) -> Uniform | None:
    """What is known about t."""
    used = {k: v for k, v in WEIGHTS.items() if k in body.replace("(", " ").replace(")", " ").replace(",", " ").split()}
    text = f"g (float[1, 2, 4, 5] x) => (float[A, B, C, D] y) {{ {body} y = Neg (t) }}"
    return uniform(Facts(Model(model_of(text, used, opset=opset))), "t")


@pytest.mark.parametrize(
    ("body", "values", "nodes"),
    [
        (LAYER, [1, 2, -3], 1),
        ("t = Conv (x, zero)", [0, 0, 0], 1),
        ("u = Conv (x, zero, b) t = Relu (u)", [1, 2, 0], 2),
        ("u = Conv (x, zero, b) t = Mul (u, half)", [0.5, 1, -1.5], 2),
        ("u = Conv (x, zero, b) t = Add (u, map)", [5, 7, 3], 2),
        ("u = Conv (x, zero, b) v = Sigmoid (u) t = Sub (v, v)", [0, 0, 0], 3),
        ("u = Conv (x, zero, b) t = Concat <axis = 1> (map, u)", [4, 5, 6, 1, 2, -3], 2),
        ("u = Conv (x, zero, b) v, t = Split <axis = 1> (u, cut) z = Neg (v)", [2, -3], 2),
        ("u = Conv (x, zero, b) t = Slice (u, i1, i2, i1)", [2], 2),
        ("u = Conv (x, zero, b) t = Slice (u, i0, m1, i1, i1)", [1, 2], 2),
        ("t = Identity (map)", [4, 5, 6], 1),
    ],
)
def test_what_is_uniform(body: str, values: list[float], nodes: int) -> None:
    found = of(body)
    assert found is not None
    assert found.values.tolist() == values
    assert len(found.nodes) == nodes


@pytest.mark.parametrize(
    "body",
    [
        "t = Conv (x, one, b)",
        "t = Relu (x)",
        "t = Identity (ramp)",
        "u = Conv (x, zero, b) t = Mul (u, ramp)",
        "u = Conv (x, zero, b) t = Concat <axis = 2> (map, u)",
        "u = Conv (x, zero, b) t = Concat <axis = 1> (u, x)",
        "u = Conv (x, zero, b) t = Slice (u, i1, i2, i2)",
        "u = Conv (x, zero, b) t = Slice (u, i0, i2, i1, i2)",
        "u = Conv (x, zero, b) t = Softmax <axis = 1> (u)",
        "u = Conv (x, zero, b) t = Transpose <perm = [0, 2, 1, 3]> (u)",
    ],
)
def test_what_is_not(body: str) -> None:
    assert of(body) is None
