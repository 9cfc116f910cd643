"""Smaller forms of fully connected layers: found in every spelling, exact where they can be, declined where unclear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.apply import apply
from onnxtune.calibrate import head_levels as head_levels_module
from onnxtune.calibrate import layer as layer_module
from onnxtune.calibrate import wide_heads
from onnxtune.calibrate.dataset import Dataset, specs_of
from onnxtune.calibrate.evidence import gather
from onnxtune.calibrate.head_forms import HeadForm, grid_maps, window
from onnxtune.calibrate.level import Level
from onnxtune.catalog import catalog
from onnxtune.errors import RuleError
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Decline
from onnxtune.propose import propose_levels
from onnxtune.runtime import CPU, Session, Target
from onnxtune.testing import model_of

RULE = next(r for r in catalog() if r.name == "replace_fc_head")
ONE = Target(CPU, {}, 1)
C, H, W, J = 6, 4, 5, 24
SPELLINGS = {
    "Flatten": "f = Flatten (x) y = Gemm <transB = 1> (f, w, b)",
    "Dropout": "d = Flatten (x) f = Dropout (d) y = Gemm <transB = 1> (f, w, b)",
    "MatMul": "f = Reshape (x, rows) m = MatMul (f, v) y = Add (m, b)",
    "no bias": "f = Flatten (x) y = MatMul (f, v)",
    "computed": "d = Shape (x) g = Gather (d, first) u = Unsqueeze (g, zero) t = Concat <axis = 0> (u, rest)"
    " f = Reshape (x, t) y = Gemm <transB = 1> (f, w, b)",
    "channels last": "t = Transpose <perm = [0, 2, 3, 1]> (x) f = Flatten (t) y = Gemm <transB = 1> (f, l, b)",
    "channels last, MatMul": "t = Transpose <perm = [0, 2, 3, 1]> (x) f = Reshape (t, rows) m = MatMul (f, q)"
    " y = Add (b, m)",
    "channels last, computed": "t = Transpose <perm = [0, 2, 3, 1]> (x) d = Shape (t) e = Slice (d, zero, one)"
    " s = Concat <axis = 0> (e, rest) f = Reshape (t, s) y = Gemm <transB = 1> (f, l, b)",
    "Conv": "c = Conv (x, k, b) y = Flatten (c)",
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def head(
    spelling: str, weight: NDArray[Any], size: tuple[int, int, int] = (C, H, W), opset: int = 17, kind: str = "float"
) -> onnx.ModelProto:
    """z = Relu of an input map, then the layer with weight (J, C H W) in this spelling, then a Relu."""
    c, h, w = size
    j, dtype = len(weight), np.float16 if kind == "float16" else np.float32
    body = SPELLINGS[spelling].replace("(x", "(z")
    arrays = {
        "w": weight,
        "v": weight.T.copy(),
        "l": weight.reshape(j, c, h, w).transpose(0, 2, 3, 1).reshape(j, -1),
        "q": weight.reshape(j, c, h, w).transpose(2, 3, 1, 0).reshape(-1, j),
        "k": weight.reshape(j, c, h, w),
        "b": rng(9).standard_normal(j),
    }
    numbers = {"rows": [-1, c * h * w], "first": 0, "zero": [0], "one": [1], "rest": [-1]}
    used = {n: a.astype(dtype) for n, a in arrays.items() if f" {n})" in body or f"({n}," in body or f" {n}," in body}
    used |= {n: np.array(a, np.int64) for n, a in numbers.items() if n in body}
    text = f"g ({kind}[N, {c}, {h}, {w}] x) => ({kind}[N, {j}] r) {{ z = Relu (x) {body} r = Relu (y) }}"
    return model_of(text, used, opset=opset)


def said_of(proto: onnx.ModelProto, **overrides: Any) -> list[Level | Decline]:
    model = Model(proto)
    sizes = {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in model.inputs}
    return propose_levels(Facts(model, sizes), [RULE], {RULE.name: overrides})


def levels_of(proto: onnx.ModelProto, **overrides: Any) -> dict[str, Level]:
    return {x.settings["size"]: x for x in said_of(proto, **overrides) if isinstance(x, Level)}


def reasons_of(proto: onnx.ModelProto) -> list[str]:
    return [x.reason for x in said_of(proto) if isinstance(x, Decline)]


def dataset(model: Model, x: NDArray[Any]) -> Dataset:
    name = model.inputs[0].name
    return Dataset("data", len(x), specs_of(model), lambda i: {name: x[i]}, str)


def refitted(model: Model, level: Level, x: NDArray[Any]) -> tuple[Model, float]:
    """The model with this level fitted to images x, and the level's error."""
    evidence = gather(level.layer, model, model, dataset(model, x), np.arange(len(x)), ONE, 0)
    fitted = level.fit(evidence, False)
    return apply(model, [fitted.proposal]), fitted.error


