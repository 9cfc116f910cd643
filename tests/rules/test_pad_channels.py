"""pad_channels: fires and is equal, declines with a reason, holds on random graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from onnx import TensorProto, numpy_helper

from onnxtune.apply import apply
from onnxtune.channels.flow import analyse
from onnxtune.channels.resized import resize
from onnxtune.channels.search import MOST
from onnxtune.errors import RuleError
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.sizes import bind
from onnxtune.testing import assert_declines, assert_rewrites, said_by
from onnxtune.verify import Verifier

ALL = {"policy": "multiple:4", "min_channels": 1, "max_overhead": 1000.0}
"""Every class that can be padded is."""


def fires(proto: onnx.ModelProto, *changes: str, sizes: Any = None, local: bool = True, **overrides: Any) -> None:
    """All classes change together as `changes` says ("5 -> 8"), and everything stays equal."""
    chosen = {**ALL, **overrides}
    said = said_by("pad_channels", proto, chosen, sizes)
    found = sorted(
        f"{c['from']} -> {c['to']}"
        for s in said
        if isinstance(s, Proposal) and not s.details["classes"][1:]
        for c in s.details["classes"]
    ) or [f"{c['from']} -> {c['to']}" for c in said[0].details["classes"]]  # type: ignore[union-attr]
    joint = [c for s in said if isinstance(s, Proposal) for c in s.details["classes"]]
    assert {f"{c['from']} -> {c['to']}" for c in joint} == set(changes), found
    assert_rewrites("pad_channels", proto, settings=chosen, sizes=sizes, local=local)


def chain(c: int = 63, size: int = 9, n: int | str = 1) -> onnx.ModelProto:
    net = Net(n, c, size, size)
    y = net.add("Relu", net.conv("x", c, c))
    y = net.add("Relu", net.conv(y, c, c))
    return net.model(net.conv(y, c, 32))


# --- what is chosen --------------------------------------------------------------------------------


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.channels.cost.cpu_features", lambda: frozenset({"avx", "avx512f"}))


@pytest.mark.usefixtures("avx512")
def test_odd_classes_are_padded_together_and_alone() -> None:
    rewritten = assert_rewrites("pad_channels", chain(), contains={"Conv": 3})
    first = {i.name: tuple(i.dims) for i in rewritten[0].graph.initializer}
    assert sorted(d for d in first.values() if len(d) == 4) == [(32, 64, 3, 3), (64, 63, 3, 3), (64, 64, 3, 3)]


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize("c", [64, 60, 17, 12, 7])
def test_auto_leaves_alone_what_is_fast_or_would_grow_too_much(c: int) -> None:
    assert not [s for s in said_by("pad_channels", chain(c)) if isinstance(s, Proposal)]


def test_no_blocked_kernels_no_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.channels.cost.cpu_features", lambda: frozenset({"asimd"}))
    assert_declines("pad_channels", chain(), "expects nothing")


@pytest.mark.usefixtures("avx512")
def test_depthwise_convolutions_of_odd_channels() -> None:
    net = Net("N", 3, 9, 7)
    y = net.add("Relu", net.conv("x", 3, 13, 1))
    y = net.add("Clip", net.conv(y, 13, 13, group=13), net.constant(np.float32(0)), net.constant(np.float32(6)))
    proto = net.model(net.conv(y, 13, 8, 1))
    rewritten = assert_rewrites("pad_channels", proto)
    assert [a.i for n in rewritten[0].graph.node for a in n.attribute if a.name == "group"] == [1, 16, 1]


@pytest.mark.usefixtures("avx512")
def test_concat_is_aligned_by_one_of_its_parts() -> None:
    net = Net(1, 8, 9, 9)
    both = net.add("Concat", net.conv("x", 8, 64), net.conv("x", 8, 63), axis=1)
    said = said_by("pad_channels", net.model(net.conv(both, 127, 64)))
    titles = [s.title for s in said if isinstance(s, Proposal)]
    assert "channels 63 -> 64 (1 class)" in titles


def test_cuda_wants_multiples_of_8_in_half_precision() -> None:
    net = Net(1, 8, 9, 9, dtype=np.float16)
    y = net.add("Relu", net.conv("x", 8, 36))
    proto = net.model(net.conv(y, 36, 8))
    said = said_by("pad_channels", proto, {"provider": "cuda"})
    assert [s.title for s in said if isinstance(s, Proposal)] == ["channels 36 -> 40 (1 class)"]
    assert_rewrites("pad_channels", proto, settings={"provider": "cuda"}, local=False)


def test_policies() -> None:
    fires(chain(9), "9 -> 10", policy="multiple:5")
    fires(chain(9), "9 -> 16", policy="pow2")
    assert_declines("pad_channels", chain(9), "max_overhead", settings={**ALL, "max_overhead": 0.2})
    with pytest.raises(RuleError, match="multiple:N"):
        said_by("pad_channels", chain(9), {"policy": "multiple:x"})


@pytest.mark.usefixtures("avx512")
def test_auto_offers_larger_blocks_and_powers_of_two() -> None:
    net = Net(1, 64, 28, 28)
    y = net.add("Relu", net.conv("x", 64, 99))
    y = net.add("Relu", net.conv(y, 99, 99))
    said = said_by("pad_channels", net.model(net.conv(y, 99, 64)))
    offered = [[c["to"] for c in s.details["classes"]] for s in said if isinstance(s, Proposal)]
    assert [100, 100] in offered
    assert [112, 112] in offered
    assert [128, 128] not in offered, "max_overhead: (128 / 99) ** 2 > 1.5"
    wider = said_by("pad_channels", net.model(net.conv(y, 99, 64)), {"max_overhead": 1.0})
    assert [128, 128] in [[c["to"] for c in s.details["classes"]] for s in wider if isinstance(s, Proposal)]


def test_cuda_in_single_precision_and_with_casts_at_the_ends() -> None:
    net = Net(1, 8, 9, 9)
    y = net.add("Relu", net.conv("x", 8, 37))
    said = said_by("pad_channels", net.model(net.conv(y, 37, 8)), {"provider": "cuda"})
    assert next(s.title for s in said if isinstance(s, Proposal)) == "channels 37 -> 40 (1 class)"
    half = Net(1, 8, 9, 9)
    half.dtype = np.dtype(np.float16)
    y = half.add("Relu", half.conv(half.add("Cast", "x", to=TensorProto.FLOAT16), 8, 36))
    y = half.add("Cast", half.conv(y, 36, 8), to=TensorProto.FLOAT)
    said = said_by("pad_channels", half.model(y), {"provider": "cuda"})
    assert next(s.title for s in said if isinstance(s, Proposal)) == "channels 36 -> 40 (1 class)"


def test_a_policy_is_followed_to_the_letter_first_and_within_its_bound() -> None:
    net = Net(1, 4, 9, 9)
    a = net.add("Relu", net.conv("x", 4, 12))
    b = net.add("Relu", net.conv(net.conv(a, 12, 4), 4, 9))
    proto = net.model(net.conv(b, 9, 4))
    first = said_by("pad_channels", proto, {"policy": "pow2", "min_channels": 5})[0]
    assert isinstance(first, Proposal)
    assert [(c["from"], c["to"]) for c in first.details["classes"]] == [(12, 16)], "9 -> 16 adds 7 / 9"
    first = said_by("pad_channels", proto, {"policy": "pow2", "min_channels": 5, "max_overhead": 0.8})[0]
    assert isinstance(first, Proposal)
    assert [(c["from"], c["to"]) for c in first.details["classes"]] == [(12, 16), (9, 16)], "both, though not connected"


def test_the_bound_does_not_move_with_what_was_padded() -> None:
    """(16 / 11) ** 2 > 1.6, so that of two neighbours one is padded, and not the other one in the next round."""
    proto, chosen = chain(11), {"policy": "pow2", "max_overhead": 0.6}
    first = next(s for s in said_by("pad_channels", proto, chosen) if isinstance(s, Proposal))
    assert [c["to"] for c in first.details["classes"]] == [16]
    after = apply(Model(proto), [first]).proto
    assert_declines("pad_channels", after, "max_overhead", settings=chosen)


def test_details_say_what_each_class_costs() -> None:
    said = said_by("pad_channels", chain(7, 9), ALL)
    joint = said[0]
    assert isinstance(joint, Proposal)
    first, second = joint.details["classes"]
    assert (first["from"], first["to"]) == (second["from"], second["to"]) == (7, 8)
    assert first["extra_macs"] == 81 * 9 * (7 + 7)
    assert joint.details["extra_macs"] == 81 * 9 * (7 * 8 + 8 * 8 + 8 * 32 - 7 * 7 - 7 * 7 - 7 * 32)


def test_the_result_is_a_fixed_point() -> None:
    (result,) = assert_rewrites("pad_channels", chain(9), settings={**ALL, "policy": "pow2"})[:1]
    assert not [s for s in said_by("pad_channels", result, {**ALL, "policy": "pow2"}) if isinstance(s, Proposal)]


# --- every operator of the table -------------------------------------------------------------------

UNARY = [
    "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "Elu", "Selu", "Softplus", "Softsign", "Abs", "Neg",
    "Erf", "HardSwish", "Mish", "Exp", "Identity", "Dropout", "Floor", "Ceil", "Round", "Sign", "Celu",
]  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    net = Net("N", 3, 5, 7, opset=18)
    y = net.add(op, net.add("Tanh", net.conv("x", 3, 5)))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8", local=op != "Dropout")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5, 1, 1), (1,), (), (1, 5, 6, 7), (1, 1, 6, 7), (7,)])
def test_binary_with_constants(op: str, shape: tuple[int, ...]) -> None:
    net = Net("N", 3, 6, 7)
    y = net.add(op, net.conv("x", 3, 5), net.random(*shape, low=0.5, high=2.0))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "Sum"])
def test_binary_of_two_branches(op: str) -> None:
    net = Net("N", 3, 6, 7)
    y = net.add(op, net.conv("x", 3, 5), net.add("Sigmoid", net.conv("x", 3, 5)))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


def test_division_by_values_that_are_not_zero_at_the_pads() -> None:
    net = Net("N", 3, 6, 7)
    y = net.add("Div", net.conv("x", 3, 5), net.add("Neg", net.add("Exp", net.add("Tanh", net.conv("x", 3, 5)))))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")
    net = Net("N", 3, 6, 7)
    y = net.add("Div", net.conv("x", 3, 5), net.add("Exp", net.add("Relu", net.conv("x", 3, 5))))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


@pytest.mark.parametrize("shape", [("N", 1, 6, 7), ("N", 1, 1, 1), (1, 1, 6, 1)])
def test_computed_operand_that_is_broadcast_over_channels(shape: tuple[int | str, ...]) -> None:
    for op in ("Add", "Mul", "Max"):
        net = Net("N", 3, 6, 7)
        y = net.add(op, net.conv("x", 3, 5), net.input("m", *shape))
        fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


def test_mask_made_by_a_convolution_of_one_channel_stays_one_channel() -> None:
    net = Net("N", 3, 6, 7)
    y = net.add("Mul", net.conv("x", 3, 5), net.add("Sigmoid", net.conv("x", 3, 1)))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


@pytest.mark.parametrize("slope", [(5, 1, 1), (1, 5, 1, 1), (1,), ()])
def test_prelu(slope: tuple[int, ...]) -> None:
    net = Net("N", 3, 6, 7)
    y = net.add("PRelu", net.conv("x", 3, 5), net.random(*slope))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


def test_normalisation() -> None:
    net = Net("N", 3, 6, 7)
    y = net.norm(net.conv("x", 3, 5), 5)
    y = net.conv(net.add("Relu", y), 5, 6)
    y = net.add("InstanceNormalization", y, net.random(6), net.random(6))
    fires(net.model(net.conv(y, 6, 4)), "5 -> 8", "6 -> 8")


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]}),
        ("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("LpPool", {"kernel_shape": [2, 2]}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("Transpose", {"perm": [0, 1, 3, 2]}),
        ("ReduceMean", {"axes": [2, -1]}),
        ("ReduceMax", {"axes": [3]}),
    ],
)
def test_spatial(op: str, attributes: dict[str, Any]) -> None:
    net = Net("N", 3, 7, 8)
    y = net.add(op, net.conv("x", 3, 5), **attributes)
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8", local=op != "LpPool")


@pytest.mark.parametrize(("mode", "value"), [("constant", 0.0), ("constant", 2.5), ("reflect", 0.0), ("edge", 0.0)])
def test_spatial_pad(mode: str, value: float) -> None:
    net = Net("N", 3, 7, 8)
    amounts = net.ints(0, 0, 1, 2, 0, 0, 0, 1)
    y = net.add("Pad", net.conv("x", 3, 5), amounts, net.constant(np.float32(value)), mode=mode)
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_by_scales_and_by_sizes(mode: str) -> None:
    for sizes in (False, True):
        net = Net(2, 3, 5, 6)
        scales = "" if sizes else net.constant(np.array([1, 1, 2, 1.5], np.float32))
        to = [net.ints(2, 5, 9, 11)] if sizes else []
        y = net.add("Resize", net.conv("x", 3, 5), "", scales, *to, mode=mode)
        fires(net.model(net.conv(y, 5, 4)), "5 -> 8", local=False)


def test_transposed_convolution() -> None:
    net = Net("N", 3, 5, 4)
    y = net.transposed(net.conv("x", 3, 5), 5, 6)
    y = net.transposed(y, 6, 6, group=6)
    fires(net.model(net.conv(y, 6, 4)), "5 -> 8", "6 -> 8")


def test_split_and_concat_at_odd_places() -> None:
    net = Net("N", 3, 6, 7)
    a, b, c = net.add("Split", net.conv("x", 3, 11), net.ints(3, 1, 7), outputs=3, axis=1)
    y = net.add("Concat", c, net.add("Relu", a), b, a, axis=-3)
    fires(net.model(net.conv(y, 14, 4)), "3 -> 4", "1 -> 4", "7 -> 8")


def test_split_without_sizes_and_by_attribute() -> None:
    net = Net("N", 3, 6, 7, opset=18)
    a, b = net.add("Split", net.conv("x", 3, 10), outputs=2, axis=1, num_outputs=2)
    fires(net.model(net.conv(net.add("Mul", a, net.add("Sigmoid", b)), 5, 4)), "10 -> 16")
    net = Net("N", 3, 6, 7, opset=11)
    a, b = net.add("Split", net.conv("x", 3, 9), outputs=2, axis=1, split=[6, 3])
    fires(net.model(net.conv(a, 6, 4), net.conv(b, 3, 4)), "6 -> 8", "3 -> 4")


@pytest.mark.parametrize("opset", [9, 17])
def test_slice_of_channels_and_of_rows(opset: int) -> None:
    net = Net("N", 3, 6, 7, opset=opset)
    x = net.conv("x", 3, 11)
    if opset == 9:
        y = net.add("Slice", x, starts=[3, 1], ends=[-1, 5], axes=[1, 2])
    else:
        y = net.add("Slice", x, net.ints(1, 3), net.ints(5, -1), net.ints(2, -3), net.ints(1, 1))
    z = net.add("AveragePool", x, kernel_shape=[3, 3], pads=[0, 1, 0, 1])
    z = net.conv(z, 11, 7)
    fires(net.model(net.conv(net.add("Add", y, z), 7, 4)), "3 -> 4", "7 -> 8", "1 -> 4")


def test_flatten_of_maps_before_gemm() -> None:
    net = Net("N", 3, 3, 2)
    y = net.gemm(net.add("Flatten", net.conv("x", 3, 5)), 30, 7)
    fires(net.model(net.gemm(net.add("Relu", y), 7, 4, transB=0)), "5 -> 8", "7 -> 8")


@pytest.mark.parametrize("target", [(0, -1), (-1, 30), (0, 30)])
def test_reshape_of_maps_before_matmul(target: tuple[int, int]) -> None:
    net = Net("N", 3, 3, 2)
    y = net.add("Reshape", net.conv("x", 3, 5), net.ints(*target))
    y = net.add("Add", net.add("MatMul", y, net.random(30, 7)), net.random(7))
    fires(net.model(net.add("MatMul", net.add("Relu", y), net.random(7, 4))), "5 -> 8", "7 -> 8")


@pytest.mark.parametrize("target", [(0, 5, 6), (0, 0, -1), (-1, 5, 6), (0, -1, 2, 3)])
def test_reshape_that_keeps_channels(target: tuple[int, ...]) -> None:
    net = Net("N", 3, 3, 2)
    y = net.add("ReduceMax", net.add("Reshape", net.conv("x", 3, 5), net.ints(*target)), axes=[2], keepdims=1)
    y = net.add("Flatten", y)
    fires(net.model(net.gemm(y, 15 if len(target) == 4 else 5, 4)), "5 -> 8")


def test_squeeze_and_excitation() -> None:
    for reshape in (False, True):
        net = Net("N", 3, 6, 7)
        y = net.add("Relu", net.conv("x", 3, 13))
        gate = net.add("Squeeze", net.add("GlobalAveragePool", y), net.ints(2, 3))
        gate = net.add("Sigmoid", net.gemm(net.add("Relu", net.gemm(gate, 13, 3)), 3, 13))
        gate = net.add(*(("Reshape", gate, net.ints(-1, 13, 1, 1)) if reshape else ("Unsqueeze", gate, net.ints(2, 3))))
        fires(net.model(net.conv(net.add("Mul", y, gate), 13, 4)), "13 -> 16", "3 -> 4")


def test_residual_chain_is_one_class() -> None:
    net = Net("N", 3, 6, 7)
    y = net.conv("x", 3, 13)
    for _ in range(2):
        y = net.add("Relu", net.add("Add", y, net.norm(net.conv(y, 13, 13), 13)))
    proto = net.model(net.gemm(net.pooled(y), 13, 10))
    said = said_by("pad_channels", proto, ALL)
    assert [len(s.details["classes"]) for s in said if isinstance(s, Proposal)] == [1]
    fires(proto, "13 -> 16")


def test_shape_of_which_height_and_width_are_used() -> None:
    net = Net("N", 3, "H", "W")
    y = net.conv("x", 3, 5)
    small = net.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    size = net.add("Slice", net.add("Shape", y), net.ints(2), net.ints(4))
    scale = net.add("Div", net.add("Cast", size, to=1), net.constant(np.array([6, 7], np.float32)))
    y = net.add("Mul", small, net.add("ReduceMean", scale, keepdims=0))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8", sizes={"x": (1, 3, 6, 7)})


def test_branches_that_nobody_uses() -> None:
    net = Net("N", 3, 6, 7)
    y = net.norm(net.conv("x", 3, 5), 5)
    net.conv(net.add("Relu", net.conv(y, 5, 6)), 6, 2)  # the second one is outside the class of `y`
    net.conv(net.conv(y, 5, 1), 1, 1)
    fires(net.model(net.conv(net.add("Relu", y), 5, 4)), "5 -> 8", "6 -> 8", "1 -> 4", "2 -> 4", local=False)


def test_half_precision() -> None:
    net = Net("N", 3, 6, 7, dtype=np.float16)
    y = net.add("Sigmoid", net.norm(net.conv("x", 3, 5), 5))
    fires(net.model(net.conv(y, 5, 4)), "5 -> 8", local=False)


def test_weight_that_two_convolutions_share() -> None:
    net = Net("N", 5, 6, 7)
    w = net.random(5, 5, 3, 3)
    y = net.add("Conv", net.add("Relu", net.add("Conv", "x", w, pads=[1] * 4)), w, pads=[1] * 4)
    fires(net.model(y), "5 -> 8")


def test_weights_from_constant_nodes() -> None:
    net = Net("N", 3, 6, 7)
    w = net.add("Constant", value=numpy_helper.from_array(np.ones((5, 3, 1, 1), np.float32)))
    fires(net.model(net.conv(net.add("Conv", "x", w), 5, 4)), "5 -> 8")


# --- refusals --------------------------------------------------------------------------------------


def refused(build: Any, reason: str) -> None:
    """`build(net, y)` continues from a tensor of 13 channels, 6 x 8; what it returns goes to a last Conv or out."""
    net = Net(1, 3, 6, 8, opset=18)
    outputs = build(net, net.conv("x", 3, 13))
    proto = net.model(*(outputs if isinstance(outputs, tuple) else (outputs,)))
    assert_declines("pad_channels", proto, reason, settings=ALL)


# --- borders: a Slice or a Pad where it pays -----------------------------------------------------------


def at_border(proto: onnx.ModelProto, tensor: str, **contains: int) -> list[onnx.ModelProto]:
    """A class that ends or begins at `tensor` is offered with a copy there, beside what needs none; all are equal."""
    said = [s for s in said_by("pad_channels", proto) if isinstance(s, Proposal)]
    assert [s for s in said if tensor in s.details["copied"]], [s.title for s in said]
    rewritten = assert_rewrites("pad_channels", proto)
    copies = [p for s, p in zip(said, rewritten, strict=True) if tensor in s.details["copied"]]
    for op, count in contains.items():
        assert [n.op_type for n in copies[0].graph.node].count(op) == count, op
    return copies


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize("opset", [9, 17])
def test_a_slice_before_a_graph_output(opset: int) -> None:
    net = Net("N", 16, 12, 10, opset=opset)
    y = net.add("Relu", net.conv("x", 16, 63))
    (after, *_) = at_border(net.model(net.conv(y, 63, 64), y), y, Slice=1, Conv=2)
    assert y in {n.output[0] for n in after.graph.node if n.op_type == "Slice"}


@pytest.mark.usefixtures("avx512")
def test_a_slice_before_an_operator_that_mixes_channels() -> None:
    net = Net("N", 16, "H", "W")
    y = net.add("Relu", net.conv("x", 16, 63))
    attention = net.add("ReduceMean", net.add("Softmax", y, axis=1), axes=[1])
    at_border(net.model(net.conv(net.add("Mul", y, attention), 63, 64)), y, Slice=1, Softmax=1)


@pytest.mark.usefixtures("avx512")
def test_a_pad_behind_a_graph_input_and_behind_an_operator_that_mixes_channels() -> None:
    net = Net("N", 63, 28, 28)
    at_border(net.model(net.conv("x", 63, 64)), "x", Pad=1)
    net = Net("N", 16, 28, 28)
    y = net.add("Softmax", net.conv("x", 16, 63), axis=1)
    at_border(net.model(net.conv(y, 63, 64)), y, Pad=1)


@pytest.mark.usefixtures("avx512")
def test_pads_in_the_middle_are_left_out_by_a_gather() -> None:
    net = Net(1, 16, 14, 14)
    a, b = (net.add("Relu", net.conv("x", 16, 31)) for _ in range(2))
    both = net.add("Concat", net.conv(a, 31, 31), net.conv(b, 31, 31), axis=1)
    (after, *_) = at_border(net.model(net.conv(both, 62, 64), both), both)
    assert {"Gather", "Slice"} & {n.op_type for n in after.graph.node}


def test_pads_at_any_place_of_what_comes_from_outside() -> None:
    from onnxtune.channels.flow import analyse_cutting

    net = Net(1, 6, 5, 5)
    first, second = net.add("Split", "x", net.ints(2, 4), outputs=2, axis=1)
    y = net.add("Add", net.conv(first, 2, 3), net.conv(second, 4, 3))
    model = Model(net.model(net.add("Exp", y)))
    channels = analyse_cutting(Facts(model, bind(model).sizes))
    sizes = {r.index: r.size + 2 for r in channels.runs if not r.reason}
    assert len(sizes) == 3
    removes, fragment = resize(channels, channels.padded(sizes), "pad")
    after = apply(model, [Proposal("pad", "", removes, fragment)])
    onnx.checker.check_model(after.proto, full_check=True)
    from onnxtune.feeds import cases
    from onnxtune.runtime import Target

    assert Verifier(model, channels.facts, cases(model, channels.facts.sizes), Target(threads=1)).verify(after).ok
    assert [n.op_type for n in after.proto.graph.node if n.op_type in ("Pad", "Gather", "Slice")].count("Gather") == 1


@pytest.mark.usefixtures("avx512")
def test_no_copy_where_it_costs_more_than_it_gains() -> None:
    net = Net(1, 63, 28, 28)
    assert_declines("pad_channels", net.model(net.conv("x", 63, 4, 1)), "a copy there would cost more")
    net = Net(1, 16, 28, 28)
    y = net.conv("x", 16, 63)
    assert_declines("pad_channels", net.model(net.conv(y, 63, 8, 1), y), "is a graph output, and a copy there")


@pytest.mark.usefixtures("avx512")
def test_a_copy_is_a_fixed_point() -> None:
    net = Net("N", 16, 12, 10)
    y = net.add("Relu", net.conv("x", 16, 63))
    (after, *_) = at_border(net.model(net.conv(y, 63, 64), y), y)
    assert not [s for s in said_by("pad_channels", after) if isinstance(s, Proposal)]


def test_declines_graph_outputs() -> None:
    refused(lambda net, y: y, "is a graph output")
    refused(lambda net, y: (net.add("Relu", y), net.conv(y, 13, 4)), "is a graph output")


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("Softmax", {"axis": 1}, "Softmax may mix channels"),
        ("Transpose", {"perm": [0, 2, 3, 1]}, "is a graph output"),
        ("Flatten", {"axis": 2}, "flattened maps is not known"),
        ("ArgMax", {"axis": 1}, "ArgMax may mix channels"),
        ("Shape", {}, "sizes are used"),
    ],
)
def test_declines_operators(op: str, attributes: dict[str, Any], reason: str) -> None:
    refused(lambda net, y: net.add(op, y, **attributes), reason)


def test_declines_computed_weights() -> None:
    def computed(net: Net, y: str) -> str:
        return str(net.add("Conv", y, net.input("w", 4, 13, 1, 1)))

    refused(computed, "weights are not constant")


def test_declines_reshapes_that_mix() -> None:
    refused(lambda net, y: net.conv(net.add("Reshape", y, net.ints(1, 6, 13, 8)), 6, 4), "mixes channels")
    refused(lambda net, y: net.conv(net.add("Reshape", y, net.ints(2, -1, 6, 4)), 13, 4), "batch and channels")


def test_declines_a_reshape_that_may_move_the_batch() -> None:
    net = Net("N", 3, 6, 8)
    y = net.add("Reshape", net.conv("x", 3, 13), net.ints(1, 13, -1))
    proto = net.model(net.add("MatMul", net.add("ReduceMax", y, axes=[2], keepdims=0), net.random(13, 4)))
    assert_declines("pad_channels", proto, "between batch and channels", settings=ALL)


def test_declines_infinite_pads() -> None:
    refused(lambda net, y: net.conv(net.add("Log", net.add("Relu", y)), 13, 4), "may not be finite")
    refused(lambda net, y: net.conv(net.add("Reciprocal", net.add("Relu", y)), 13, 4), "may not be finite")
    inf = np.array(-np.inf, np.float32)
    refused(lambda net, y: net.conv(net.add("Add", y, net.constant(inf)), 13, 4), "not finite")
    refused(lambda net, y: net.conv(net.add("Div", net.conv("x", 3, 13), y), 13, 4), "may not be finite")
    big = np.array(200, np.float32)
    refused(lambda net, y: net.conv(net.add("Exp", net.add("Add", y, net.constant(big))), 13, 4), "may not be finite")


def test_declines_a_use_of_the_number_of_channels() -> None:
    def sized(net: Net, y: str) -> tuple[str, str]:
        return net.conv(y, 13, 4), net.add("Gather", net.add("Shape", y), net.ints(0, -3))

    refused(sized, "number of channels is used")


def test_declines_indices_of_max_pool() -> None:
    def pooled(net: Net, y: str) -> tuple[str, str]:
        values, indices = net.add("MaxPool", y, outputs=2, kernel_shape=[2, 2])
        return net.conv(values, 13, 4), indices

    refused(pooled, "second output of MaxPool")


def test_declines_a_tensor_that_a_subgraph_reads() -> None:
    net = Net(1, 3, 6, 8)
    y = net.conv("x", 3, 13)
    bodies = []
    for op in ("Relu", "Neg"):
        out = onnx.helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, [1, 13, 6, 8])
        bodies.append(onnx.helper.make_graph([onnx.helper.make_node(op, [y], [out.name])], op, [], [out]))
    flag = net.constant(np.array(True))
    z = net.add("If", flag, then_branch=bodies[0], else_branch=bodies[1])
    assert_declines("pad_channels", net.model(net.conv(y, 13, 4), z), "a subgraph of If reads", settings=ALL)


def test_declines_an_operator_of_another_domain() -> None:
    net = Net(1, 3, 6, 8)
    y = net.add("Gelu", net.conv("x", 3, 13), domain="com.microsoft")
    net.nodes.append(onnx.helper.make_node("Conv", [y, net.random(4, 13, 1, 1)], ["out"]))
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            net.nodes, "g", net.inputs, [onnx.helper.make_tensor_value_info("out", 1, [1, 4, 6, 8])], net.weights
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    assert_declines("pad_channels", proto, "Gelu may mix channels", settings=ALL)


# --- the engine --------------------------------------------------------------------------------------


def test_channels_can_be_removed_with_the_same_engine() -> None:
    net = Net("N", 3, 4, 3)
    y = net.norm(net.conv("x", 3, 7), 7)
    a, b = net.add("Split", net.add("Relu", y), net.ints(3, 4), outputs=2, axis=1)
    y = net.add("Concat", net.conv(b, 4, 4, group=4), a, axis=1)
    w = net.rng.standard_normal((5, 84)).astype(np.float32)
    dead = [1, 4]  # of y: one channel of b's convolution, the first of a
    w.reshape(5, 7, 12)[:, dead] = 0
    proto = net.model(net.add("Gemm", net.add("Flatten", y), net.constant(w), transB=1))
    model = Model(proto)
    facts = Facts(model, bind(model).sizes)
    channels = analyse(facts)
    counts = np.ones(channels.count, np.int64)
    counts[channels.axes[y].ids[dead]] = 0
    removes, fragment = resize(channels, counts, "remove")
    after = apply(model, [Proposal("remove", "", removes, fragment)])
    onnx.checker.check_model(after.proto, full_check=True)
    shapes = {tuple(i.dims) for i in after.proto.graph.initializer}
    assert {(5, 3, 3, 3), (3, 1, 3, 3), (5, 60)} <= shapes
    from onnxtune.feeds import cases
    from onnxtune.runtime import Target

    assert Verifier(model, facts, cases(model, facts.sizes), Target(threads=1)).verify(after).ok


def test_proposals_are_few_on_a_large_graph() -> None:
    net = Net(1, 9, 3, 3)
    y = "x"
    for _ in range(60):
        y = net.add("Relu", net.norm(net.conv(y, 9, 9, 1), 9))
    said = said_by("pad_channels", net.model(y), ALL)
    assert 1 < len([s for s in said if isinstance(s, Proposal)]) <= MOST


# --- random graphs -----------------------------------------------------------------------------------


def grow(net: Net, draw: Any, tensors: list[tuple[str, int, int, int]]) -> None:
    """Add one random step; `tensors` holds (name, channels, height, width)."""
    name, c, h, w = draw(st.sampled_from(tensors))
    out = draw(st.integers(1, 11))
    step = draw(st.sampled_from(STEPS))
    if step == "conv":
        tensors.append((net.conv(name, c, out, draw(st.sampled_from([1, 3]))), out, h, w))
    elif step == "depthwise":
        tensors.append((net.conv(name, c, c, group=c), c, h, w))
    elif step == "norm":
        tensors.append((net.norm(name, c), c, h, w))
    elif step == "prelu":
        tensors.append((net.add("PRelu", name, net.random(c, 1, 1)), c, h, w))
    elif step == "unary":
        op = draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Abs", "Softplus"]))
        tensors.append((net.add(op, name), c, h, w))
    elif step == "constant":
        shape = draw(st.sampled_from([(c, 1, 1), (1, c, 1, 1), (1,), (1, 1, h, w)]))
        op = draw(st.sampled_from(["Add", "Mul", "Sub", "Max"]))
        tensors.append((net.add(op, name, net.random(*shape)), c, h, w))
    elif step == "merge":
        same = [t for t in tensors if t[1:] == (c, h, w)]
        op = draw(st.sampled_from(["Add", "Mul", "Sub", "Min", "Sum"]))
        tensors.append((net.add(op, name, draw(st.sampled_from(same))[0]), c, h, w))
    elif step == "concat":
        same = [t for t in tensors if t[2:] == (h, w)]
        other, more, _, _ = draw(st.sampled_from(same))
        tensors.append((net.add("Concat", name, other, axis=1), c + more, h, w))
    elif step == "split" and c > 1:
        cut = draw(st.integers(1, c - 1))
        first, second = net.add("Split", name, net.ints(cut, c - cut), outputs=2, axis=1)
        tensors.extend([(first, cut, h, w), (second, c - cut, h, w)])
    elif step == "slice":
        start = draw(st.integers(0, c - 1))
        end = draw(st.integers(start + 1, c))
        tensors.append((net.add("Slice", name, net.ints(start), net.ints(end), net.ints(1)), end - start, h, w))
    elif step == "gate":
        gate = net.add("Unsqueeze", net.add("Sigmoid", net.gemm(net.pooled(name), c, c)), net.ints(2, 3))
        tensors.append((net.add("Mul", name, gate), c, h, w))
    elif step == "pool":
        tensors.append((net.add("AveragePool", name, kernel_shape=[2, 3], pads=[1, 1, 0, 1]), c, h, w))
    elif step == "transposed" and h < 8:
        tensors.append((net.transposed(name, c, out), out, 2 * h, 2 * w))
    elif step == "shrink" and h > 3:
        y = net.add("MaxPool", name, kernel_shape=[2, 2], strides=[2, 2])
        tensors.append((y, c, h // 2, w // 2))


STEPS = [
    "conv", "conv", "conv", "depthwise", "norm", "prelu", "unary", "unary", "constant", "merge", "merge", "concat",
    "split", "slice", "gate", "pool", "transposed", "shrink",
]  # fmt: skip


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    draw = data.draw
    c, h, w = draw(st.integers(1, 5)), draw(st.integers(3, 6)), draw(st.integers(3, 7))
    net = Net(draw(st.sampled_from([1, 2, 3, "N"])), c, h, w, seed=draw(st.integers(0, 99)))
    first = draw(st.integers(1, 11))
    tensors = [(net.add("Relu", net.conv("x", c, first)), first, h, w)]
    for _ in range(draw(st.integers(3, 12))):
        grow(net, draw, tensors)
    outputs = []
    for name, c, h, w in tensors[-3:]:
        if draw(st.booleans()):
            outputs.append(net.gemm(net.add("Flatten", name), c * h * w, 3))
        else:
            outputs.append(net.conv(name, c, 4, 1))
    policy = draw(st.sampled_from(["multiple:4", "multiple:5", "pow2", "multiple:16"]))
    proto, chosen = net.model(*outputs), {**ALL, "policy": policy}
    said = said_by("pad_channels", proto, chosen)
    if any(isinstance(s, Proposal) for s in said):
        assert_rewrites("pad_channels", proto, settings=chosen, local=False)
