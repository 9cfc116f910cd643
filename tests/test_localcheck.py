"""The float64 check of a region: sees what end-to-end tolerances hide, and is no stricter than it may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from runtimes import needs_deform_conv

from onnxtune import localcheck
from onnxtune.localcheck import check_region
from onnxtune.model import Model
from onnxtune.testing import model_of

RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
B = RNG.standard_normal(6).astype(np.float32)


def region(nodes: str, x: str = "float[2, 4, 9, 7] x", y: str = "float[A, B, C, D] y", **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> region ({x}) => ({y}) {{ {nodes} }}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items())
    onnx.checker.check_model(proto)
    return Model(proto)


CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"


def test_the_same_is_the_same() -> None:
    verdict = check_region(region(CONV, w=W, b=B), region(CONV, w=W, b=B))
    assert verdict.ok
    assert verdict.error == 0


def test_rounding_of_new_weights_is_allowed() -> None:
    """A scale folded into weights in float32: right to a few units in the last place."""
    scale = RNG.uniform(0.3, 3, 6).astype(np.float32)
    before = region(f"{CONV.replace('y =', 'c =')}  y = Mul (c, s)", w=W, b=B, s=scale[None, :, None, None])
    after = region(CONV, w=W * scale[:, None, None, None], b=B * scale)
    verdict = check_region(before, after)
    assert verdict.ok
    assert 0 < verdict.error < 1e-6


@pytest.mark.parametrize("factor", [1 + 1e-4, 0.999])
def test_one_wrong_weight_of_one_channel(factor: float) -> None:
    wrong = W.copy()
    wrong[3, 2, 1, 1] *= factor
    verdict = check_region(region(CONV, w=W, b=B), region(CONV, w=wrong, b=B))
    assert verdict.ok is False
    assert "'y' differs by" in verdict.reason


def test_a_wrong_border() -> None:
    before = region(CONV, w=W, b=B)
    after = region('p = Pad <mode = "edge"> (x, q)  y = Conv (p, w, b)', w=W, b=B, q=np.array([0, 0, 1, 1] * 2))
    assert check_region(before, after).ok is False


def test_a_wrong_channel_among_much_larger_ones() -> None:
    """The whole tensor's scale would hide it."""
    large = W * np.array([1e6, 1, 1, 1, 1, 1], np.float32)[:, None, None, None]
    wrong = large.copy()
    wrong[0] = large[0]
    wrong[4] *= 1.5
    assert check_region(region(CONV, w=large, b=B), region(CONV, w=wrong, b=B)).ok is False


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Relu (x)", "z = Constant <value_float = 0.0> ()  r = Relu (x)  y = Div (r, z)"),
        ("y = Relu (x)", "z = Constant <value_float = 0.0> ()  r = Sub (x, x)  y = Div (r, z)"),
    ],
    ids=["infinite", "NaN"],
)
def test_what_is_not_finite(before: str, after: str) -> None:
    assert check_region(region(before), region(after)).ok is False


def test_an_infinity_hides_no_error_beside_it() -> None:
    """1/0 in one place of a channel; another place of that channel is wrong."""
    before = region("y = Div (x, s)", s=np.array([0, 1, 1, 1, 1, 1, 1], np.float32))
    after = region("y = Div (x, s)", s=np.array([0, 2, 1, 1, 1, 1, 1], np.float32))
    assert check_region(before, before).ok
    assert check_region(before, after).ok is False


def test_another_shape_or_type() -> None:
    before = region("y = Relu (x)")
    assert check_region(before, region("r = Relu (x)  y = Concat <axis = 0> (r, r)")).ok is False
    assert check_region(before, region("r = Relu (x)  y = Cast <to = 7> (r)", y="int64[A, B, C, D] y")).ok is False


def test_integer_results_are_equal_or_wrong() -> None:
    before = region("y = ArgMax <axis = 1> (x)", y="int64[A, B, C, D] y")
    assert check_region(before, before).ok
    after = region("y = ArgMin <axis = 1> (x)", y="int64[A, B, C, D] y")
    assert check_region(before, after).ok is False


def test_half_precision_weights_are_rounded_more() -> None:
    w, scale = W.astype(np.float16), np.float16(1.7)
    kinds = {"x": "float16[2, 4, 9, 7] x", "y": "float16[A, B, C, D] y"}
    before = region("c = Conv (x, w)  y = Mul (c, s)", **kinds, w=w, s=scale)
    assert check_region(before, region("y = Conv (x, w)", **kinds, w=w * scale)).ok
    assert check_region(before, region("y = Conv (x, w)", **kinds, w=w * np.float16(1.9))).ok is False


