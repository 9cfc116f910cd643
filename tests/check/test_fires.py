"""Every check fires on a fixture of its own, and every guideline and item of advice is watched by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from cnn import Cnn
from onnx import TensorProto

from onnxtune.checking import check
from onnxtune.checks import checkers
from onnxtune.finding import Finding
from onnxtune.guidelines import GUIDELINES, guideline_table


def input_size() -> onnx.ModelProto:
    net = Cnn("N", 3, 225, 225)
    y = net.block(net.x, 3, 8, strides=[2, 2])
    for _ in range(4):
        y = net.block(y, 8, 8, strides=[2, 2])
    return net.model(net.classifier(y, 8))


def unread_rows() -> onnx.ModelProto:
    net = Cnn("N", 3, 28, 28)
    y = net.block(net.x, 3, 8)
    y = net.add("MaxPool", y, kernel_shape=[8, 8], strides=[8, 8])
    return net.model(net.classifier(net.block(y, 8, 16), 16))


def padding_mode() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.add("Pad", net.x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    return net.model(net.conv(y, 8, 8, pads=[0, 0, 0, 0]))


def shrinking_border() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    return net.model(net.block(net.block(net.x, 8, 8, pads=[0] * 4), 8, 8, pads=[0] * 4))


def separate_pad() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.add("Pad", net.x, net.ints(0, 0, 1, 1, 0, 0, 1, 1))
    return net.model(net.conv(y, 8, 8, pads=[0, 0, 0, 0]))


def overlapping_pool() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.add("MaxPool", net.block(net.x, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    return net.model(net.classifier(y, 8))


def fixed_batch() -> onnx.ModelProto:
    net = Cnn(1, 8, 16, 16)
    return net.model(net.classifier(net.block(net.x, 8, 8), 8))


def large_pool() -> onnx.ModelProto:
    net = Cnn("N", 8, 32, 32)
    y = net.add("MaxPool", net.block(net.x, 8, 8), kernel_shape=[13, 13], pads=[6] * 4)
    return net.model(net.classifier(y, 8))


def large_kernel() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    return net.model(net.block(net.block(net.x, 8, 16, 7), 16, 16))


def even_kernel() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    return net.model(net.block(net.x, 8, 16, 4, pads=[1, 1, 2, 2]))


def strided_pointwise() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.block(net.x, 8, 16)
    return net.model(net.block(y, 16, 32, 1, strides=[2, 2]))


def strided_pointwise_after_a_sum() -> onnx.ModelProto:
    """The first residual network: the stride stands on the 1x1 kernels, behind a sum."""
    net = Cnn("N", 16, 16, 16)
    y = net.add("Relu", net.add("Add", net.x, net.conv(net.block(net.x, 16, 16), 16, 16)))
    main = net.conv(net.block(y, 16, 8, 1, strides=[2, 2]), 8, 32)
    return net.model(net.add("Add", main, net.conv(y, 16, 32, 1, strides=[2, 2])))


def low_rank() -> onnx.ModelProto:
    net = Cnn("N", 32, 8, 8)
    narrow = net.normal(64, 6) @ net.normal(6, 32 * 9)
    noise = net.normal(64, 32 * 9, scale=1e-3)
    return net.model(net.block(net.x, 32, 64, values=(narrow + noise).reshape(64, 32, 3, 3)))


def deformable() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16, opset=19, ir=9)
    offsets = net.conv(net.x, 8, 18)
    w = net.weight(net.normal(8, 8, 3, 3))
    return net.model(net.add("DeformConv", net.x, w, offsets, kernel_shape=[3, 3], pads=[1] * 4))


def mergeable_branches() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.block(net.x, 8, 8)
    wide, narrow = net.norm(net.conv(y, 8, 8), 8), net.norm(net.conv(y, 8, 8, 1), 8)
    both = net.add("Add", net.add("Add", wide, narrow), net.norm(y, 8))
    return net.model(net.add("Relu", both))


def dead_taps() -> onnx.ModelProto:
    net = Cnn("N", 16, 1, 1)
    return net.model(net.block(net.x, 16, 16))


def unaligned_channels() -> onnx.ModelProto:
    net = Cnn("N", 3, 16, 16)
    return net.model(net.classifier(net.block(net.block(net.block(net.x, 3, 63), 63, 63), 63, 63), 63))


def channels_above_block() -> onnx.ModelProto:
    net = Cnn("N", 3, 16, 16)
    return net.model(net.classifier(net.block(net.block(net.x, 3, 68), 68, 68), 68))


def near_dead_channels() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    gamma = np.ones(32)
    gamma[:6] = 1e-5
    y = net.add("Relu", net.norm(net.conv(net.x, 8, 32), 32, gamma=gamma))
    return net.model(net.classifier(y, 32))


def duplicate_channels() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    w = net.normal(32, 8, 3, 3)
    w[5:10] = w[4]
    y = net.add("Relu", net.add("Conv", net.x, net.weight(w), pads=[1] * 4))
    return net.model(net.classifier(net.block(y, 32, 32), 32))


def fc_head() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.add("Flatten", net.block(net.x, 8, 16))
    return net.model(net.fc(net.add("Relu", net.fc(y, 1024, 64)), 64, 10))


def plain_chain() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.x
    for _ in range(18):
        y = net.block(y, 8, 8)
    return net.model(net.classifier(y, 8))


def near_dead_branch() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.norm(net.conv(net.x, 8, 8), 8)
    inner = net.add("Relu", net.norm(net.conv(y, 8, 8), 8))
    branch = net.norm(net.conv(inner, 8, 8), 8, gamma=np.full(8, 0.01), beta=np.zeros(8))
    return net.model(net.classifier(net.add("Add", y, branch), 8))


def dense_concat() -> onnx.ModelProto:
    net = Cnn("N", 16, 8, 8)
    y = net.block(net.x, 16, 16)
    for i in range(6):
        inner = net.add("Relu", net.norm(y, 16 + 16 * i))
        y = net.add("Concat", y, net.conv(inner, 16 + 16 * i, 16), axis=1)
    return net.model(net.classifier(net.add("Relu", net.norm(y, 112)), 112))


def channel_shuffle() -> onnx.ModelProto:
    net = Cnn("N", 16, 8, 8)
    y = net.block(net.x, 16, 16, 1, group=4)
    y = net.add("Reshape", y, net.ints(-1, 4, 4, 8, 8))
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3, 4]), net.ints(-1, 16, 8, 8))
    return net.model(net.block(y, 16, 16, 3, group=16))


def weights_as_inputs() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    return net.model(net.classifier(net.block(net.x, 8, 8), 8), weights_as_inputs=True)


def training_nodes() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.add("Dropout", net.block(net.x, 8, 8))
    return net.model(net.classifier(y, 8))


def training_norm() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.norm(net.conv(net.x, 8, 8), 8, training_mode=1, outputs=3)[0]
    return net.model(net.classifier(net.add("Relu", y), 8))


def training_dropout() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    half, on = net.weight(np.float32(0.5)), net.weight(np.array(True))
    return net.model(net.classifier(net.add("Dropout", net.block(net.x, 8, 8), half, on), 8))


def decomposed_activation() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.conv(net.x, 8, 8)
    three, six, zero = (net.weight(np.float32(v)) for v in (3, 6, 0))
    clipped = net.add("Clip", net.add("Add", y, three), zero, six)
    y = net.add("Div", net.add("Mul", y, clipped), six)
    return net.model(net.classifier(y, 8))


def decomposed_norm() -> onnx.ModelProto:
    net = Cnn("N", 64, 32)
    two, tiny = net.weight(np.float32(2)), net.weight(np.float32(1e-5))
    above = net.add("Sub", net.x, net.add("ReduceMean", net.x, axes=[-1]))
    spread = net.add("ReduceMean", net.add("Pow", above, two), axes=[-1])
    return net.model(net.add("Div", above, net.add("Sqrt", net.add("Add", spread, tiny))))


def decomposed_group_norm() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    one, zero = net.weight(np.ones(4, np.float32)), net.weight(np.zeros(4, np.float32))
    groups = net.add("Reshape", net.conv(net.x, 8, 8), net.ints(0, 4, -1))
    y = net.add("Reshape", net.add("InstanceNormalization", groups, one, zero), net.ints(-1, 8, 8, 8))
    return net.model(net.classifier(net.add("Relu", y), 8))


def layout_sandwich() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.add("Transpose", net.conv(net.x, 8, 8), perm=[0, 2, 3, 1])
    y = net.add("Add", y, net.weight(net.normal(8)))
    y = net.add("Transpose", net.add("Relu", y), perm=[0, 3, 1, 2])
    return net.model(net.classifier(net.block(y, 8, 8), 8))


def cast_chain() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.add("Cast", net.block(net.x, 8, 8), to=TensorProto.FLOAT16)
    y = net.add("Cast", y, to=TensorProto.FLOAT)
    return net.model(net.classifier(y, 8))


def shape_chains() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.block(net.x, 8, 8)
    batch = net.add("Gather", net.add("Shape", y), net.weight(np.array(0)))
    target = net.add("Concat", net.add("Unsqueeze", batch, net.ints(0)), net.ints(-1), axis=0)
    return net.model(net.fc(net.add("Reshape", y, target), 512, 10))


def double_precision() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.add("Cast", net.block(net.x, 8, 8), to=TensorProto.DOUBLE)
    return net.model(net.add("Mul", y, net.weight(np.float64(2))))


def old_opset() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8, opset=9, ir=4)
    return net.model(net.classifier(net.block(net.x, 8, 8), 8))


def implicit_padding() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    return net.model(net.classifier(net.block(net.x, 8, 8, strides=[2, 2], auto_pad="SAME_UPPER"), 8))


FIXTURES: list[tuple[str, Callable[[], onnx.ModelProto]]] = [
    ("CK101", input_size),
    ("CK101", unread_rows),
    ("CK102", padding_mode),
    ("CK103", shrinking_border),
    ("CK104", separate_pad),
    ("CK105", overlapping_pool),
    ("CK106", fixed_batch),
    ("CK107", large_pool),
    ("CK201", large_kernel),
    ("CK202", even_kernel),
    ("CK203", strided_pointwise),
    ("CK203", strided_pointwise_after_a_sum),
    ("CK204", low_rank),
    ("CK205", deformable),
    ("CK206", mergeable_branches),
    ("CK207", dead_taps),
    ("CK301", unaligned_channels),
    ("CK302", channels_above_block),
    ("CK303", near_dead_channels),
    ("CK304", duplicate_channels),
    ("CK401", fc_head),
    ("CK501", plain_chain),
    ("CK502", near_dead_branch),
    ("CK503", dense_concat),
    ("CK504", channel_shuffle),
    ("CK601", weights_as_inputs),
    ("CK602", training_nodes),
    ("CK603", training_norm),
    ("CK603", training_dropout),
    ("CK604", decomposed_activation),
    ("CK604", decomposed_norm),
    ("CK604", decomposed_group_norm),
    ("CK605", layout_sandwich),
    ("CK606", cast_chain),
    ("CK607", shape_chains),
    ("CK608", double_precision),
    ("CK609", old_opset),
    ("CK610", implicit_padding),
]


def found(proto: onnx.ModelProto, code: str) -> tuple[Finding, ...]:
    return tuple(f for f in check(proto, providers="cpu").findings if f.code == code)


@pytest.mark.parametrize(("code", "make"), FIXTURES, ids=lambda v: getattr(v, "__name__", v))
def test_fires(code: str, make: Callable[[], onnx.ModelProto]) -> None:
    findings = found(make(), code)
    assert findings, f"{code} does not fire"
    for finding in findings:
        assert finding.message
        assert finding.action
        assert finding.nodes or code == "CK609"
        assert not finding.message.endswith(".")


def test_every_check_has_a_fixture() -> None:
    assert {code for code, _ in FIXTURES} == {c.card.code for c in checkers()}


def test_every_guideline_and_item_is_watched() -> None:
    assert [row.number for row in guideline_table() if not row.checks] == []
    assert len(guideline_table()) == len(GUIDELINES) == 14
    items = {item for c in checkers() for item in c.card.items}
    assert items == {f"A{i}" for i in range(1, 17)}


def test_cards_are_complete() -> None:
    codes = [c.card.code for c in checkers()]
    assert codes == sorted(set(codes))
    assert len({c.card.name for c in checkers()}) == len(codes)
    for checker in checkers():
        card = checker.card
        assert card.code.startswith("CK")
        assert len(checker.explanation.splitlines()) >= 3, f"{card.code}: say why"
        assert not card.summary.endswith("."), card.code
        assert card.fires and card.quiet and card.action, card.code  # noqa: PT018


def test_rules_that_checks_name_exist() -> None:
    from onnxtune.catalog import cards

    names = {c.name for c in cards(plugins=False)}
    assert {r for c in checkers() for r in c.card.rules} <= names