def run(model: Model, x: NDArray[Any]) -> NDArray[Any]:
    return Session(model, ONE, "disable").run({"x": x})[model.outputs[0].name].astype(np.float64)


def images(n: int, size: tuple[int, int, int] = (C, H, W), seed: int = 1) -> NDArray[np.float32]:
    return rng(seed).standard_normal((n, *size)).astype(np.float32)


def exactly(form: HeadForm, size: tuple[int, int, int], j: int = J) -> NDArray[np.float64]:
    """A weight (J, C H W) that the form can represent exactly."""
    c, h, w = size
    if form.rank:
        return rng(2).standard_normal((j, form.rank)) @ rng(3).standard_normal((form.rank, c * h * w)) / h
    maps = rng(4).standard_normal((form.maps, h * w)) if form.maps else grid_maps((h, w), form.grids)
    return (rng(5).standard_normal((j, c, len(maps))) @ maps).reshape(j, -1)


FORMS = [
    HeadForm("low_rank", "rank 8", rank=8),
    HeadForm("pyramid", "3x3 means", grids=((3, 3),)),
    HeadForm("pyramid", "2x2 means", grids=((2, 2),)),
    HeadForm("pyramid", "1x1 and 2x2 means", grids=((1, 1), (2, 2))),
    HeadForm("maps", "2 learned maps", maps=2),
    HeadForm("maps", "1 learned map", maps=1),
    HeadForm("gap", "global average pooling", grids=((1, 1),)),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_exact_where_the_form_can_be(spelling: str, form: HeadForm) -> None:
    model = Model(head(spelling, exactly(form, (C, H, W))))
    level = levels_of(model.proto)[form.name]
    after, error = refitted(model, level, images(200))
    onnx.checker.check_model(after.proto, full_check=True)
    x = images(7, seed=3)
    want = run(model, x)
    assert np.abs(run(after, x) - want).max() < 1e-3 * np.abs(want).max()
    assert error < 1e-3
    operators = {n.op_type for n in after.proto.graph.node}
    assert not operators & {"Transpose", "Dropout", "Shape", "MatMul"}


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_wide_layers_are_fitted_from_rows(form: HeadForm, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (layer_module, head_levels_module):
        monkeypatch.setattr(module, "WIDE", 64)
    model = Model(head("Flatten", exactly(form, (C, H, W))))
    level = levels_of(model.proto)[form.name]
    assert level.layer.wide
    evidence = gather(level.layer, model, model, dataset(model, images(200)), np.arange(200), ONE, 0)
    assert evidence.gathered is None
    first = level.fit(evidence, True).proposal.fragment.initializers  # a part of what serves larger ranks too
    second = level.fit(evidence, False).proposal.fragment.initializers
    assert [w.SerializeToString() for w in first] == [w.SerializeToString() for w in second]
    after, error = refitted(model, level, images(200))
    x = images(7, seed=3)
    want = run(model, x)
    close = 0.2 if form.maps > 1 else 2e-3  # several learned maps are only near the best ones there
    assert np.abs(run(after, x) - want).max() < close * np.abs(want).max()
    assert error < close


@pytest.mark.parametrize("dense", [1024, 4])
def test_both_ways_to_fit_agree(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `dense` 4 the leading eigenvectors are iterated for."""
    monkeypatch.setattr(wide_heads, "DENSE", dense)
    model = Model(head("Flatten", rng().standard_normal((J, C * H * W))))
    x, found = images(50), []
    for wide in (1000, 64):
        for module in (layer_module, head_levels_module):
            monkeypatch.setattr(module, "WIDE", wide)
        levels = levels_of(model.proto)
        names = ("rank 8", "2x2 means", "1x1 and 2x2 means", "global average pooling")
        found.append([refitted(model, levels[n], x) for n in names])
    for (one, error), (other, same) in zip(*found, strict=True):
        assert np.allclose(run(one, x), run(other, x), atol=1e-3)
        assert error == pytest.approx(same, rel=1e-3)


def test_every_unfitted_level_runs_and_is_smaller() -> None:
    model = Model(head("Flatten", rng().standard_normal((J, C * H * W))))
    levels = levels_of(model.proto)
    assert {"rank 8", "3x3 means", "global average pooling", "4 learned maps"} <= levels.keys()
    for level in levels.values():
        after = apply(model, [level.unfitted])
        onnx.checker.check_model(after.proto, full_check=True)
        assert run(after, images(3)).shape == (3, J)
        stored = sum(int(np.prod(i.dims)) for i in after.proto.graph.initializer if len(i.dims) > 1)
        assert level.macs < level.full_macs
        assert stored < J * C * H * W


def test_a_form_can_be_asked_for() -> None:
    proto = head("Flatten", rng().standard_normal((J, C * H * W)))
    assert list(levels_of(proto, form="gap")) == ["global average pooling"]
    assert {x.settings["form"] for x in levels_of(proto, form="maps").values()} == {"maps"}


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(RuleError, match="must be auto or one of gap"):
        levels_of(head("Flatten", rng().standard_normal((J, C * H * W))), form="mean")


def test_half_precision_and_old_opset() -> None:
    form = FORMS[-1]
    half = Model(head("Flatten", exactly(form, (C, H, W)) / 8, kind="float16"))
    after, _ = refitted(half, levels_of(half.proto)[form.name], images(100).astype(np.float16))
    x = images(5, seed=3).astype(np.float16)
    assert np.abs(run(after, x) - run(half, x)).max() < 2e-2 * np.abs(run(half, x)).max()
    old = Model(head("no bias", exactly(form, (C, H, W)), opset=9))
    after, _ = refitted(old, levels_of(old.proto)[form.name], images(100))
    onnx.checker.check_model(after.proto, full_check=True)


def test_a_redundant_pyramid_is_not_offered() -> None:
    """On a map of even size the mean over all of it follows from the means over its quarters."""
    proto = head("Flatten", rng().standard_normal((J, C * 16)), (C, 4, 4))
    assert "1x1 and 2x2 means" not in levels_of(proto)


@pytest.mark.parametrize(("size", "grid"), [((7, 7), (2, 2)), ((5, 8), (3, 3)), ((6, 6), (3, 2)), ((3, 4), (3, 2))])
def test_windows_cover_the_map(size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps = grid_maps(size, (grid,))
    assert len(maps) == grid[0] * grid[1]
    assert (maps.sum(0) > 0).all()
    assert np.allclose(maps.sum(1), 1)
    (kernel, strides) = window(size, grid)
    assert all((s - k) // t + 1 == g for s, k, t, g in zip(size, kernel, strides, grid, strict=True))


def test_layers_further_back_become_low_rank() -> None:
    weights = {
        "w": rng().standard_normal((40, 96)).astype(np.float32),
        "b": np.zeros(40, np.float32),
        "u": (rng(1).standard_normal((30, 8)) @ rng(2).standard_normal((8, 40))).astype(np.float32),
        "s": np.ones(40, np.float32),
        "t": np.zeros(40, np.float32),
    }
    text = """g (float[N, 6, 4, 4] x) => (float[N, 30] y) {
        f = Flatten (x) a = Gemm <transB = 1> (f, w, b) n = BatchNormalization (a, s, t, b, s)
        r = Relu (n) d = Dropout (r) y = Gemm <transB = 1> (d, u) }"""
    model = Model(model_of(text, weights))
    second = next(x for x in said_of(model.proto) if isinstance(x, Level) and x.layer.key == "y")
    assert second.settings == {"form": "low_rank", "size": "rank 8"}
    after, _ = refitted(model, second, images(100, (6, 4, 4)))
    x = images(5, (6, 4, 4), seed=4)
    assert np.allclose(run(after, x), run(model, x), atol=1e-2)


@pytest.mark.parametrize(
    "body",
    [
        "p = GlobalAveragePool (x) f = Flatten (p)",
        "p = GlobalMaxPool (x) f = Squeeze (p, axes)",
        "p = ReduceMean <axes = [2, 3], keepdims = 0> (x) f = Dropout (p)",
        "p = MaxPool <kernel_shape = [4, 4]> (x) f = Reshape (p, rows)",
        "t = Transpose <perm = [0, 2, 3, 1]> (x) f = ReduceMean <axes = [1, 2], keepdims = 0> (t)",
    ],
)
def test_features_of_a_pooled_map(body: str) -> None:
    """The layer behind a pool over the whole map has no map of its own: low rank is what there is."""
    weights = {"w": exactly(HeadForm("low_rank", "rank 8", rank=8), (40, 1, 1), 30), "b": rng(3).standard_normal(30)}
    numbers = {"axes": np.array([2, 3]), "rows": np.array([-1, 40])}
    used = {k: v.astype(np.float32) for k, v in weights.items()} | {k: v for k, v in numbers.items() if f"{k})" in body}
    text = f"g (float[N, 40, 4, 4] x) => (float[N, 30] y) {{ {body} y = Gemm <transB = 1> (f, w, b) }}"
    model = Model(model_of(text, used))
    levels = levels_of(model.proto)
    assert {x.settings["form"] for x in levels.values()} == {"low_rank"}
    after, _ = refitted(model, levels["rank 8"], images(100, (40, 4, 4)))
    x = images(5, (40, 4, 4), seed=4)
    assert np.allclose(run(after, x), run(model, x), atol=1e-3)


def test_a_conv_on_one_pixel_becomes_low_rank() -> None:
    """As fully convolutional exports write the layers after the first."""
    second = (rng(1).standard_normal((30, 8)) @ rng(2).standard_normal((8, 40))).reshape(30, 40, 1, 1)
    weights = {"w": rng().standard_normal((40, 6, 4, 4)), "u": second, "b": rng(3).standard_normal(30)}
    text = """g (float[N, 6, 4, 4] x) => (float[N, 30, 1, 1] y) {
        a = Conv (x, w) r = Relu (a) c = Conv (r, u, b) y = Sigmoid (c) }"""
    model = Model(model_of(text, {k: v.astype(np.float32) for k, v in weights.items()}))
    level = next(x for x in said_of(model.proto) if isinstance(x, Level) and x.layer.key == "c")
    assert level.settings == {"form": "low_rank", "size": "rank 8"}
    after, _ = refitted(model, level, images(100, (6, 4, 4)))
    x = images(5, (6, 4, 4), seed=4)
    assert np.allclose(run(after, x), run(model, x), atol=1e-3)


def test_branches_each_on_their_own() -> None:
    """Age and gender from the same features: either can be pooled, the other keeps its Flatten."""
    weights = {"w": rng(1).standard_normal((J, C * H * W)), "v": exactly(FORMS[-1], (C, H, W))}
    text = f"""g (float[N, {C}, {H}, {W}] x) => (float[N, {J}] age, float[N, {J}] gender) {{
        f = Flatten (x) age = Gemm <transB = 1> (f, w) gender = Gemm <transB = 1> (f, v) }}"""
    model = Model(model_of(text, {k: v.astype(np.float32) for k, v in weights.items()}))
    both = [x for x in said_of(model.proto, form="gap") if isinstance(x, Level)]
    assert [x.layer.key for x in both] == ["age", "gender"]
    x = images(100)
    evidence = [gather(b.layer, model, model, dataset(model, x), np.arange(100), ONE, 0) for b in both]
    fits = [b.fit(e, False).proposal for b, e in zip(both, evidence, strict=True)]
    after = apply(model, [fits[1]])
    outputs = [Session(m, ONE).run({"x": x}) for m in (model, after)]
    assert np.allclose(outputs[0]["age"], outputs[1]["age"])
    assert np.allclose(outputs[0]["gender"], outputs[1]["gender"], atol=1e-3)
    assert {n.op_type for n in apply(model, fits).proto.graph.node} == {"GlobalAveragePool", "Flatten", "Gemm"}


DEEP = """g (float[N, 6, 4, 5] x) => (float[N, 10] y) {
    f = Flatten (x) a = Gemm <transB = 1> (f, w, b) n = BatchNormalization (a, s, t, b, s) r = ACTIVATION (n)
    d = Dropout (r) m = MatMul (d, u) y = Add (m, v) }"""


def deep(activation: str, weight: NDArray[np.float64]) -> Model:
    """Two fully connected layers with everything that may stand between them."""
    weights = {"w": weight, "b": rng(6).standard_normal(J), "s": rng(7).random(J) + 0.5, "t": rng(8).standard_normal(J)}
    weights |= {"u": rng(9).standard_normal((J, 10)), "v": rng(10).standard_normal(10)}
    text = DEEP.replace("ACTIVATION", activation)
    return Model(model_of(text, {k: v.astype(np.float32) for k, v in weights.items()}))


@pytest.mark.parametrize("wide", [2048, 64])
def test_a_whole_classifier_as_one_layer(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact where nothing between the layers bends; otherwise as good as least squares can be."""
    monkeypatch.setattr(layer_module, "WIDE", wide)
    monkeypatch.setattr(head_levels_module, "WIDE", wide)
    for activation, error in (("Identity", 1e-3), ("Sigmoid", 0.5)):
        model = deep(activation, exactly(FORMS[-1], (C, H, W)) / 4)
        level = levels_of(model.proto, form="gap")["one layer"]
        assert level.layer.wide == (wide == 64)
        after, found = refitted(model, level, images(300))
        onnx.checker.check_model(after.proto, full_check=True)
        assert [n.op_type for n in after.proto.graph.node] == ["GlobalAveragePool", "Flatten", "Gemm"]
        assert found < error
        x = images(50, seed=5)
        want = run(model, x)
        rest = np.sqrt(np.square(run(after, x) - want).sum() / np.square(want - want.mean(0)).sum())
        assert rest == pytest.approx(found, abs=0.1)
    assert "one layer" not in levels_of(model.proto), "for those alone who ask for it"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("=> (", "=> (float[N, M] r, "),
        ("d = Dropout (r)", "e = Neg (r) d = Add (r, e)"),
        ("d = Dropout (r)", "d = Softmax (r)"),
        ("d = Dropout (r) m = MatMul (d, u)", "d = Transpose (r) e = Transpose (d) m = MatMul (e, u)"),
    ],
)
def test_a_classifier_that_others_look_into_stays(old: str, new: str) -> None:
    model = deep("Relu", rng().standard_normal((J, C * H * W)))
    text = DEEP.replace("ACTIVATION", "Relu").replace(old, new)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.proto.graph.initializer}
    assert list(levels_of(model_of(text, values), form="gap")) == ["global average pooling"]


