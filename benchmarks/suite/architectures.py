"""Architectures whose speed does not depend on trained weights, one function each.

Sources: He et al. 2015 (ResNet v1, the stride on the first 1x1 as in the first release), Xie et al. 2016 (ResNeXt),
Ding et al. 2021 (RepVGG, training form), Redmon & Farhadi 2018 with He et al. 2014 (YOLOv3 with SPP, a small one),
Ronneberger et al. 2015 (U-Net, upsampling by nearest neighbours), Sandler et al. 2018 (MobileNetV2), Tan & Le 2019
(EfficientNet-B0), Liu et al. 2022 (ConvNeXt).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from benchmarks.suite.net import Map, Net


def resnet50_v1() -> onnx.ModelProto:
    return _bottlenecks("resnet50_v1", group=1, width=64, stride_first=True)


def resnext50() -> onnx.ModelProto:
    return _bottlenecks("resnext50", group=32, width=128, stride_first=False)


def _bottlenecks(name: str, *, group: int, width: int, stride_first: bool) -> onnx.ModelProto:
    net = Net(224)
    x = net.max_pool(net.conv(net.input, 64, 7, 2, act="Relu"), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, out = width * 2**stage, 256 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            first, second = (stride, 1) if stride_first else (1, stride)
            y = net.conv(x, inner, 1, first, act="Relu")
            y = net.conv(net.conv(y, inner, 3, second, group=group, act="Relu"), out, 1)
            x = net.sum(y, x if block else net.conv(x, out, 1, stride), act="Relu")
    return net.model(name, net.classify(x))


def resnet18_pruned() -> onnx.ModelProto:
    """Channels as a pruner leaves them, the residual stream included."""
    net = Net(224)
    rng = np.random.default_rng(1)

    def left(c: int) -> int:
        return int(c * rng.uniform(0.45, 0.8)) | 1

    x = net.max_pool(net.conv(net.input, left(64), 7, 2, act="Relu"), 3, 2, 1)
    for stage in range(4):
        out = left(64 * 2**stage)
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, left(64 * 2**stage), 3, stride, act="Relu"), out, 3)
            x = net.sum(y, x if x.channels == out and stride == 1 else net.conv(x, out, 1, stride), act="Relu")
    return net.model("resnet18_pruned", net.classify(x))


def repvgg_a0() -> onnx.ModelProto:
    """The form that is trained: 3x3, 1x1 and identity, each normalized, added up."""
    net = Net(224)
    x = net.input
    for blocks, width in ((1, 48), (2, 48), (4, 96), (14, 192), (1, 1280)):
        for block in range(blocks):
            stride = 1 if block else 2
            branches = [net.norm(net.conv(x, width, k, stride, bias=False)) for k in (3, 1)]
            if stride == 1 and x.channels == width:
                branches.append(net.norm(x))
            x = net.sum(*branches, act="Relu")
    return net.model("repvgg_a0", net.classify(x))


def yolo_spp() -> onnx.ModelProto:
    """Two detection heads, spatial pyramid pooling, a nearest upsampling between them; LeakyReLU."""
    net = Net(320)
    act = "LeakyRelu"
    x = net.conv(net.input, 32, 3, act=act)
    kept: list[Map] = []
    for width, blocks in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = net.conv(x, width, 3, 2, act=act)
        for _ in range(blocks):
            x = net.sum(x, net.conv(net.conv(x, width // 2, 1, act=act), width, 3, act=act))
        kept.append(x)
    y = net.conv(x, 256, 1, act=act)
    y = net.concat(*(net.max_pool(y, k, 1, k // 2) for k in (13, 9, 5)), y)
    y = net.conv(y, 256, 1, act=act)
    coarse = net.conv(net.conv(y, 512, 3, act=act), 255, 1)
    up = net.concat(net.upsample(net.conv(y, 128, 1, act=act)), kept[2])
    fine = net.conv(net.conv(net.conv(up, 128, 1, act=act), 256, 3, act=act), 255, 1)
    return net.model("yolo_spp", coarse, fine)


def unet() -> onnx.ModelProto:
    net = Net(128)
    x, skips = net.input, []
    for width in (32, 64, 128, 256):
        x = net.conv(net.conv(x, width, 3, act="Relu"), width, 3, act="Relu")
        skips.append(x)
        x = net.max_pool(x, 2, 2, 0)
    x = net.conv(net.conv(x, 512, 3, act="Relu"), 512, 3, act="Relu")
    for skip in reversed(skips):
        x = net.concat(net.conv(net.upsample(x), skip.channels, 3, act="Relu"), skip)
        x = net.conv(net.conv(x, skip.channels, 3, act="Relu"), skip.channels, 3, act="Relu")
    return net.model("unet", net.conv(x, 2, 1))


def mobilenet_v2() -> onnx.ModelProto:
    net = Net(224)
    x = net.conv(net.input, 32, 3, 2, act="Relu6")
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, out, blocks, first in plan:
        for block in range(blocks):
            stride = 1 if block else first
            inner = expand * x.channels
            y = net.conv(x, inner, 1, act="Relu6") if expand > 1 else x
            y = net.conv(net.conv(y, inner, 3, stride, group=inner, act="Relu6"), out, 1)
            x = net.sum(x, y) if stride == 1 and x.channels == out else y
    return net.model("mobilenet_v2", net.classify(net.conv(x, 1280, 1, act="Relu6")))


def efficientnet_b0() -> onnx.ModelProto:
    net = Net(224)
    x = net.conv(net.input, 32, 3, 2, act="SiLU")
    plan: Sequence[tuple[int, int, int, int, int]] = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )
    for expand, out, blocks, first, k in plan:
        for block in range(blocks):
            stride, inner, before = 1 if block else first, expand * x.channels, x
            y = net.conv(x, inner, 1, act="SiLU") if expand > 1 else x
            y = net.conv(y, inner, k, stride, group=inner, act="SiLU")
            squeezed = net.conv(net.add("GlobalAveragePool", inner, y), max(1, x.channels // 4), 1, act="SiLU")
            y = net.add("Mul", inner, y, net.conv(squeezed, inner, 1, act="Sigmoid"))
            x = net.conv(y, out, 1)
            x = net.sum(before, x) if stride == 1 and before.channels == out else x
    return net.model("efficientnet_b0", net.classify(net.conv(x, 1280, 1, act="SiLU")))


def convnext() -> onnx.ModelProto:
    """Depthwise 7x7, layer normalization over channels, and GELU in elementary operators, as exporters write it."""
    net = Net(224)
    x = net.input
    for width, blocks in ((48, 2), (96, 2), (192, 4), (384, 2)):
        k = 4 if x is net.input else 2
        w = net.constant((net.rng.standard_normal((width, x.channels, k, k)) / k / x.channels**0.5).astype(np.float32))
        x = net.add("Conv", width, x, w, kernel_shape=[k, k], strides=[k, k])
        for _ in range(blocks):
            x = net.sum(x, _convnext_block(net, x))
    return net.model("convnext", net.classify(x))


def _convnext_block(net: Net, x: Map) -> Map:
    c = x.channels
    y = net.add("Transpose", c, net.conv(x, c, 7, group=c), perm=[0, 2, 3, 1])
    scale, shift = (net.constant(a.astype(np.float32)) for a in (net.rng.uniform(0.5, 1.5, c), np.zeros(c)))
    y = net.add("LayerNormalization", c, y, scale, shift, axis=-1)
    y = _gelu(net, _dense(net, y, 4 * c))
    return net.add("Transpose", c, _dense(net, y, c), perm=[0, 3, 1, 2])


def _dense(net: Net, x: Map, out: int) -> Map:
    w = net.constant((net.rng.standard_normal((x.channels, out)) * (2 / x.channels) ** 0.5).astype(np.float32))
    y = net.add("MatMul", out, x, w)
    return net.add("Add", out, net.constant((0.1 * net.rng.standard_normal(out)).astype(np.float32)), y)


def _gelu(net: Net, x: Map) -> Map:
    root, one, half = (net.constant(np.array(v, np.float32)) for v in (2**0.5, 1.0, 0.5))
    y = net.add("Add", x.channels, net.add("Erf", x.channels, net.add("Div", x.channels, x, root)), one)
    return net.add("Mul", x.channels, net.add("Mul", x.channels, x, y), half)


ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        resnet50_v1,
        repvgg_a0,
        yolo_spp,
        resnet18_pruned,
        resnext50,
        unet,
        mobilenet_v2,
        efficientnet_b0,
        convnext,
    )
}
