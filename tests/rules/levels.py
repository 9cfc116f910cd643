"""What tests of calibrated convolution rules share: levels on a model with one convolution, fitted to random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.apply import apply
from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.forms import Form, candidates, compose, unfitted
from onnxtune.calibrate.layer import Layer
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.moments import Accumulator
from onnxtune.calibrate.patches import patches, positions_of, values
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Decline
from onnxtune.propose import propose_levels
from onnxtune.runtime import Level as OrtLevel
from onnxtune.runtime import Session, Target
from onnxtune.sizes import bind
from onnxtune.testing import model_of, rule_named
from onnxtune.windows import Window

LEVELS: tuple[OrtLevel, ...] = ("disable", "all")


def conv_model(
    weight: NDArray[Any], attributes: str = "pads = [2, 2, 2, 2]", size: str = "13, 11", tail: str = "y = Relu (c)"
) -> onnx.ModelProto:
    """Conv (with bias) and `tail` on a map x (N, C, *size)."""
    out, into = weight.shape[:2]
    text = (
        f"g (float[N, {into}, {size}] x) => (float[N, {out}, H, V] y) {{ c = Conv <{attributes}> (x, w, b)  {tail} }}"
    )
    bias = np.linspace(-1, 1, out).astype(weight.dtype)
    return model_of(text, {"w": weight, "b": bias})


def levels_of(rule: str, proto: onnx.ModelProto, **settings: Any) -> tuple[list[Level], list[Decline]]:
    model = Model(proto)
    said = propose_levels(Facts(model, bind(model).sizes), [rule_named(rule)], {rule: settings})
    return [s for s in said if isinstance(s, Level)], [s for s in said if isinstance(s, Decline)]


def evidence_of(layer: Layer, x: NDArray[Any], y: NDArray[Any]) -> Evidence:
    """From a map x and the layer's output y there."""
    assert layer.window is not None
    positions = positions_of(np.arange(len(x)), tuple(y.shape[2:]), 60, 0)
    rows, answers = patches(x, positions, layer.window), values(y, positions)
    found = Accumulator(layer.columns, layer.outputs)
    found.add(rows, answers)
    return Evidence(found.finish(), rows, answers, tuple(y.shape[2:]), 0)


def composed_weight(window: Window, name: str, channels: int, mid: int) -> NDArray[np.float32]:
    """A kernel (channels, channels, *kernel) that the form with this name and `mid` channels makes exactly."""
    form: Form = next(f for f in candidates(window) if f.name == name)
    factors = unfitted(form, (channels, channels), (mid,) * form.middles, np.random.default_rng(3))
    return np.asarray(compose(factors), np.float32)


def assert_recovers(rule: str, window: Window, name: str, *, channels: int = 8, mid: int = 4, group: str = "") -> None:
    """A kernel that has the form exactly is fitted to rounding, and the result is the same function elsewhere:
    other inputs, another batch, borders, both optimisation levels."""
    attributes = f"strides = {list(window.strides)}, dilations = {list(window.dilations)}, pads = {window.pads}{group}"
    proto = conv_model(composed_weight(window, name, channels, mid), attributes, tail="y = Identity (c)")
    found, _ = levels_of(rule, proto, ratios=[0.12, 0.16, 0.2, 0.3, 0.6, 0.95, 1.5], multiple=mid, min_share=0.0)
    wanted = [v for v in found if v.settings["form"] == name and set(v.settings["mid_channels"]) == {mid}]
    assert wanted, [dict(v.settings) for v in found]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, channels, 13, 11)).astype(np.float32)
    model = Model(proto)
    fitted = wanted[0].fit(evidence_of(wanted[0].layer, x, Session(model, Target()).run({"x": x})["y"]), False)
    assert fitted.error < 1e-3
    after = apply(model, [fitted.proposal])
    onnx.checker.check_model(after.proto, full_check=True)
    other = rng.standard_normal((3, channels, 13, 11)).astype(np.float32)
    for level in LEVELS:
        want, have = (Session(m, Target(), level).run({"x": other})["y"] for m in (model, after))
        np.testing.assert_allclose(have, want, atol=5e-3 * np.abs(want).max())