def test_a_region_without_inputs() -> None:
    before = region("c = Constant <value_floats = [1.0, 2.0]> ()  y = Relu (c)", "", "float[A] y")
    assert check_region(before, region("y = Identity (k)", "", "float[A] y", k=np.array([1, 2], np.float32))).ok
    wrong = region("y = Identity (k)", "", "float[A] y", k=np.array([1, 3], np.float32))
    assert check_region(before, wrong).ok is False


# --- sizes -----------------------------------------------------------------------------------------------

LARGE = "float[1, 4, 40, 36] x"


def test_large_maps_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = localcheck._evaluate
    monkeypatch.setattr(localcheck, "_evaluate", lambda m, f: (seen.append(f["x"].shape), real(m, f))[1])
    assert check_region(region(CONV, LARGE, w=W, b=B), region(CONV, LARGE, w=W, b=B)).ok
    assert set(seen) == {(1, 4, 13, 17)}


def test_operators_that_know_the_size_are_checked_at_the_size() -> None:
    text = "f = Reshape (x, s)  y = MatMul (f, m)"
    m = RNG.standard_normal((4 * 40 * 36, 5)).astype(np.float32)
    flat = {"y": "float[A, B] y", "s": np.array([1, 4 * 40 * 36]), "m": m}
    before = region(text, LARGE, **flat)
    assert check_region(before, region("f = Flatten (x)  y = MatMul (f, m)", LARGE, y="float[A, B] y", m=m)).ok
    assert check_region(before, region(text, LARGE, **{**flat, "m": np.roll(m, 1)})).ok is False


def test_a_rewrite_that_holds_at_the_declared_size_only() -> None:
    """A pool over the whole of a 40 x 36 map is global; on a smaller map it would be nothing at all."""
    before = region("y = AveragePool <kernel_shape = [40, 36]> (x)", LARGE)
    assert check_region(before, region("y = GlobalAveragePool (x)", LARGE)).ok
    assert check_region(before, region("y = GlobalMaxPool (x)", LARGE)).ok is False


def test_regions_too_large_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localcheck, "MAC_LIMIT", 10)
    before = region(CONV, w=W, b=B)
    assert check_region(before, region(CONV, w=W * np.float32(1 + 1e-7), b=B)).ok
    verdict = check_region(before, region(CONV, w=W * np.float32(1.01), b=B))
    assert verdict.ok is False
    assert "region check" in verdict.reason


@needs_deform_conv
def test_a_deformable_convolution_is_left_to_onnx_runtime() -> None:
    """The reference would take minutes: it goes tap by tap in Python."""
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32)
    shape = "g (float[1, 32, 13, 17] x) => (float[A, B, C, D] y)"
    offsets = np.zeros((1, 18, 13, 17), np.float32)
    deformed = f"{shape} {{ y = DeformConv <pads = [1, 1, 1, 1]> (x, w, o) }}"
    before = Model(model_of(deformed, {"w": weight, "o": offsets}, opset=19))
    plain = f"{shape} {{ y = Conv <pads = [1, 1, 1, 1]> (x, w) }}"
    assert check_region(before, Model(model_of(plain, {"w": weight}, opset=19))).ok
    verdict = check_region(before, Model(model_of(plain, {"w": weight * np.float32(1.01)}, opset=19)))
    assert "region check" in verdict.reason


def test_what_the_reference_cannot_evaluate() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.example": 1]>'
        " region (float[2] x) => (float[2] y) { y = com.example.Odd (x) }"
    )
    verdict = check_region(Model(proto), Model(proto))
    assert verdict.ok is None
    assert "cannot evaluate the region" in verdict.reason


def test_what_only_onnx_runtime_can_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[Any]:
        raise NotImplementedError("operator")

    monkeypatch.setattr(localcheck, "_evaluate", refuse)
    assert check_region(region(CONV, w=W, b=B), region(CONV, w=W, b=B)).ok
    assert check_region(region(CONV, w=W, b=B), region(CONV, w=W * 2, b=B)).ok is False


