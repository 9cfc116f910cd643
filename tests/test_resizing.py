"""What a Resize does: the index map is judged as ONNX Runtime computes it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.resizing import Resizing, factors, resizing
from onnxtune.testing import model_of

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def read(text: str, weights: dict[str, Any] | None = None, opset: int = 19) -> Resizing | str:
    facts = Facts(Model(model_of(text, weights, opset=opset)))
    node = next(n for n in facts.nodes if n.is_op("Resize", "Upsample", "Relu"))
    return resizing(facts, node)


@pytest.mark.parametrize(("coordinates", "rounding"), list(itertools.product(COORDINATES, ROUNDING)))
def test_factors_agree_with_onnxruntime(coordinates: str, rounding: str) -> None:
    """A factor that is found holds at every size; one that is refused fails at one of them.

    align_corners is always refused: its index map depends on the size (though rounding is right at s = 2).
    """
    for s in (2, 3, 4, 7):
        node = f'Resize <coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"> (x, , s)'
        text = f"g (float[1, 1, H, W] x) => (float[1, 1, P, Q] y) {{ y = {node} }}"
        proto = model_of(text, {"s": np.array([1, 1, s, 1], np.float32)}, opset=19)
        facts = Facts(Model(proto))
        found = resizing(facts, facts.nodes[0])
        assert isinstance(found, Resizing)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        same = []
        for height in (1, 2, 5, 33):
            x = np.arange(height, dtype=np.float32).reshape(1, 1, -1, 1)
            got = np.asarray(session.run(None, {"x": x})[0])
            same.append(np.array_equal(got.ravel(), np.arange(s * height) // s))
        assert (factors(found) == (s, 1)) == (all(same) and coordinates != "align_corners")


def test_scales_in_every_opset() -> None:
    signature = "g (float[N, 2, H, W] x) => (float[N, 2, P, Q] y)"
    attribute = f"{signature} {{ y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x) }}"
    scales = {"s": np.array([1, 1, 2, 3], np.float32)}
    for opset, text in (
        (7, attribute),
        (9, f"{signature} {{ y = Upsample (x, s) }}"),
        (10, f"{signature} {{ y = Resize (x, s) }}"),
        (11, f"{signature} <float[0] r = {{}}> {{ y = Resize (x, r, s) }}"),
        (13, f"{signature} {{ y = Resize (x, , s) }}"),
    ):
        found = read(text, scales if opset > 7 else None, opset)
        assert isinstance(found, Resizing), opset
        assert found.scales == (1, 1, 2, 3)
        assert factors(found) == (2, 3)


def test_sizes_and_axes() -> None:
    text = "g (float[N, 2, 4, 5] x) => (float[N, 2, P, Q] y) { y = Resize <axes = [-1, 2]> (x, , , t) }"
    found = read(text, {"t": np.array([15, 8])})
    assert isinstance(found, Resizing)
    assert found.scales == (1, 1, 2, 3)
    text = "g (float[N, 2, 4, W] x) => (float[N, 2, P, Q] y) { y = Resize (x, , , t) }"
    found = read(text, {"t": np.array([1, 2, 8, 5])})
    assert isinstance(found, Resizing)
    assert found.scales == (None, 1, 2, None)
    assert factors(found) == "the scales are not known before the run"


def test_what_is_no_plain_resize() -> None:
    assert read("g (float[N, 2, 4, 5] x) => (float[N, 2, 4, 5] y) { y = Relu (x) }") == "Relu is no Resize"
    text = "g (float[N, M] x) => (float[A, B] y) { y = Resize (x, , s) }"
    assert read(text, {"s": np.array([1, 2], np.float32)}) == "'x' is not known to be a map"
    for attributes in ('mode = "linear", antialias = 1', "exclude_outside = 1"):
        text = f"g (float[N, 2, 4, 5] x) => (float[N, 2, P, Q] y) {{ y = Resize <{attributes}> (x, , s) }}"
        found = read(text, {"s": np.array([1, 1, 2, 2], np.float32)})
        assert isinstance(found, Resizing)
        assert not found.plain
