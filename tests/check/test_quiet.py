"""No false alarms: clean networks, each just short of a trigger, of which nothing is said at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from cnn import Cnn
from onnx import TensorProto, helper

from onnxtune.checking import check

CASES: list[tuple[str, Callable[[], onnx.ModelProto]]] = []


def near(code: str) -> Callable[[Callable[[], onnx.ModelProto]], Callable[[], onnx.ModelProto]]:
    """The case is near the trigger of this check."""

    def note(make: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
        CASES.append((code, make))
        return make

    return note


@near("CK101")
def image_of_224() -> onnx.ModelProto:
    net = Cnn("N", 3, 224, 224)
    y = net.block(net.x, 3, 8, strides=[2, 2])
    for _ in range(4):
        y = net.block(y, 8, 8, strides=[2, 2])
    return net.model(net.classifier(y, 8))


@near("CK101")
def odd_size_without_large_stride() -> onnx.ModelProto:
    net = Cnn("N", 3, 33, 33)
    return net.model(net.classifier(net.block(net.block(net.x, 3, 8), 8, 8, strides=[2, 2]), 8))


@near("CK101")
def open_size() -> onnx.ModelProto:
    net = Cnn("N", 3, "H", "W")
    y = net.x
    for _ in range(3):
        y = net.block(y, 3 if y == net.x else 8, 8, strides=[2, 2])
    return net.model(net.classifier(y, 8))


@near("CK102")
def constant_pad_of_a_vector() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.classifier(net.block(net.x, 8, 8), 8)
    return net.model(net.add("Pad", y, net.ints(0, 0, 0, 2), net.weight(np.float32(1))))


@near("CK103")
def strided_stem_without_padding() -> onnx.ModelProto:
    net = Cnn("N", 3, 65, 65)
    y = net.block(net.x, 3, 8, pads=[0] * 4, strides=[2, 2])
    return net.model(net.classifier(net.block(y, 8, 8), 8))


@near("CK103")
def layer_over_the_whole_map() -> onnx.ModelProto:
    net = Cnn("N", 16, 5, 5)
    y = net.block(net.block(net.block(net.x, 16, 32), 32, 32), 32, 8, 5, pads=[0] * 4)
    y = net.add("Flatten", y)
    return net.model(net.add("Softmax", y))


@near("CK105")
def plain_pools() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.add("MaxPool", net.block(net.x, 8, 8), kernel_shape=[2, 2], strides=[2, 2])
    y = net.add("MaxPool", net.block(y, 8, 8), kernel_shape=[3, 3], pads=[1] * 4)
    return net.model(net.classifier(net.block(y, 8, 8), 8))


@near("CK201")
def depthwise_7x7() -> onnx.ModelProto:
    net = Cnn("N", 16, 14, 14)
    y = net.add("Add", net.x, net.conv(net.block(net.conv(net.x, 16, 16, 7, group=16), 16, 64, 1), 64, 16, 1))
    return net.model(net.classifier(y, 16))


@near("CK201")
def column_and_row() -> onnx.ModelProto:
    net = Cnn("N", 16, 14, 14)
    y = net.block(net.block(net.x, 16, 16, (7, 1)), 16, 16, (1, 7))
    return net.model(net.classifier(y, 16))


@near("CK202")
def patches() -> onnx.ModelProto:
    net = Cnn("N", 3, 32, 32)
    y = net.block(net.x, 3, 16, 4, pads=[0] * 4, strides=[4, 4])
    return net.model(net.classifier(net.block(y, 16, 16), 16))


@near("CK202")
def u_shape() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    wide = net.block(net.x, 8, 16)
    deep = net.block(net.add("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2]), 16, 32)
    w = net.weight(net.normal(32, 16, 2, 2))
    up = net.add("ConvTranspose", deep, w, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.conv(net.block(net.add("Concat", wide, up, axis=1), 32, 16), 16, 1, 1))


@near("CK203")
def residual_with_strided_shortcut() -> onnx.ModelProto:
    net = Cnn("N", 3, 32, 32)
    y = net.block(net.x, 3, 16)
    branch = net.norm(net.conv(net.block(y, 16, 32, strides=[2, 2]), 32, 32), 32)
    short = net.norm(net.conv(y, 16, 32, 1, strides=[2, 2]), 32)
    return net.model(net.classifier(net.add("Relu", net.add("Add", branch, short)), 32))


@near("CK204")
def ordinary_weights() -> onnx.ModelProto:
    net = Cnn("N", 32, 8, 8)
    w = net.normal(64, 32, 3, 3) * np.linspace(0.2, 2, 64).reshape(-1, 1, 1, 1).astype(np.float32)
    return net.model(net.classifier(net.add("Relu", net.conv(net.x, 32, 64, values=w)), 64))


@near("CK206")
def inverted_residual() -> onnx.ModelProto:
    net = Cnn("N", 16, 14, 14)
    wide = net.block(net.x, 16, 96, 1)
    y = net.conv(net.block(wide, 96, 96, group=96), 96, 16, 1)
    return net.model(net.classifier(net.add("Add", net.x, y), 16))


@near("CK206")
def branches_with_activations() -> onnx.ModelProto:
    net = Cnn("N", 16, 14, 14)
    y = net.add("Add", net.block(net.x, 16, 16), net.block(net.x, 16, 16, 1))
    return net.model(net.classifier(y, 16))


@near("CK207")
def small_map() -> onnx.ModelProto:
    net = Cnn("N", 16, 2, 2)
    return net.model(net.classifier(net.block(net.x, 16, 16), 16))


@near("CK301")
def image_channels_and_odd_outputs() -> onnx.ModelProto:
    net = Cnn("N", 3, 16, 16)
    return net.model(net.conv(net.block(net.block(net.x, 3, 36), 36, 60), 60, 255, 1))


@near("CK301")
def few_odd_channels() -> onnx.ModelProto:
    net = Cnn("N", 3, 16, 16)
    return net.model(net.block(net.block(net.block(net.x, 3, 7), 7, 7), 7, 8))


@near("CK302")
def between_blocks() -> onnx.ModelProto:
    net = Cnn("N", 3, 16, 16)
    return net.model(net.classifier(net.block(net.block(net.x, 3, 72), 72, 56), 56))


@near("CK303")
def scales_of_ordinary_spread() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    y = net.add("Relu", net.norm(net.conv(net.x, 8, 64), 64, gamma=np.geomspace(0.005, 1, 64)))
    return net.model(net.classifier(y, 64))


@near("CK303")
def a_single_dead_channel() -> onnx.ModelProto:
    net = Cnn("N", 8, 16, 16)
    gamma = np.ones(64)
    gamma[3] = 1e-6
    return net.model(net.classifier(net.add("Relu", net.norm(net.conv(net.x, 8, 64), 64, gamma=gamma)), 64))


@near("CK304")
def equal_depthwise_filters() -> onnx.ModelProto:
    net = Cnn("N", 16, 16, 16)
    w = np.repeat(net.normal(1, 1, 3, 3), 16, axis=0)
    y = net.block(net.x, 16, 16, group=16, values=w)
    return net.model(net.classifier(net.block(y, 16, 16, 1), 16))


@near("CK401")
def large_classifier_after_pooling() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    return net.model(net.classifier(net.block(net.x, 8, 128), 128, classes=1000))


@near("CK501")
def chain_of_fifteen() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.x
    for _ in range(15):
        y = net.block(y, 8, 8)
    return net.model(net.classifier(y, 8))


@near("CK501")
def deep_residual() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.x
    for _ in range(12):
        y = net.add("Relu", net.add("Add", y, net.conv(net.block(y, 8, 8), 8, 8)))
    return net.model(net.classifier(y, 8))


@near("CK502")
def branches_of_ordinary_energy() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.norm(net.conv(net.x, 8, 8), 8)
    for gamma in (0.3, 0.5, 1.0):
        inner = net.add("Relu", net.norm(net.conv(y, 8, 8), 8))
        y = net.add("Add", y, net.norm(net.conv(inner, 8, 8), 8, gamma=np.full(8, gamma)))
    return net.model(net.classifier(y, 8))


@near("CK503")
def inception_block() -> onnx.ModelProto:
    net = Cnn("N", 32, 14, 14)
    y = net.x
    for _ in range(2):
        pool = net.block(net.add("MaxPool", y, kernel_shape=[3, 3], pads=[1] * 4), 32, 8, 1)
        branches = [net.block(net.block(y, 32, 8, 1), 8, 8) for _ in range(2)]
        y = net.add("Concat", net.block(y, 32, 8, 1), *branches, pool, axis=1)
    return net.model(net.classifier(y, 32))


@near("CK504")
def attention() -> onnx.ModelProto:
    net = Cnn("N", 16, 8, 8)
    y = net.block(net.x, 16, 16)
    y = net.add("Transpose", net.add("Reshape", y, net.ints(-1, 4, 4, 64)), perm=[0, 1, 3, 2])
    y = net.add("Transpose", y, perm=[0, 2, 1, 3])
    return net.model(net.add("Softmax", y))


@near("CK601")
def two_inputs() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    net.inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", 8)))
    y = net.add("Flatten", net.add("GlobalAveragePool", net.block(net.x, 8, 8)))
    return net.model(net.fc(net.add("Concat", y, "z", axis=1), 16, 10))


@near("CK602")
def identity_at_the_output() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    return net.model(net.add("Identity", net.classifier(net.block(net.x, 8, 8), 8)))


@near("CK603")
def normalization_at_inference() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.norm(net.conv(net.x, 8, 8), 8, training_mode=0)
    return net.model(net.classifier(net.add("Relu", y), 8))


@near("CK604")
def squeeze_and_excite() -> onnx.ModelProto:
    net = Cnn("N", 16, 8, 8)
    y = net.add("HardSwish", net.conv(net.x, 16, 16))
    gate = net.conv(net.block(net.add("GlobalAveragePool", y), 16, 4, 1), 4, 16, 1)
    y = net.add("Mul", y, net.add("HardSigmoid", gate))
    return net.model(net.classifier(y, 16))


@near("CK605")
def layout_at_input_and_heads() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 16)
    y = net.block(net.add("Transpose", net.x, perm=[0, 3, 1, 2]), 16, 16)
    heads = [net.add("Transpose", net.conv(y, 16, c), perm=[0, 2, 3, 1]) for c in (8, 16)]
    flat = [net.add("Reshape", h, net.ints(0, -1, 4)) for h in heads]
    return net.model(net.add("Concat", *flat, axis=1))


@near("CK606")
def casts_at_the_border() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8, dtype=TensorProto.FLOAT16)
    y = net.add("Cast", net.classifier(net.block(net.x, 8, 8), 8), to=TensorProto.FLOAT)
    return net.model(y)


@near("CK607")
def shapes_that_open_sizes_need() -> onnx.ModelProto:
    net = Cnn("N", 8, "H", "W")
    wide = net.block(net.x, 8, 8)
    deep = net.block(net.add("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2]), 8, 8)
    channels = net.add("Slice", net.add("Shape", deep), net.ints(0), net.ints(2))
    size = net.add("Concat", channels, net.add("Slice", net.add("Shape", wide), net.ints(2), net.ints(4)), axis=0)
    up = net.add("Resize", deep, "", "", size, mode="linear")
    return net.model(net.conv(net.add("Concat", wide, up, axis=1), 16, 1, 1))


@near("CK608")
def double_scalars() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    scale = net.add("Cast", net.weight(np.float64(0.5)), to=TensorProto.FLOAT)
    return net.model(net.classifier(net.block(net.add("Mul", net.x, scale), 8, 8), 8))


@near("CK610")
def same_without_stride() -> onnx.ModelProto:
    net = Cnn("N", 8, 8, 8)
    y = net.block(net.x, 8, 8, auto_pad="SAME_UPPER")
    return net.model(net.classifier(net.block(y, 8, 8, 1, auto_pad="VALID"), 8))


@pytest.mark.parametrize(("code", "make"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_says_nothing(code: str, make: Callable[[], onnx.ModelProto]) -> None:
    said = [f"{f.code}: {f.message}" for f in check(make(), providers="cpu").findings]
    assert said == [], f"near {code}"


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 20
    assert len({code for code, _ in CASES}) >= 20
