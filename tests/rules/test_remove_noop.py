"""remove_noop: every entry fires and is equal, near misses stay, holds on random shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxtune.apply import apply
from onnxtune.facts import Facts
from onnxtune.feeds import cases
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.runtime import Target
from onnxtune.sizes import bind
from onnxtune.testing import assert_declines, assert_rewrites, model_of, said_by
from onnxtune.verify import Verifier

RULE = "remove_noop"
END = 2**63 - 1


def between(
    node: str,
    weights: dict[str, Any] | None = None,
    *,
    shape: str = "N, 3, 9, 7",
    out: str = "",
    opset: int = 17,
    kind: str = "float",
) -> onnx.ModelProto:
    """`node` reads r = Neg(x) and makes s; the output is y = Neg(s)."""
    out = out or ", ".join("PQRSTU"[: shape.count(",") + 1])
    text = f"g ({kind}[{shape}] x) => ({kind}[{out}] y) {{ r = Neg(x) {node} y = Neg(s) }}"
    stored = {k: np.asarray(v) for k, v in (weights or {}).items()}
    return model_of(text, stored, opset=opset)


F = np.float32
NOOPS: list[tuple[str, dict[str, Any], int]] = [
    ("s = Identity(r)", {}, 17),
    ("s = Dropout<ratio = 0.3>(r)", {}, 7),
    ("s = Dropout<ratio = 0.3>(r)", {}, 10),
    ("s, mask = Dropout(r, a)", {"a": F(0.3)}, 13),
    ("s = Dropout(r, , t)", {"t": False}, 17),
    ("s = Cast<to = 1>(r)", {}, 9),
    ("s = Transpose<perm = [0, 1, 2, 3]>(r)", {}, 17),
    ("s = Reshape(r, a)", {"a": [0, 3, -1, 7]}, 17),
    ("s = Reshape(r, a)", {"a": [-1, 3, 9, 7]}, 7),
    ("s = Reshape<allowzero = 1>(r, a)", {"a": [-1, 3, 9, 7]}, 14),
    ("s = Expand(r, a)", {"a": [3, 1, 7]}, 17),
    ("s = Tile(r, a)", {"a": [1, 1, 1, 1]}, 17),
    ("s = Pad<pads = [0, 0, 0, 0, 0, 0, 0, 0]>(r)", {}, 9),
    ('s = Pad<mode = "reflect">(r, a)', {"a": [0] * 8}, 13),
    ("s = Slice<axes = [2, 3], starts = [0, 0], ends = [9, 2147483647]>(r)", {}, 9),
    ("s = Slice(r, a, b, c, d)", {"a": [0, 0], "b": [END, 7], "c": [0, -1], "d": [1, 1]}, 17),
    ("s = Concat<axis = 1>(r)", {}, 17),
    ("s = Sum(r)", {}, 17),
    ("s = Max(r)", {}, 17),
    ("s = Split<axis = 1>(r)", {}, 11),
    ("s = Add(r, a)", {"a": np.zeros((3, 1, 1), F)}, 17),
    ("s = Add(a, r)", {"a": F(-0.0)}, 17),
    ("s = Sub(r, a)", {"a": np.zeros((1, 3, 9, 7), F)}, 17),
    ("s = Mul(a, r)", {"a": np.ones(7, F)}, 7),
    ("s = Div(r, a)", {"a": F(1)}, 17),
    ("s = Pow(r, a)", {"a": F(1)}, 17),
    ("s = MaxPool<kernel_shape = [1, 1]>(r)", {}, 17),
    ("s = AveragePool<kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]>(r)", {}, 17),
    ('s = Upsample<mode = "linear">(r, a)', {"a": np.ones(4, F)}, 9),
    ("s = Resize(r, a)", {"a": np.ones(4, F)}, 10),
    ('s = Resize<mode = "linear">(r, , a)', {"a": np.ones(4, F)}, 13),
    ('s = Resize<mode = "cubic", coordinate_transformation_mode = "align_corners">(r, , a)', {"a": np.ones(4, F)}, 13),
    ('s = Resize<mode = "nearest", axes = [3, 2]>(r, , , a)', {"a": [7, 9]}, 18),
    ("t = Transpose<perm = [0, 2, 3, 1]>(r) s = Transpose<perm = [0, 3, 1, 2]>(t)", {}, 17),
    ("t = Transpose(r) s = Transpose(t)", {}, 17),
]


@pytest.mark.parametrize(("node", "weights", "opset"), NOOPS, ids=[n for n, _, _ in NOOPS])
def test_fires(node: str, weights: dict[str, Any], opset: int) -> None:
    (after,) = assert_rewrites(RULE, between(node, weights, opset=opset), count=1)
    assert [n.op_type for n in after.graph.node] == ["Neg", "Neg"]


def test_flatten_and_global_pool() -> None:
    assert_rewrites(RULE, between("s = Flatten(r)", shape="N, 5"), count=1, contains={"Flatten": 0})
    assert_rewrites(RULE, between("s = Flatten<axis = -1>(r)", shape="N, M"), count=1)
    assert_rewrites(RULE, between("s = GlobalAveragePool(r)", shape="N, 5, 1, 1"), count=1)
    assert_rewrites(RULE, between("s = GlobalMaxPool(r)", shape="N, C, 1", out="P, Q, R"), count=1)


def test_reshape_of_symbolic_sizes() -> None:
    proto = between("s = Reshape(r, a)", {"a": [0, 0, 5, -1]}, shape="N, C, 5, W")
    assert_rewrites(RULE, proto, sizes={"x": (1, 2, 5, 9)}, count=1)


def test_integers() -> None:
    assert_rewrites(RULE, between("s = Mul(r, a)", {"a": np.array([1], np.int32)}, kind="int32"), count=1)


def test_identity_of_a_weight() -> None:
    proto = between("b = Identity(a) s = Conv(r, b)", {"a": np.ones((2, 3, 3, 3), F)})
    assert_rewrites(RULE, proto, count=1, contains={"Identity": 0})


def test_transpose_that_others_read_stays() -> None:
    text = """t = Transpose<perm = [0, 2, 3, 1]>(x) s = Transpose<perm = [0, 3, 1, 2]>(t) y = Neg(s) z = Neg(t)"""
    proto = model_of(f"g (float[N, 3, 9, 7] x) => (float[P, Q, R, S] y, float[T, U, V, W] z) {{ {text} }}")
    assert_rewrites(RULE, proto, count=1, contains={"Transpose": 1})


@pytest.mark.parametrize("backwards", [False, True])
def test_neighbours_go_together_in_any_order(backwards: bool) -> None:
    node = """a = Identity(r) b = Dropout(a) t = Transpose<perm = [0, 2, 3, 1]>(b)
        u = Transpose<perm = [0, 3, 1, 2]>(t) s = Identity(u)"""
    model = Model(between(node))
    proposals = [p for p in said_by(RULE, model.proto) if isinstance(p, Proposal)]
    assert len(proposals) == 4
    after = apply(model, proposals[::-1] if backwards else proposals)
    onnx.checker.check_model(after.proto, full_check=True)
    assert [n.op_type for n in after.proto.graph.node] == ["Neg", "Neg"]
    sizes = bind(model).sizes
    assert Verifier(model, Facts(model, sizes), cases(model, sizes), Target(threads=1)).verify(after).ok


OUTPUT = "g (float[N, 3, 9, 7] x) => (float[N, 3, 9, 7] y"
BRANCHES = ("then_branch", "else_branch")
ONES = {"a": np.ones((5, 1, 1, 1), F)}


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (between("s = Dropout(r, , t)", {"t": True}), "training mode"),
        (model_of(OUTPUT + ", bool[N, 3, 9, 7] m) { r = Neg(x) s, m = Dropout(r) y = Neg(s) }"), "'m' is used"),
        (between("s = Mul(r, a)", ONES, shape="N, 3, 9, 7"), "may enlarge"),
        (between("s = Mul(r, a)", ONES, shape="9, 7", out="P, Q, R, S"), "may enlarge"),
        (between("s = Add(r, a)", {"a": np.zeros((5, 1, 1), F)}, shape="N, C, 9, 7"), "may enlarge"),
        (between("s = Add(r, a)", {"a": np.zeros((3, 1, 1), F)}, shape="N, 1, 9, 7"), "may enlarge"),
        (between("s = Expand(r, a)", {"a": [3, 9, 7]}, shape="N, 1, 9, 7"), "not proven"),
        (between("s = Reshape(r, a)", {"a": [1, 3, 9, 7]}), "not proven"),
        (between("s = Reshape(r, a)", {"a": [0, 3, 7, 9]}), "not proven"),
        (between("s = Reshape(r, a)", {"a": [0, -1, 9, 7]}, shape="N, 3, H, 7"), "not proven"),
        (between("s = Slice(r, a, b, c)", {"a": [0], "b": [9], "c": [2]}, shape="N, 3, H, 7"), "not proven"),
        (
            between(
                's = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "ceil">(r, e, a)',
                {"a": np.ones(4, F), "e": np.zeros(0, F)},
                opset=11,
            ),
            "moves pixels",
        ),
    ],
)
def test_declines_with_a_reason(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        ("s = Cast<to = 1>(i) ", {"i": np.ones((1, 3, 9, 7), np.int32)}),
        ("s = Transpose(r)", {}),
        ("t = Transpose<perm = [0, 2, 3, 1]>(r) s = Transpose<perm = [0, 2, 3, 1]>(t)", {}),
        ("s = Reshape(r, a)", {"a": [0, -1]}),
        ("s = Flatten(r)", {}),
        ("s = Tile(r, a)", {"a": [1, 1, 2, 1]}),
        ("s = Pad(r, a)", {"a": [0, 0, 0, 0, 0, 0, 0, 1]}),
        ("s = Pad(r, a)", {"a": [0, 0, 1, 0, 0, 0, -1, 0]}),
        ("s = Slice(r, a, b)", {"a": [0, 1], "b": [END, END]}),
        ("s = Slice(r, a, b, , d)", {"a": [0], "b": [END], "d": [2]}),
        ("s = Slice(r, a, b, c)", {"a": [0], "b": [-1], "c": [2]}),
        ("s = Concat<axis = 1>(r, r)", {}),
        ("s = Sub(a, r)", {"a": F(0)}),
        ("s = Div(a, r)", {"a": F(1)}),
        ("s = Pow(a, r)", {"a": F(1)}),
        ("s = Add(r, a)", {"a": np.array([0, 0, 0, 0, 0, 0, 1e-8], F)}),
        ("s = Mul(r, a)", {"a": F(1.0000001)}),
        ("s = MaxPool<kernel_shape = [1, 1], strides = [2, 1]>(r)", {}),
        ("s = MaxPool<kernel_shape = [1, 2]>(r)", {}),
        ("s = GlobalAveragePool(r)", {}),
        ("s = Resize(r, , a)", {"a": np.array([1, 1, 2, 1], F)}),
        ("s = Resize(r, , , a)", {"a": [1, 3, 9, 14]}),
        ("i = Identity(r) s = Add(i, r)", {}),
    ],
)
def test_other_nodes_are_no_near_miss(node: str, weights: dict[str, Any]) -> None:
    rank = 2 if "Flatten" in node or "[0, -1]" in str(weights) else 4
    said = said_by(RULE, between(node, weights, out=", ".join("PQRS"[:rank])))
    assert [s.title for s in said if isinstance(s, Proposal)] == (["Identity removed"] if "Identity" in node else [])
    assert len(said) == ("Identity" in node)


def test_graph_outputs_and_captured_tensors_keep_their_node() -> None:
    assert said_by(RULE, model_of(OUTPUT + ") { y = Identity(x) }")) == []
    assert said_by(RULE, model_of(OUTPUT + ") { r = Neg(x) y = Dropout(r) }")) == []
    one, other = (
        f"{n} = {n} () => (float[N, 3, 9, 7] {n}v) {{ {n}v = Neg(s) }}" for n in ("then_branch", "else_branch")
    )
    body = f"{one}, {other}"
    proto = model_of(
        f"g (float[N, 3, 9, 7] x, bool c) => (float[N, 3, 9, 7] y) {{ s = Identity(x) y = If<{body}>(c) }}"
    )
    assert said_by(RULE, proto, sizes={"x": (1, 3, 9, 7), "c": ()}) == []


def test_quantisation_is_left_alone() -> None:
    text = "q = QuantizeLinear(x, a, b) d = DequantizeLinear(q, a, b) y = Neg(d)"
    weights = {"a": F(0.1), "b": np.uint8(128)}
    assert said_by(RULE, model_of(OUTPUT + f") {{ {text} }}", weights)) == []


def test_old_dropout_needs_its_test_mode() -> None:
    for text, fires in (("Dropout<is_test = 1>", 1), ("Dropout", 0)):
        said = said_by(RULE, between(f"s = {text}(r)", opset=6, shape="2, 3, 9, 7"))
        assert sum(isinstance(s, Proposal) for s in said) == fires
    assert said_by(RULE, between("s = Mul<broadcast = 1, axis = 1>(r, a)", {"a": np.ones(3, F)}, opset=6)) == []


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    constant=st.lists(st.sampled_from([1, 1, 3, 4]), max_size=4),
    shape=st.lists(st.sampled_from([1, 3, 4, 0]), min_size=1, max_size=4),
    op=st.sampled_from(["Add", "Mul", "Sub", "Div", "Expand"]),
)
def test_broadcasting_is_never_lost(constant: list[int], shape: list[int], op: str) -> None:
    """Fires exactly where the operands' common shape is the input's, whatever its symbolic sizes (0) are."""
    symbols = [d or "ABCD"[i] for i, d in enumerate(shape)]
    value: Any = np.array(constant) if op == "Expand" else np.full(constant, op in ("Mul", "Div"), F)
    if op == "Expand" and not constant:
        value = np.zeros(0, np.int64)
    x = next(f"float[{', '.join(map(str, symbols))}]" for _ in [0])
    rank = max(len(constant), len(shape))
    out = ", ".join("PQRS"[:rank])
    ends = list(zip(reversed(constant), reversed(shape), strict=False))
    assume(all(c in (1, d) or d <= 1 for c, d in ends))  # else it is not a valid model
    proto = model_of(f"g ({x} x) => (float[{out}] y) {{ r = Neg(x) s = {op}(r, a) y = Neg(s) }}", {"a": value})
    kept = len(constant) <= len(shape) and all(c in (1, d) for c, d in ends)
    sizes = {"x": tuple(d or 3 for d in shape)}
    if kept:
        assert_rewrites(RULE, proto, count=1, sizes=sizes)
    else:
        assert_declines(RULE, proto, "", sizes=sizes)