@pytest.mark.parametrize(
    "constant",
    [
        "k = Constant <value_float = 0.1> ()",
        "k = Constant <value_floats = [0.1]> ()",
        "k = Constant <value = float {0.1}> ()",
        "n = Constant <value_ints = [1]> ()  z = ConstantOfShape (n)  k = Exp (z)",
        "n = Constant <value_ints = [1]> ()  k = ConstantOfShape <value = float[1] {0.1}> (n)",
        "n = Constant <value_int = 3> ()  k = Cast <to = 1> (n)",
    ],
)
def test_constants_of_all_kinds_become_float64(constant: str) -> None:
    before = region(f"{constant}  y = Mul (x, k)")
    assert localcheck._evaluate(before, {"x": np.ones((2, 4, 9, 7))})[0].dtype == np.float64
    assert check_region(before, region(f"{constant}  y = Mul (k, x)")).ok
    assert check_region(before, region(f"{constant}  m = Mul (x, k)  y = Mul (m, k)")).ok is ("Exp" in constant)


def test_where_the_reference_is_wrong_onnx_runtime_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's answer for the original is off: a right rewrite must not pay for it."""
    real = localcheck._evaluate
    calls = []

    def evaluate(model: Model, feeds: Any) -> list[Any]:
        calls.append(model)
        return [v * (1.5 if len(calls) == 1 else 1.0) for v in real(model, feeds)]

    monkeypatch.setattr(localcheck, "_evaluate", evaluate)
    assert check_region(region(CONV, w=W, b=B), region(CONV, w=W, b=B)).ok
    calls.clear()
    assert check_region(region(CONV, w=W, b=B), region(CONV, w=W * 2, b=B)).ok is False


def test_where_the_reference_is_wrong_about_the_rewrite() -> None:
    """onnx's reference adds the first group's bias to every group of a ConvTranspose."""
    w, shift = RNG.standard_normal((4, 1, 1, 1)).astype(np.float32), np.array([1, 2, 3, 4], np.float32)
    before = region("c = ConvTranspose <group = 4> (x, w)  y = Add (c, s)", w=w, s=shift[:, None, None])
    after = "y = ConvTranspose <group = 4> (x, w, b)"
    assert check_region(before, region(after, w=w, b=shift)).ok
    assert check_region(before, region(after, w=w, b=shift * 2)).ok is False


def test_where_the_reference_gives_another_shape() -> None:
    """onnx's reference takes every map of a global pool to have two axes."""
    text = {"x": "float[2, 4, 9] x", "y": "float[A, B, C] y"}
    before = region("y = GlobalMaxPool (x)", **text)
    assert check_region(before, region("y = ReduceMax <axes = [2]> (x)", **text)).ok
    assert check_region(before, region("y = ReduceMin <axes = [2]> (x)", **text)).ok is False


def test_it_leaves_the_regions_alone() -> None:
    before, after = region(CONV, w=W, b=B), region(CONV, w=W, b=B)
    copy = region(CONV, w=W, b=B)
    check_region(before, after)
    assert before.proto == after.proto == copy.proto


def test_the_seed_decides() -> None:
    before, after = region(CONV, w=W, b=B), region(CONV, w=W * np.float32(1 + 3e-7), b=B)
    assert check_region(before, after, 0) == check_region(before, after, 0)
    assert check_region(before, after, 0).error != check_region(before, after, 1).error


def test_model_of_is_for_whole_models() -> None:
    """The helper of rule authors checks shapes fully; regions here leave theirs open on purpose."""
    with pytest.raises(onnx.shape_inference.InferenceError):
        model_of("g (float[2, 3] x) => (float[9] y) { y = Relu (x) }")


def test_a_small_value_of_a_matrix_is_no_scale() -> None:
    """Two layers merged in float32: of 1000 sums of random sign some nearly cancel, which is no error."""
    first, second = (RNG.standard_normal(s).astype(np.float32) for s in ((1000, 256), (1000, 1000)))
    ends = {"x": "float[1, 256] x", "y": "float[A, B] y"}
    before = region("t = Gemm <transB = 1> (x, v)  y = Gemm <transB = 1> (t, w)", v=first, w=second, **ends)
    merged = (second.astype(np.float64) @ first).astype(np.float32)
    verdict = check_region(before, region("y = Gemm <transB = 1> (x, w)", w=merged, **ends))
    assert verdict.ok
    assert 0 < verdict.error < 1e-6
    merged[3] *= 1 + 1e-4
    assert check_region(before, region("y = Gemm <transB = 1> (x, w)", w=merged, **ends)).ok is False


def test_a_size_from_outside_cannot_be_made_up() -> None:
    """Expand to a random shape may give an empty map, which ONNX Runtime joins to anything."""
    nodes = "e = Expand (x, s)  y = Neg (e)"
    model = region(nodes, "float[2, 4, 9, 7] x, int64[4] s")
    verdict = check_region(model, model)
    assert verdict.ok is None
    assert "'s' is a size" in verdict.reason