def assert_same_shapes(rule: str, proto: onnx.ModelProto, **settings: Any) -> list[Level]:
    """Every level's unfitted form runs, has the fitted one's shapes, and costs what it says."""
    found, _ = levels_of(rule, proto, min_share=0.0, **settings)
    assert found
    model = Model(proto)
    x = np.random.default_rng(0).standard_normal((8, *(bind(model).sizes["x"][1:]))).astype(np.float32)
    y = Session(model, Target()).run({"x": x}, ["y"])["y"]
    for level in found:
        bare = apply(model, [level.unfitted])
        assert Session(bare, Target()).run({"x": x})["y"].shape == y.shape
        fitted = level.fit(evidence_of(level.layer, x, y), True)
        shapes = [
            sorted((tuple(w.dims), w.data_type) for w in p.fragment.initializers)
            for p in (level.unfitted, fitted.proposal)
        ]
        assert shapes[0] == shapes[1], level.title
        assert level.macs < level.full_macs
        assert level.unfitted.safety == "calibrated"
    return found


def assert_declined(rule: str, proto: onnx.ModelProto, reason: str) -> None:
    found, declined = levels_of(rule, proto, min_share=0.0)
    assert not found
    assert any(reason in d.reason for d in declined), [d.reason for d in declined]


def random_weight(out: int, into: int, *kernel: int) -> NDArray[np.float32]:
    return np.asarray(np.random.default_rng(0).standard_normal((out, into, *kernel)) / 10, np.float32)


def near_misses() -> list[tuple[onnx.ModelProto, str]]:
    """(model, part of the reason) for what no calibrated convolution rule takes."""
    body = "{ y = Conv <pads = [2, 2, 2, 2]> (x, w) }"
    fed = f"g (float[N, 4, 9, 9] x, float[4, 4, 5, 5] w) => (float[N, 4, 9, 9] y) {body}"
    auto = 'strides = [2, 2], auto_pad = "SAME_UPPER"'
    double = random_weight(8, 8, 5, 5).astype(np.float64)
    wide = f"g (double[N, 8, 9, 9] x) => (double[N, 8, 9, 9] y) {body}"
    return [
        (_grouped(8, 8), "depthwise"),
        (_grouped(8, 2), "grouped"),
        (model_of(fed), "not constant"),
        (conv_model(random_weight(8, 8, 5, 5), auto), "auto_pad"),
        (model_of(wide, {"w": double}), "float64"),
    ]


def _grouped(channels: int, group: int) -> onnx.ModelProto:
    text = f"""g (float[N, {channels}, 9, 9] x) => (float[N, {channels}, 9, 9] y)
               {{ y = Conv <pads = [2, 2, 2, 2], group = {group}> (x, w) }}"""
    return model_of(text, {"w": random_weight(channels, channels // group, 5, 5)})


def check_conv_rule(rule: str) -> None:
    """What holds for each: levels run in the shapes that were timed, near misses are declined, 1x1 is not theirs."""

    @settings(max_examples=5, deadline=None)
    @given(
        st.tuples(st.integers(4, 12), st.integers(3, 9)),
        st.tuples(*[st.integers(0, 3)] * 4),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
        st.sampled_from([(5, 5), (3, 5), (7, 4)]),
    )
    def shapes(
        widths: tuple[int, int], pads: tuple[int, ...], strides: tuple[int, int], kernel: tuple[int, int]
    ) -> None:
        attributes = f"pads = {list(pads)}, strides = {list(strides)}"
        proto = conv_model(random_weight(*widths, *kernel), attributes)
        assert_same_shapes(rule, proto, multiple=1, ratios=[0.3, 0.7])

    shapes()
    for proto, reason in near_misses():
        assert_declined(rule, proto, reason)
    assert levels_of(rule, conv_model(random_weight(8, 8, 1, 1), "pads = [0, 0, 0, 0]"), min_share=0.0) == ([], [])
