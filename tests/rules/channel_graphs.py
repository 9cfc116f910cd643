"""Random networks of every operator that the channel engine knows, as hypothesis draws them.

Each step takes one of the maps made so far and adds more; a map is (name, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from nets import Net

Map = tuple[str, int, int, int]
Draw = Callable[[Any], Any]
Step = Callable[[Net, Draw, list[Map], Map], "Map | None"]
STEPS: list[Step] = []


def step(function: Step) -> Step:
    STEPS.append(function)
    return function


def divisor(draw: Draw, c: int) -> int:
    """One of the numbers that divide c, larger than 1; 0 for c = 1."""
    found = [d for d in range(2, c + 1) if c % d == 0]
    return int(draw(st.sampled_from(found))) if found else 0


@step
def conv(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    out = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 12]))
    return net.conv(x, c, out, draw(st.sampled_from([1, 3]))), out, h, w


@step
def grouped(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    group = divisor(draw, c)
    if not group:
        return None
    out = group * draw(st.integers(1, 3))
    if draw(st.booleans()) or h > 8:
        return net.conv(x, c, out, group=group), out, h, w
    return net.transposed(x, c, out, group=group), out, 2 * h, 2 * w


@step
def depthwise(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    times = draw(st.sampled_from([1, 1, 2, 3]))
    if c == 1:
        times = 1
    return net.conv(x, c, c * times, group=c), c * times, h, w


@step
def norm(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    if draw(st.booleans()):
        return net.norm(x, c), c, h, w
    return net.add("InstanceNormalization", x, net.random(c), net.random(c)), c, h, w


@step
def neighbours(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    return net.add("LRN", x, size=draw(st.sampled_from([1, 3, 5])), alpha=0.5), c, h, w


@step
def unary(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    ops = ["Relu", "Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Abs", "Softplus", "Neg", "Elu"]
    return net.add(draw(st.sampled_from(ops)), x), c, h, w


@step
def prelu(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    return net.add("PRelu", x, net.random(c, 1, 1)), c, h, w


@step
def constant(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    shape = draw(st.sampled_from([(c, 1, 1), (1, c, 1, 1), (1,), (1, 1, h, w), (c, h, w)]))
    op = draw(st.sampled_from(["Add", "Mul", "Sub", "Max", "Min", "Div"]))
    other = net.random(*shape, low=0.5, high=2.0)
    return net.add(op, *((other, x) if op == "Sub" else (x, other))), c, h, w


@step
def power(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    if draw(st.booleans()):
        return net.add("Pow", net.add("Tanh", x), net.constant(np.float32(2))), c, h, w
    base = net.add("Add", net.add("Sigmoid", x), net.constant(np.float32(0.5)))
    return net.add("Pow", base, net.random(c, 1, 1, low=0.5, high=2.0)), c, h, w


@step
def merge(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    other = draw(st.sampled_from([t for t in maps if t[1:] == m[1:]]))[0]
    op = draw(st.sampled_from(["Add", "Add", "Mul", "Sub", "Min", "Max", "Sum", "Where", "Where constant"]))
    if op == "Where":
        return net.add("Where", net.add("Greater", x, other), x, net.add("Tanh", other)), c, h, w
    if op == "Where constant":
        mask = net.constant(net.rng.integers(0, 2, (c, 1, 1)).astype(bool))
        return net.add("Where", mask, x, other), c, h, w
    return net.add(op, x, net.add("Tanh", other)), c, h, w


@step
def concat(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    other, more, _, _ = draw(st.sampled_from([t for t in maps if t[2:] == m[2:]]))
    return (net.add("Concat", x, other, axis=1), c + more, h, w) if c + more <= 24 else None


@step
def split(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    if c == 1:
        return None
    cut = draw(st.integers(1, c - 1))
    first, second = net.add("Split", x, net.ints(cut, c - cut), outputs=2, axis=1)
    maps.append((first, cut, h, w))
    return second, c - cut, h, w


@step
def take(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    if draw(st.booleans()):
        start = draw(st.integers(0, c - 1))
        end = draw(st.integers(start + 1, c))
        return net.add("Slice", x, net.ints(start), net.ints(end), net.ints(1)), end - start, h, w
    indices = draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=8))
    return net.add("Gather", x, net.ints(*indices), axis=1), len(indices), h, w


@step
def gate(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    """Squeeze and excitation, as different exporters write it."""
    x, c, h, w = m
    small = draw(st.integers(1, 5))
    way = draw(st.sampled_from(["maps", "flatten", "mean", "reshape", "expand", "expand as"]))
    if way in ("maps", "expand", "expand as"):
        y = net.add("Relu", net.conv(net.add("GlobalAveragePool", x), c, small, 1))
        y = net.add("HardSigmoid", net.conv(y, small, c, 1))
        if way != "maps":
            y = net.add("Expand", y, net.ints(1, c, h, w) if way == "expand" else net.add("Shape", x))
    else:
        if way == "flatten":
            y = net.pooled(x)
        elif way == "mean":
            y = net.add("ReduceMean", x, axes=[2, 3], keepdims=0)
        else:
            y = net.add("Reshape", net.add("AveragePool", x, kernel_shape=[h, w]), net.ints(-1, c))
        y = net.add("Add", net.add("MatMul", y, net.random(c, small)), net.random(small))
        y = net.add("Sigmoid", net.gemm(net.add("Relu", y), small, c))
        back = ("Reshape", y, net.ints(-1, c, 1, 1)) if way == "reshape" else ("Unsqueeze", y, net.ints(2, 3))
        y = net.add(*back)
    return net.add("Mul", x, y), c, h, w


@step
def attention(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    """A map that is the same for all channels, made of all of them."""
    x, c, h, w = m
    op = draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum"]))
    x = net.add("Relu", x)
    y = net.add(op, x, net.ints(1)) if op == "ReduceSum" else net.add(op, x, axes=[1])
    return net.add("Mul", x, net.add("Sigmoid", y)), c, h, w


@step
def pool(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    if draw(st.booleans()):
        op = draw(st.sampled_from(["AveragePool", "MaxPool"]))
        return net.add(op, x, kernel_shape=[2, 3], pads=[1, 1, 0, 1]), c, h, w
    if h < 4 or w < 4:
        return None
    return net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), c, h // 2, w // 2


@step
def border(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    value = net.constant(np.float32(draw(st.sampled_from([0.0, 1.5]))))
    mode = draw(st.sampled_from(["constant", "edge"]))
    y = net.add("Pad", x, net.ints(0, 0, 1, 0, 0, 0, 0, 0), value, mode=mode)
    return net.add("Slice", y, net.ints(0), net.ints(h), net.ints(2)), c, h, w


@step
def resize(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    if h > 5 or w > 5:
        return None
    way = draw(st.sampled_from(["scales", "copied"]))
    if way == "scales":
        y = net.add("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    else:
        size = net.add("Slice", net.add("Shape", x), net.ints(0), net.ints(2), net.ints(0))
        y = net.add("Resize", x, "", "", net.add("Concat", size, net.ints(2 * h, 2 * w), axis=0), mode="linear")
    return y, c, 2 * h, 2 * w


@step
def shuffle(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    group = divisor(draw, c)
    if not group:
        return None
    y = net.add("Reshape", x, net.ints(draw(st.sampled_from([0, -1])), group, c // group, h, w))
    y = net.add("Transpose", y, perm=[0, 2, 1, 3, 4])
    return net.add("Reshape", y, net.ints(0, draw(st.sampled_from([c, -1])), h, w)), c, h, w


@step
def depth_to_space(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    if c % 4 or h > 5 or w > 5:
        return None
    way, q = draw(st.sampled_from(["DCR", "CRD", "reshape DCR", "reshape CRD"])), c // 4
    if not way.startswith("reshape"):
        return net.add("DepthToSpace", x, blocksize=2, mode=way), q, 2 * h, 2 * w
    sizes, perm = ((2, 2, q), [0, 3, 4, 1, 5, 2]) if way.endswith("DCR") else ((q, 2, 2), [0, 1, 4, 2, 5, 3])
    y = net.add("Transpose", net.add("Reshape", x, net.ints(0, *sizes, h, w)), perm=perm)
    return net.add("Reshape", y, net.ints(0, q, 2 * h, 2 * w)), q, 2 * h, 2 * w


@step
def space_to_depth(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map | None:
    x, c, h, w = m
    return (net.add("SpaceToDepth", x, blocksize=2), 4 * c, h // 2, w // 2) if h % 2 == w % 2 == 0 and c < 5 else None


@step
def quantised(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    """Scales are powers of 2, so that roundings are few."""
    x, c, h, w = m
    if draw(st.booleans()):
        scale, zero = net.constant(np.float32(1 / 16)), net.constant(np.array(draw(st.integers(0, 9)), np.uint8))
        return net.add("DequantizeLinear", net.add("QuantizeLinear", x, scale, zero), scale, zero), c, h, w
    scales = net.constant(2.0 ** net.rng.integers(-5, -2, c).astype(np.float32))
    zeros = net.constant(net.rng.integers(-9, 9, c).astype(np.int8))
    y = net.add("QuantizeLinear", x, scales, zeros, axis=1)
    return net.add("DequantizeLinear", y, scales, zeros, axis=1), c, h, w


@step
def quantised_weights(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    x, c, h, w = m
    out, along = draw(st.integers(1, 7)), draw(st.sampled_from([None, 0, 1]))
    size = {None: (), 0: (out,), 1: (c,)}[along]
    stored = net.constant(net.rng.integers(-100, 100, (out, c, 3, 3)).astype(np.int8))
    scale = net.constant(np.full(size, 1 / 256, np.float32) * net.rng.integers(1, 3, size).astype(np.float32))
    zero = net.constant(net.rng.integers(-9, 9, size).astype(np.int8))
    weight = net.add("DequantizeLinear", stored, scale, zero, axis=along or 0)
    bias = net.constant(net.rng.integers(-99, 99, out).astype(np.int32))
    inputs = [x, weight]
    if draw(st.booleans()):
        inputs.append(net.add("DequantizeLinear", bias, net.constant(np.float32(1 / 128))))
    return net.add("Conv", *inputs, pads=[1] * 4), out, h, w


@step
def channels_last(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    """An export from NHWC: some operators between two Transposes."""
    x, c, h, w = m
    y = net.add("Transpose", x, perm=[0, 2, 3, 1])
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(["matmul", "add", "mean", "pad", "shuffle", "concat", "slice", "resize"]))
        if way == "matmul":
            out = draw(st.integers(1, 6))
            y, c = net.add("Add", net.add("MatMul", y, net.random(c, out)), net.random(out)), out
        elif way == "add":
            y = net.add("Add", net.add("Relu", y), net.random(c))
        elif way == "mean":
            y = net.add("Mul", y, net.add("ReduceMean", y, axes=[1, 2]))
        elif way == "pad":
            y = net.add("Pad", y, net.ints(0, 1, 0, 0, 0, 0, 1, 0))
            h, w = h + 1, w + 1
        elif way == "shuffle" and (group := divisor(draw, c)):
            y = net.add("Reshape", y, net.ints(-1, h, w, group, c // group))
            y = net.add("Reshape", net.add("Transpose", y, perm=[0, 1, 2, 4, 3]), net.ints(0, h, w, c))
        elif way == "concat" and c < 12:
            y, c = net.add("Concat", y, net.add("Tanh", y), axis=-1), 2 * c
        elif way == "slice" and c > 1:
            y, c = net.add("Slice", y, net.ints(1), net.ints(c), net.ints(3)), c - 1
        elif way == "resize" and h < 5 and w < 5:
            y, h, w = net.add("Resize", y, "", "", net.ints(1, 2 * h, 2 * w, c), mode="nearest"), 2 * h, 2 * w
            return net.add("Transpose", y, perm=[0, 3, 1, 2]), c, h, w
    return net.add("Transpose", y, perm=[0, 3, 1, 2]), c, h, w


@step
def tokens(net: Net, draw: Draw, maps: list[Map], m: Map) -> Map:
    """A list of places, each with all channels; or products over the places."""
    x, c, h, w = m
    y = net.add("Reshape", x, net.ints(0, draw(st.sampled_from([0, c])), -1))
    if draw(st.booleans()):
        return net.add("Reshape", net.add("MatMul", y, net.random(h * w, h * w)), net.ints(0, 0, h, w)), c, h, w
    out = draw(st.integers(1, 6))
    y = net.add("MatMul", net.add("Transpose", y, perm=[0, 2, 1]), net.random(c, out))
    return net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1]), net.ints(0, out, h, w)), out, h, w


def head(net: Net, draw: Draw, m: Map) -> str:
    """A tensor of known channels at the end."""
    x, c, h, w = m
    way = draw(st.sampled_from(["conv", "flatten", "flatten nhwc", "squeeze", "mean nhwc", "decoder"]))
    if way == "conv":
        return net.conv(x, c, 4, 1)
    if way == "flatten":
        return net.gemm(net.add("Flatten", x), c * h * w, 3)
    if way == "squeeze":
        return net.gemm(net.add("Squeeze", net.add("GlobalMaxPool", x), net.ints(2, 3)), c, 3, transB=0)
    if way == "decoder":
        y = net.add("Reshape", net.gemm(net.add("Flatten", x), c * h * w, 3 * 4), net.ints(-1, 3, 2, 2))
        return net.conv(net.norm(y, 3), 3, 2, 1)
    y = net.add("Transpose", x, perm=[0, 2, 3, 1])
    if way == "mean nhwc":
        return str(net.add("MatMul", net.add("ReduceMean", y, axes=[1, 2], keepdims=0), net.random(c, 3)))
    return net.gemm(net.add("Reshape", y, net.ints(-1, c * h * w)), c * h * w, 3)


def network(draw: Draw, steps: list[Step] | None = None) -> onnx.ModelProto:
    """A random network. `steps`: only these."""
    c, h, w = draw(st.integers(1, 5)), draw(st.integers(2, 6)), draw(st.integers(2, 7))
    net = Net(draw(st.sampled_from([1, 2, 3, "N"])), c, h, w, seed=draw(st.integers(0, 99)))
    first = draw(st.sampled_from([3, 4, 6, 8, 9, 12]))
    maps: list[Map] = [(net.add("Relu", net.conv("x", c, first)), first, h, w)]
    for _ in range(draw(st.integers(3, 9))):
        recent = maps[-4:]
        made = draw(st.sampled_from(steps or STEPS))(net, draw, maps, draw(st.sampled_from(recent[::-1])))
        if made is not None and made[1] <= 24:
            maps.append(made)
    return net.model(*(head(net, draw, m) for m in maps[-2:]))