BIG = {"w": rng().standard_normal((J, C * H * W)).astype(np.float32)}
GEMM = "Gemm <transB = 1>"


@pytest.mark.parametrize(
    ("body", "output", "reason"),
    [
        (f"f = Flatten (x) s = Softmax (f) y = {GEMM} (s, w)", f"N, {J}", "Softmax, not features"),
        (f"f = Flatten (x) a = {GEMM} (f, w) n = Neg (f) e = {GEMM} (n, w) y = Add (a, e)", f"N, {J}", "is shared"),
        (f"f = Reshape (x, s) y = {GEMM} (f, w)", "M, K", "not known to be images"),
        (f"t = Transpose <perm = [2, 0, 1, 3]> (x) f = Reshape (t, s) y = {GEMM} (f, w)", "M, K", "not known to be"),
        (f"f = Flatten (x) a = {GEMM} (f, w) m = ReduceMax (f) y = Add (a, m)", f"N, {J}", "read by a ReduceMax"),
    ],
)
def test_declines(body: str, output: str, reason: str) -> None:
    weights = {**BIG, "s": np.array([2, -1])} if ", s)" in body else BIG
    proto = model_of(f"g (float[N, {C}, {H}, {W}] x) => (float[{output}] y) {{ {body} }}", weights)
    reasons = reasons_of(proto)
    assert any(reason in r for r in reasons), reasons


def test_features_that_are_an_output_are_not_pooled() -> None:
    text = f"g (float[N, {C}, {H}, {W}] x) => (float[N, {J}] y, float[N, D] f) {{ f = Flatten (x) y = {GEMM} (f, w) }}"
    proto = model_of(text, BIG)
    assert any("graph output" in r for r in reasons_of(proto))
    assert {x.settings["form"] for x in levels_of(proto).values()} == {"low_rank"}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_heads(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    size = (draw(1, 6), draw(2, 7), draw(2, 7))
    spelling = data.draw(st.sampled_from(sorted(SPELLINGS)))
    form = data.draw(st.sampled_from(FORMS))
    j = draw(12, 30)
    proto = head(spelling, exactly(form, size, j), size)
    level = levels_of(proto).get(form.name)
    if level is None:
        return  # not smaller at this size
    model = Model(proto)
    after, _ = refitted(model, level, images(80, size))
    x = images(3, size, seed=8)
    want = run(model, x)
    assert np.abs(run(after, x) - want).max() < 5e-3 * max(np.abs(want).max(), 1e-3)
