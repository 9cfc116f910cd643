"""replace_fc_head: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.rulebook.replace_fc_head import constant_block
from onnxtune.testing import assert_declines, assert_rewrites, model_of, said_by

RULE = "replace_fc_head"
C, H, W, J = 4, 3, 5, 6


def model(
    body: str, x: str = f"N, {C}, {H}, {W}", y: str = "N, J", opset: int = 17, kind: str = "float", **weights: object
) -> onnx.ModelProto:
    arrays = {k: np.asarray(v) for k, v in weights.items()}
    return model_of(f"g ({kind}[{x}] x) => ({kind}[{y}] y) {{ {body} }}", arrays, opset=opset)


def random(*shape: int, dtype: type = np.float32) -> NDArray[np.floating]:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def constant_over_map(
    j: int = J, c: int = C, h: int = H, w: int = W, block: tuple[int, int] = (0, 0), *, last: bool = False
) -> NDArray[np.floating]:
    """(J, C h w) with weights that are constant over blocks of the map (default: over all of it)."""
    bh, bw = block[0] or h, block[1] or w
    small = random(j, c, h // bh, w // bw)
    full = small.repeat(bh, axis=2).repeat(bw, axis=3)
    return (full.transpose(0, 2, 3, 1) if last else full).reshape(j, -1)


WEIGHT, BIAS = constant_over_map(), random(J)
FLAT = "f = Flatten (x)"
GEMM = "y = Gemm <transB = 1> (f, w, b)"


@pytest.mark.parametrize(
    ("gemm", "weights"),
    [
        (GEMM, {"w": WEIGHT, "b": BIAS}),
        ("y = Gemm (f, w, b)", {"w": WEIGHT.T.copy(), "b": BIAS}),
        ("y = Gemm <transB = 1> (f, w)", {"w": WEIGHT}),
        ("y = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (f, w, b)", {"w": WEIGHT, "b": BIAS[None]}),
        ("y = Gemm <transB = 1, beta = 0.25> (f, w, b)", {"w": WEIGHT, "b": np.float32(2)}),
        ("y = MatMul (f, w)", {"w": WEIGHT.T.copy()}),
        ("m = MatMul (f, w) y = Add (m, b)", {"w": WEIGHT.T.copy(), "b": BIAS}),
        ("m = MatMul (f, w) y = Add (b, m)", {"w": WEIGHT.T.copy(), "b": BIAS[None]}),
    ],
)
def test_weights_constant_over_the_map(gemm: str, weights: dict[str, object]) -> None:
    proto = model(f"{FLAT} {gemm}", **weights)
    assert_rewrites(RULE, proto, count=1, contains={"GlobalAveragePool": 1, "Gemm": 1, "MatMul": 0, "Add": 0})


def test_details_count_the_parameters() -> None:
    (proposal,) = said_by(RULE, model(f"{FLAT} {GEMM}", w=WEIGHT, b=BIAS))
    assert proposal.details == {"parameters_before": J * C * H * W, "parameters_after": J * C}
    assert "4x3x5 -> 6" in proposal.title


@pytest.mark.parametrize("target", ["N: -1, 60", "N: 0, -1", "N: 0, 60", "1: 1, 60", "1: 1, -1", "3: 3, -1"])
def test_reshape(target: str) -> None:
    batch, _, shape = target.partition(": ")
    sizes = np.array([int(d) for d in shape.split(",")])
    proto = model(f"f = Reshape (x, s) {GEMM}", f"{batch}, {C}, {H}, {W}", w=WEIGHT, b=BIAS, s=sizes)
    assert_rewrites(RULE, proto, count=1, contains={"GlobalAveragePool": 1, "Reshape": 0})


@pytest.mark.parametrize(
    "batch",
    [
        "d = Shape (x) s = Slice (d, zero, one)",
        "d = Shape (x) g = Gather (d, zero) s = Identity (g)",
        "d = Shape (x) g = Gather (d, first) s = Unsqueeze (g, zero)",
        "s = Shape <end = 1> (x)",
    ],
)
def test_reshape_to_a_computed_batch(batch: str) -> None:
    numbers = {"zero": np.array([0]), "one": np.array([1]), "first": np.array(0), "rest": np.array([-1])}
    body = f"{batch} t = Concat <axis = 0> (s, rest) f = Reshape (x, t) {GEMM}"
    used = {k: v for k, v in numbers.items() if f"{k}" in body}
    proto = model(body, w=WEIGHT, b=BIAS, **used)
    (after,) = assert_rewrites(RULE, proto, count=1, local=False)  # the target comes from outside of the region
    assert {n.op_type for n in after.graph.node} == {"GlobalAveragePool", "Flatten", "Gemm"}


def test_flatten_of_channels_last() -> None:
    body = f"t = Transpose <perm = [0, 2, 3, 1]> (x) f = Flatten (t) {GEMM}"
    proto = model(body, w=constant_over_map(last=True), b=BIAS)
    assert_rewrites(RULE, proto, count=1, contains={"Transpose": 0, "GlobalAveragePool": 1})


def test_channels_last_whose_own_batch_is_read() -> None:
    body = "t = Transpose <perm = [0, 2, 3, 1]> (x) d = Shape (t) g = Slice (d, z, o) s = Concat <axis = 0> (g, m)"
    proto = model(
        f"{body} f = Reshape (t, s) {GEMM}", w=constant_over_map(last=True), b=BIAS, z=np.array([0]), o=[1], m=[-1]
    )
    (after,) = assert_rewrites(RULE, proto, count=1, local=False)
    assert {n.op_type for n in after.graph.node} == {"GlobalAveragePool", "Flatten", "Gemm"}


@pytest.mark.parametrize(("block", "size"), [((2, 3), (4, 6)), ((1, 3), (4, 6)), ((5, 1), (5, 7)), ((2, 2), (2, 4))])
@pytest.mark.parametrize("last", [False, True])
def test_weights_constant_over_blocks(block: tuple[int, int], size: tuple[int, int], last: bool) -> None:
    turn = "t = Transpose <perm = [0, 2, 3, 1]> (x) f = Flatten (t)" if last else FLAT
    weight = constant_over_map(h=size[0], w=size[1], block=block, last=last)
    proto = model(f"{turn} {GEMM}", f"N, {C}, {size[0]}, {size[1]}", w=weight, b=BIAS)
    (after,) = assert_rewrites(RULE, proto, count=1, contains={"AveragePool": 1, "Gemm": 1})
    pool = next(n for n in after.graph.node if n.op_type == "AveragePool")
    assert tuple(pool.attribute[0].ints) == block


def test_old_opset_without_bias() -> None:
    assert_rewrites(RULE, model(f"{FLAT} y = MatMul (f, w)", opset=9, w=WEIGHT.T.copy()), count=1, contains={"Gemm": 1})


def test_half_precision() -> None:
    weights = {"w": WEIGHT.astype(np.float16), "b": BIAS.astype(np.float16)}
    assert_rewrites(RULE, model(f"{FLAT} {GEMM}", kind="float16", **weights), count=1)


def test_double_precision() -> None:
    weights = {"w": WEIGHT.astype(np.float64), "b": BIAS.astype(np.float64)}
    proto = model(f"{FLAT} {GEMM}", kind="double", **weights)
    assert_rewrites(RULE, proto, count=1, contains={"ReduceMean": 1, "GlobalAveragePool": 0})


def test_shared_weight_stays_for_its_other_reader() -> None:
    other = "n = Neg (x) h = Flatten (n) k = Gemm <transB = 1> (h, w, b)"
    body = f"{FLAT} g = Gemm <transB = 1> (f, w, b) {other} y = Sub (g, k)"
    assert_rewrites(RULE, model(body, w=WEIGHT, b=BIAS), count=2)


def test_rounding_of_the_weights_is_tolerated_as_the_setting_says() -> None:
    noisy = WEIGHT * (1 + 2e-7 * np.sign(random(*WEIGHT.shape)))
    proto = model(f"{FLAT} {GEMM}", w=noisy.astype(np.float32), b=BIAS)
    assert_rewrites(RULE, proto, count=1)
    assert_declines(RULE, proto, "vary over the 3x5 map", settings={"tolerance": 1e-8})


@pytest.mark.parametrize("flatten", ["Flatten (c)", "Reshape (c, s)", "Squeeze (c, a)"])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_over_the_whole_map(flatten: str, bias: bool) -> None:
    body = f"c = Conv (x, w{', b' if bias else ''}) y = {flatten}"
    proto = model(body, w=random(J, C, H, W), b=BIAS, s=np.array([-1, J]), a=np.array([2, 3]))
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 0, "Gemm": 1, "Flatten": 1})


def test_convolution_on_one_pixel_with_an_activation_and_old_squeeze() -> None:
    body = "c = Conv (x, w) r = Relu (c) y = Squeeze <axes = [2, 3]> (r)"
    proto = model(body, f"N, {C}, 1, 1", opset=9, w=random(J, C, 1, 1))
    (after,) = assert_rewrites(RULE, proto, count=1)
    assert [n.op_type for n in after.graph.node] == ["Flatten", "Gemm", "Relu"]


def test_convolution_then_channels_last() -> None:
    body = "c = Conv (x, w, b) t = Transpose <perm = [0, 2, 3, 1]> (c) y = Reshape (t, s)"
    proto = model(body, w=random(J, C, H, W), b=BIAS, s=np.array([0, -1]))
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 0, "Transpose": 0, "Gemm": 1})


CONV = {"w": random(J, C, H, W)}
NOISE = {"w": random(J, C * H * W), "b": BIAS}
SAME = {"w": WEIGHT, "b": BIAS}


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model(f"{FLAT} {GEMM}", **NOISE), "vary over the 3x5 map"),
        (model(f"{FLAT} {GEMM}", f"N, {C}, A, B", w=WEIGHT, b=BIAS), "size of the flattened map"),
        (model("f = Reshape (x, s) " + GEMM, **SAME, s=np.array([1, -1])), "fixes the batch"),
        (model("f = Reshape (x, s) y = MatMul (f, w)", w=random(C * H, J), s=np.array([-1, C * H])), "mixes images"),
        (
            model(
                "d = Shape (x) s = Slice (d, a, e) h = Abs (s) t = Concat <axis = 0> (h, m) f = Reshape (x, t) " + GEMM,
                **SAME,
                a=[0],
                e=[1],
                m=[-1],
            ),
            "computed",
        ),
        (model("f = Flatten <axis = 2> (x) y = MatMul (f, w)", w=random(H * W, J)), None),
        (
            model(
                "f = Transpose <perm = [0, 3, 2, 1]> (x) h = Flatten (f) y = Gemm <transB = 1> (h, w, b)",
                "N, 4, 3, 6",
                w=random(J, 72),
                b=BIAS,
            ),
            "vary",
        ),
        (
            model(
                f"{FLAT} g = Gemm <transB = 1> (f, w, b) h = Relu (f) k = MatMul (h, v) y = Add (g, k)",
                **SAME,
                v=random(C * H * W, J),
            ),
            "second consumer",
        ),
        (
            model(f"{FLAT} y = Gemm <transB = 1> (f, w, b)", f"2, {C}, {H}, {W}", w=WEIGHT, b=random(2, J)),
            "constant row",
        ),
        (model(f"{FLAT} y = Gemm <transA = 1> (f, w)", f"2, {C}, {H}, {W}", w=random(2, J)), "transposes its input"),
        (model(f"{FLAT} {GEMM}", f"N, {C}, 1, 1", w=random(J, C), b=BIAS), None),
        (model("c = Conv <group = 2> (x, w) y = Flatten (c)", w=random(J, C // 2, H, W)), None),
        (model("c = Conv <pads = [1, 1, 1, 1], strides = [4, 4]> (x, w) y = Flatten (c)", **CONV), None),
        (model("c = Conv (x, w) y = Flatten (c)", w=random(J, C, 2, 2)), None),
        (model("c = Conv (x, w) r = Relu (c) n = Neg (c) m = Add (r, n) y = Flatten (m)", **CONV), None),
        (
            model("c = Conv (x, w) f = Flatten (c) p = ReduceMax <keepdims = 0> (c) y = Add (f, p)", **CONV),
            "second consumer",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)


def test_declines_graph_outputs_and_fed_weights() -> None:
    text = f"g (float[N, {C}, {H}, {W}] x{{}}) => (float[N, J] y{{}}) {{{{ {FLAT} {GEMM} }}}}"
    assert_declines(RULE, model_of(text.format("", ", float[N, K] f"), SAME), "graph output")
    fed = model_of(text.format(f", float[{J}, {C * H * W}] w", ""), {"b": BIAS})
    assert_declines(RULE, fed, "'w' is not constant")


def test_declines_sums_that_overflow_half_precision() -> None:
    weight = np.full((J, C * H * W), 9000, np.float16)
    proto = model(f"{FLAT} y = Gemm <transB = 1> (f, w)", kind="float16", w=weight)
    assert_declines(RULE, proto, "overflow float16")


def test_block_is_the_largest() -> None:
    ones = np.ones((2, 3, 4, 6), np.float32)
    assert constant_block(ones, 1e-6) == (4, 6)
    ones[1, 2, :2] = 2
    assert constant_block(ones, 1e-6) == (2, 6)
    assert constant_block(random(2, 3, 4, 6), 1e-6) is None


@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_blocks(data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    block, tiles = (draw(1, 3), draw(1, 3)), (draw(1, 2), draw(1, 3))
    c, j = draw(1, 4), draw(1, 5)
    h, w = block[0] * tiles[0], block[1] * tiles[1]
    last = data.draw(st.booleans())
    flat = "t = Transpose <perm = [0, 2, 3, 1]> (x) f = Flatten (t)" if last else FLAT
    weight = constant_over_map(j, c, h, w, block, last=last)
    proto = model(f"{flat} {GEMM}", f"N, {c}, {h}, {w}", w=weight, b=random(j))
    if block == (1, 1):
        assert_declines(RULE, proto, "vary" if h * w > 1 else None)
    else:
        assert_rewrites(RULE, proto, count=1)
