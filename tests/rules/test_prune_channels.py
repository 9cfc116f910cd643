"""prune_channels: channels go, and the layer that reads them makes up for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import LEVELS, evidence_of, levels_of
from numpy.typing import NDArray

from onnxtune.apply import apply
from onnxtune.calibrate.capture import exposing
from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.layer import Layer
from onnxtune.calibrate.level import Level, Look, combinable
from onnxtune.calibrate.moments import Accumulator
from onnxtune.calibrate.prune_levels import ladder
from onnxtune.channels.cost import Target as Shapes
from onnxtune.model import Model
from onnxtune.proposal import Proposal, overlap
from onnxtune.runtime import Session, Target
from onnxtune.testing import model_of

RULE = "prune_channels"
CHAIN = (
    "c = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu (c)  y = Conv <pads = [1, 0, 0, 1], strides = [2, 1]> (r, v, b)"
)
BLOCK = """c = Conv (x, p)  r = Relu (c)  d = Conv <pads = [1, 1, 1, 1], group = 20> (r, d1)  e = Clip (d, low, high)
           y = Conv (e, q)"""
HEAD = """c = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu (c)  m = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (r)
          f = Flatten (m)  y = Gemm <transB = 1> (f, g, h)"""


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return np.asarray(values / np.sqrt(np.prod(shape[1:], dtype=float) or 1), np.float32)


STORED: dict[str, Any] = {
    "u": random(20, 6, 3, 3),
    "v": random(7, 20, 3, 3),
    "b": random(7),
    "p": random(20, 6, 1, 1),
    "d1": random(20, 1, 3, 3),
    "q": random(9, 20, 1, 1),
    "g": random(5, 180),
    "h": random(5),
    "low": np.array(0, np.float32),
    "high": np.array(6, np.float32),
    "k": random(20, 5, 3, 3),
    "w": random(20, 20, 3, 3),
    "w2": random(20, 20, 1, 1, seed=1),
    "v26": random(7, 26, 3, 3),
    "s6": random(6, 6, 1, 1),
    "half": np.array(0.5, np.float32),
    "two": np.array(2, np.float32),
}


def model(body: str, y: str = "A, B, C, D", **other: Any) -> onnx.ModelProto:
    stored = {**STORED, **other}
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return model_of(
        f"g (float[N, 6, 9, 10] x) => (float[{y}] y) {{ {body} }}", {k: v for k, v in stored.items() if k in words}
    )


def seen(level: Level, proto: onnx.ModelProto, x: NDArray[np.float32]) -> Evidence:
    layer = level.layer
    values = Session(exposing(Model(proto), [layer.x, layer.y]), Target(), "disable").run({"x": x})
    if layer.window is not None:
        return evidence_of(layer, values[layer.x], values[layer.y])
    found, rows = Accumulator(layer.columns, layer.outputs), values[layer.x].reshape(len(x), -1)
    found.add(rows, values[layer.y])
    return Evidence(found.finish(), rows, values[layer.y], (), 0)


def looking(proto: onnx.ModelProto, x: NDArray[np.float32]) -> Look:
    """What layers see of x; their answers are those of the unchanged network."""

    def look(layer: Layer, change: Proposal | None) -> Evidence:
        student = Model(proto) if change is None else apply(Model(proto), [change])
        onnx.checker.check_model(student.proto, full_check=True)
        rows = Session(exposing(student, [layer.x]), Target(), "disable").run({"x": x})[layer.x]
        answers = Session(exposing(Model(proto), [layer.y]), Target(), "disable").run({"x": x})[layer.y]
        assert layer.window is not None
        return evidence_of(layer, rows, answers)

    return look


def inputs(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 6, 9, 10)).astype(np.float32)


def outputs(proto: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[Any]]:
    return [Session(Model(proto), Target(), level).run({"x": x})["y"] for level in LEVELS]


@pytest.mark.parametrize(("body", "y"), [(CHAIN, "A, B, C, D"), (BLOCK, "A, B, C, D"), (HEAD, "A, B")])
def test_fires_and_beats_plain_removal_on_other_inputs(body: str, y: str) -> None:
    proto = model(body, y)
    found, _ = levels_of(RULE, proto, min_share=0.0)
    assert found
    evidence = seen(found[0], proto, inputs(400, 0))
    x = inputs(50, 1)
    want = outputs(proto, x)
    errors = []
    for level in found:
        fitted = level.fit(evidence, False)
        after = apply(Model(proto), [fitted.proposal]).proto
        onnx.checker.check_model(after, full_check=True)
        have = outputs(after, x)
        np.testing.assert_allclose(have[0], have[1], atol=1e-4)
        assert any(list(w.dims[:1]) == [level.settings["channels"]] for w in after.graph.initializer)
        plain = apply(Model(proto), [level.unfitted]).proto
        shapes = [
            sorted((w.data_type, tuple(w.dims)) for w in m.graph.initializer if w.name != "b") for m in (plain, after)
        ]
        assert {s for s in shapes[0] if len(s[1]) > 1} == {s for s in shapes[1] if len(s[1]) > 1}
        fit, bare = (float(np.square(o - want[0]).mean()) for o in (have[0], outputs(plain, x)[0]))
        assert fit < bare
        errors.append(fitted.error)
    assert errors == sorted(errors), "the fewer channels, the larger the error"


def test_channels_that_others_add_up_to_cost_nothing() -> None:
    """Without an activation, 4 of 20 channels are combinations of the others."""
    u = random(20, 6, 3, 3)
    u[16:] = np.einsum("ij,jabc->iabc", random(4, 16), u[:16])
    proto = model(CHAIN.replace("Relu", "Identity"), u=u)
    (level, *_) = [v for v in levels_of(RULE, proto, min_share=0.0)[0] if v.settings["channels"] == 16]
    fitted = level.fit(seen(level, proto, inputs(400, 0)), False)
    x = inputs(20, 1)
    want, have = outputs(proto, x), outputs(apply(Model(proto), [fitted.proposal]).proto, x)
    for a, b in zip(want, have, strict=True):
        assert np.sqrt(np.square(b - a).mean() / np.square(a).mean()) < 0.01, "what is left is the ridge"


@settings(max_examples=10, deadline=None)
@given(
    st.integers(9, 40), st.integers(1, 12), st.tuples(*[st.integers(0, 2)] * 4), st.sampled_from(["Relu", "Sigmoid"])
)
def test_any_chain(width: int, out: int, pads: tuple[int, ...], activation: str) -> None:
    body = f"c = Conv (x, u)  r = {activation} (c)  y = Conv <pads = {list(pads)}> (r, v)"
    proto = model(body, u=random(width, 6, 3, 3), v=random(out, width, 3, 3))
    found, _ = levels_of(RULE, proto, min_share=0.0)
    evidence = seen(found[-1], proto, inputs(200, 0))
    fitted = found[-1].fit(evidence, True)
    after = apply(Model(proto), [fitted.proposal]).proto
    x = inputs(30, 1)
    want, have = outputs(proto, x)[0], outputs(after, x)
    np.testing.assert_allclose(have[0], have[1], atol=1e-4)
    spread = np.sqrt(np.square(want - want.mean((0, 2, 3), keepdims=True)).mean())
    assert np.sqrt(np.square(have[0] - want).mean()) < spread, "better than the mean"


TWO_READERS = (
    "c = Conv <pads = [1,1,1,1]> (x, u)  r = Relu (c)  a = Conv (r, v)  s = Relu (a)  e = Conv (r, v2)  y = Add (s, e)"
)
RESIDUAL = """c = Conv <pads = [1,1,1,1]> (x, u)  r = Relu (c)
              t = Conv <pads = [1,1,1,1]> (r, w)  a = Add (t, r)  s = Relu (a)
              i = Conv (s, p2)  j = Relu (i)  k2 = Conv <pads = [1,1,1,1]> (j, u)  m = Add (k2, s)  n = Relu (m)
              y = Conv (n, v, b)"""


@pytest.mark.parametrize(("body", "readers"), [(TWO_READERS, 2), (RESIDUAL, 3)])
def test_channels_that_several_layers_read(body: str, readers: int) -> None:
    """All of them make up for what is gone, in order, also where they write to the channels that they read."""
    proto = model(body, v2=random(7, 20, 3, 3, seed=2), p2=random(6, 20, 1, 1))
    found = [v for v in levels_of(RULE, proto, min_share=0.0)[0] if v.joint is not None]
    assert found
    x, errors = inputs(50, 1), []
    want = outputs(proto, x)[0]
    for level in found:
        assert level.joint is not None
        looked: list[tuple[str, bool]] = []
        seeing = looking(proto, inputs(200, 0))

        def look(layer: Layer, change: Proposal | None, seeing: Look = seeing, looked: Any = looked) -> Evidence:
            looked.append((layer.y, change is not None))
            return seeing(layer, change)

        fitted, rough = level.joint(look, False), level.joint(seeing, True)
        assert len({y for y, _ in looked}) == readers
        assert sum(changed for _, changed in looked) == readers - 1
        after = apply(Model(proto), [fitted.proposal]).proto
        onnx.checker.check_model(after, full_check=True)
        have = outputs(after, x)
        np.testing.assert_allclose(have[0], have[1], atol=1e-4)
        plain, rough_ones = (outputs(apply(Model(proto), [p]).proto, x)[0] for p in (level.unfitted, rough.proposal))
        fit, quick, bare = (float(np.square(o - want).mean()) for o in (have[0], rough_ones, plain))
        assert fit < 0.7 * bare
        assert quick < bare
        errors.append(fit)
    assert errors == sorted(errors), "the fewer channels, the larger the error"


def test_channels_that_nobody_needs_go_from_a_residual_stream() -> None:
    """What is zero, or doubled, in all writers goes first and costs nothing."""
    weights = {k: STORED[k].copy() for k in ("u", "w", "v")}
    weights["u"][16:18], weights["w"][16:18] = 0, 0
    weights["u"][18:], weights["w"][18:] = weights["u"][:2], weights["w"][:2]
    body = """c = Conv <pads = [1,1,1,1]> (x, u)  r = Relu (c)  t = Conv <pads = [1,1,1,1]> (r, w)  a = Add (t, r)
              e = Relu (a)  y = Conv (e, v, b)"""
    proto = model(body, **weights)
    level = next(v for v in levels_of(RULE, proto, min_share=0.0)[0] if v.settings["channels"] == 16)
    assert level.joint is not None
    after = apply(Model(proto), [level.joint(looking(proto, inputs(200, 0)), False).proposal]).proto
    x = inputs(20, 1)
    for a, b in zip(outputs(proto, x), outputs(after, x), strict=True):
        assert np.sqrt(np.square(b - a).mean() / np.square(a).mean()) < 0.01, "what is left is the ridge"


@pytest.mark.parametrize(
    ("channels", "provider", "kept"),
    [
        (70, "cpu", {68, 64, 48, 32, 16}),
        (30, "cpu", {28, 24, 20, 12, 8, 16}),
        (65, "cuda", {64, 48, 32, 16}),
        (44, "cuda", {40}),
    ],
)
def test_the_ladder_has_what_kernels_like(
    channels: int, provider: str, kept: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapes, "of", staticmethod(lambda p: Shapes(p, 16 if p == "cpu" else 0)))
    found = ladder(channels, {"provider": provider, "multiple": 0, "ratios": [0.75, 0.5, 0.35]})
    assert kept <= set(found), found
    assert found == sorted(found, reverse=True)
    assert all(c % 4 == 0 and c < channels for c in found)
    assert ladder(channels, {"provider": provider, "multiple": 10, "ratios": []}) == [(channels - 1) // 10 * 10]


def test_several_classes_of_one_network() -> None:
    """Classes that do not touch: the regions share no node and no new name."""
    body = """a = Conv (x, u)  r = Relu (a)  c = Conv (r, k1)  s = Relu (c)  d = Conv (s, u1)  t = Relu (d)
              y = Conv (t, v1)"""
    weights = {"k1": random(6, 20, 1, 1), "u1": random(24, 6, 3, 3), "v1": random(4, 24, 1, 1)}
    proto = model(body, **weights)
    found, _ = levels_of(RULE, proto, min_share=0.0, ratios=[0.5])
    first = next(v for v in found if v.layer.y == "c")
    last = next(v for v in found if v.layer.y == "y")
    fitted = [v.fit(seen(v, proto, inputs(100, 0)), True).proposal for v in (first, last)]
    after = apply(Model(proto), fitted).proto
    onnx.checker.check_model(after, full_check=True)
    assert outputs(after, inputs(2, 1))[0].shape == outputs(proto, inputs(2, 1))[0].shape


def test_classes_next_to_each_other_become_one_level() -> None:
    """The layer between them loses rows and columns; each layer is refitted on what the one before has become."""
    body = """a = Conv (x, u)  r = Relu (a)  c = Conv (r, k2)  s = Relu (c)  d = Conv (s, u2)  t = Relu (d)
              y = Conv (t, v1)"""
    weights = {"k2": random(24, 20, 1, 1), "u2": random(28, 24, 3, 3), "v1": random(4, 28, 1, 1)}
    proto = model(body, **weights)
    found = levels_of(RULE, proto, min_share=0.0, ratios=[0.75], multiple=4)[0]
    chosen = [next(v for v in found if v.layer.y == name and v.settings["channels"] < 22) for name in "cdy"]
    assert overlap(chosen[0].unfitted, chosen[1].unfitted)
    assert not overlap(chosen[0].unfitted, chosen[2].unfitted)
    assert combinable(chosen[0], chosen[1])
    assert not combinable(chosen[0], next(v for v in found if v.layer.y == "c" and v is not chosen[0]))
    together = chosen[0].together
    assert together is not None
    one = together([part for v in reversed(chosen) for part in v.parts])
    assert len({one.identity, *(v.identity for v in chosen)}) == 4
    assert one.joint is not None
    x, seeing = inputs(50, 1), looking(proto, inputs(200, 0))
    want = outputs(proto, x)[0]
    after = apply(Model(proto), [one.joint(seeing, False).proposal]).proto
    onnx.checker.check_model(after, full_check=True)
    widths = [next(w.dims[1] for w in after.graph.initializer if w.name == n.input[1]) for n in convs(after)]
    assert widths == [6, *(v.settings["channels"] for v in chosen)]
    have = outputs(after, x)
    np.testing.assert_allclose(have[0], have[1], atol=1e-4)
    rough, bare = (
        outputs(apply(Model(proto), [p]).proto, x)[0] for p in (one.joint(seeing, True).proposal, one.unfitted)
    )
    in_order, alone, not_at_all = (float(np.square(o - want).mean()) for o in (have[0], rough, bare))
    assert in_order < alone < not_at_all


def convs(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in proto.graph.node if n.op_type == "Conv"]


def test_the_same_again() -> None:
    proto = model(CHAIN)
    level = levels_of(RULE, proto, min_share=0.0)[0][0]
    evidence = seen(level, proto, inputs(100, 0))
    one, two = (level.fit(evidence, False).proposal.fragment for _ in range(2))
    assert [w.SerializeToString() for w in one.initializers] == [w.SerializeToString() for w in two.initializers]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            """c = Conv <pads = [1,1,1,1]> (x, u)  r = Relu (c)  z = Conv (x, s6)  a = Concat <axis = 1> (r, z)
               e = Conv (a, v26)  f = Conv (r, v)  y = Add (e, f)""",
            "together with others",
        ),
        ("c = Conv <pads = [1,1,1,1]> (x, u)  r = Relu (c)  y = Conv <group = 4> (r, k)", "group"),
        ("c = Conv <pads = [1,1,1,1]> (x, u)  s = Softmax <axis = 1> (c)  y = Conv (s, v, b)", "Softmax"),
        ("c = Conv (x, u)  r = Relu (c)  e = Conv (r, v, b)  y = Sqrt (e)", "must stay positive"),
        ("c = Conv (x, u)  r = Relu (c)  e = Conv (r, v, b)  y = Pow (e, half)", "must stay positive"),
        ("c = Conv (x, u)  r = Relu (c)  e = Conv (r, v, b)  l = Log (e)  y = Relu (l)", "takes the Log"),
    ],
)
def test_declines(body: str, reason: str) -> None:
    found, declined = levels_of(RULE, model(body), min_share=0.0)
    assert not found, [f.title for f in found]
    assert any(reason in d.reason for d in declined), [d.reason for d in declined]


def test_a_square_is_finite_for_all_numbers() -> None:
    found, _ = levels_of(
        RULE, model("c = Conv (x, u)  r = Relu (c)  e = Conv (r, v, b)  y = Pow (e, two)"), min_share=0.0
    )
    assert found


def test_a_graph_output_keeps_its_channels() -> None:
    text = f"g (float[N, 6, 9, 10] x) => (float[A, B, C, D] y, float[N, 20, 9, 10] r) {{ {CHAIN} }}"
    proto = model_of(text, {k: STORED[k] for k in ("u", "v", "b")})
    found, declined = levels_of(RULE, proto, min_share=0.0)
    assert not found
    assert any("graph output" in d.reason for d in declined)


def test_fed_weights_are_not_refitted() -> None:
    text = f"g (float[N, 6, 9, 10] x, float[7, 20, 3, 3] v) => (float[A, B, C, D] y) {{ {CHAIN} }}"
    found, _ = levels_of(RULE, model_of(text, {k: STORED[k] for k in ("u", "b")}), min_share=0.0)
    assert not found
