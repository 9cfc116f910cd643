"""Random CNN graphs: valid models out of some seventy operators, in the forms of many opsets.

A graph grows layer by layer from an image input. Every layer takes a tensor [N, C, H, W] and gives one
back; what does not fit the tensor (a kernel larger than the map) is left out. What is drawn is drawn
from a `Choices`, so that hypothesis can shrink a failing graph to a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

T = TypeVar("T")
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22)
CHANNELS = (1, 2, 3, 4, 5, 6, 8, 13)


class UnfitError(Exception):
    """The layer cannot stand on this tensor."""


class Choices(Protocol):
    def pick(self, options: Sequence[T]) -> T: ...
    def number(self, low: int, high: int) -> int: ...
    def chance(self, percent: int) -> bool: ...


class Seeded:
    """Choices from a seed, for graphs outside of hypothesis."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._rng.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def chance(self, percent: int) -> bool:
        return bool(self._rng.integers(100) < percent)


class Sketch:
    """A graph that grows. `dynamic`: which input axes are symbols, of "", "N" and "NHW"."""

    def __init__(self, choose: Choices) -> None:
        self.choose = choose
        self.opset = choose.pick(OPSETS)
        self.dynamic = choose.pick(("", "N", "NHW"))
        self.half = choose.chance(8)
        self.fed_weights = choose.chance(12)
        self.rng = np.random.default_rng(choose.number(0, 10**6))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.fed: list[onnx.ValueInfoProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.shared: dict[tuple[int, ...], str] = {}
        self._count = 0
        batch = 1 if "N" in self.dynamic else choose.pick((1, 2))
        size = (batch, choose.pick((1, 3, 4)), choose.number(5, 16), choose.number(5, 16))
        self.shapes["x"] = size
        self.input = size

    @property
    def type(self) -> int:
        return int(TensorProto.FLOAT16 if self.half else TensorProto.FLOAT)

    @property
    def dtype(self) -> Any:
        return np.float16 if self.half else np.float32

    @property
    def fixed(self) -> bool:
        """Are height and width numbers?"""
        return "H" not in self.dynamic

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def need(self, condition: bool) -> None:
        if not condition:
            raise UnfitError

    def add(
        self,
        op_type: str,
        *inputs: str | NDArray[Any],
        outputs: int = 1,
        known: tuple[int, ...] | None = None,
        **attributes: Any,
    ) -> Any:
        """Adds a node; arrays become initializers. Returns the name of its output (a list when several).

        `known`: the output's shape where it does not follow from the node alone.
        """
        sources = [i if isinstance(i, str) else self.store(i) for i in inputs]
        made = [self.name(op_type.lower()) for _ in range(outputs)]
        kept = {k: v for k, v in attributes.items() if v is not None}
        node = helper.make_node(op_type, sources, made, name=self.name("node"), **kept)
        self.nodes.append(node)
        if known is not None:
            self.shapes[made[0]] = known
        else:
            self._infer(node)
        return made[0] if outputs == 1 else made

    def store(self, value: NDArray[Any], stem: str = "w") -> str:
        name = self.name(stem)
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        self.shapes[name] = np.shape(value)
        return name

    def weight(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> str:
        """A weight in the model's type: an initializer, a Constant node, a fed input's default, one used before."""
        if shape in self.shared and self.choose.chance(12):
            return self.shared[shape]
        value = (offset + scale * self._values(shape)).astype(self.dtype)
        name = self.name("w")
        tensor = numpy_helper.from_array(value, name)
        self.shapes[name] = shape
        if self.choose.chance(15):
            self.nodes.append(helper.make_node("Constant", [], [name], name=self.name("node"), value=tensor))
        else:
            self.weights.append(tensor)
            if self.fed_weights and self.choose.chance(50):
                self.fed.append(helper.make_tensor_value_info(name, self.type, shape))
        if offset == 0.0:
            self.shared[shape] = name
        return name

    def _values(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Normal values; sometimes whole rows are zero or equal, as pruned and trained networks have them."""
        value = self.rng.standard_normal(shape)
        kind = self.choose.pick(("plain", "plain", "plain", "dead", "equal", "whole"))
        if kind == "dead" and shape:
            value[self.rng.random(shape[0]) < 0.4] = 0.0
        elif kind == "equal" and shape:
            value[:] = value[self.rng.integers(0, shape[0], shape[0])]
        elif kind == "whole":
            value = np.clip(np.round(value), -2, 2)
        return value

    def positive(self, *shape: int) -> str:
        """Values between a half and two, never shared with others."""
        value = self.rng.uniform(0.5, 2.0, shape).astype(self.dtype)
        name = self.name("w")
        self.weights.append(numpy_helper.from_array(value, name))
        self.shapes[name] = shape
        return name

    def scalar(self, value: float) -> NDArray[Any]:
        return np.array(value, self.dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def _infer(self, node: onnx.NodeProto) -> None:
        """Learns the concrete shapes of the node's outputs from a model of the graph so far."""
        before = [i for i in node.input if i and i not in {w.name for w in self.weights}]
        known = {n.output[0]: n for n in self.nodes if n.op_type == "Constant"}
        inner = [known[i] for i in before if i in known]
        types = {i: self.types.get(i, self.type) for i in before if i not in known}
        inputs = [helper.make_tensor_value_info(i, t, self.shapes[i]) for i, t in types.items()]
        used = [w for w in self.weights if w.name in node.input]
        outputs = [onnx.ValueInfoProto(name=o) for o in node.output]
        graph = helper.make_graph([*inner, node], "g", inputs, outputs, used)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            found = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
        except shape_inference.InferenceError:
            found = []
        for value in found:
            if not value.type.tensor_type.HasField("shape"):
                break
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            if min(dims, default=1) <= 0:
                break
            self.shapes[value.name] = tuple(dims)
            if value.type.tensor_type.elem_type != self.type:
                self.types[value.name] = value.type.tensor_type.elem_type
        if not all(o in self.shapes for o in node.output):
            raise UnfitError

    @property
    def types(self) -> dict[str, int]:
        """Element types of the tensors that are not of the model's own."""
        return self.__dict__.setdefault("_types", {})

    # --- operators that changed over the opsets --------------------------------------------------

    def ints(self, values: Sequence[int]) -> NDArray[np.int64]:
        return np.array(values, np.int64)

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset < 11:
            return str(self.add("Clip", x, min=low, max=high))
        return str(self.add("Clip", x, self.scalar(low), self.scalar(high)))

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        if self.opset < 10:
            return str(self.add("Slice", x, axes=[axis], starts=[start], ends=[end]))
        return str(self.add("Slice", x, *(self.ints([v]) for v in (start, end, axis))))

    def reduce(self, op_type: str, x: str, axes: Sequence[int], keep: bool = True) -> str:
        if self.opset >= (13 if op_type == "ReduceSum" else 18):
            return str(self.add(op_type, x, self.ints(axes), keepdims=int(keep)))
        return str(self.add(op_type, x, axes=list(axes), keepdims=int(keep)))

    def split(self, x: str, sizes: Sequence[int]) -> list[str]:
        count = len(sizes)
        if self.opset < 13:
            return list(self.add("Split", x, outputs=count, axis=1, split=list(sizes)))
        return list(self.add("Split", x, self.ints(sizes), outputs=count, axis=1))

    def squeeze(self, op_type: str, x: str, axes: Sequence[int]) -> str:
        if self.opset < 13:
            return str(self.add(op_type, x, axes=list(axes)))
        return str(self.add(op_type, x, self.ints(axes)))

    # --- the model -------------------------------------------------------------------------------

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        batch, channels, height, width = self.input
        dims: list[int | str] = ["N" if "N" in self.dynamic else batch, channels]
        dims += ["H", "W"] if "H" in self.dynamic else [height, width]
        x = helper.make_tensor_value_info("x", self.type, dims)
        results = []
        for name in outputs:
            rank = len(self.shapes[name])
            shape = [None] * rank if self.dynamic else list(self.shapes[name])
            results.append(helper.make_tensor_value_info(name, self.types.get(name, self.type), shape))
        graph = helper.make_graph(self.nodes, "fuzz", [x, *self.fed], results, self.weights)
        imports = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=8 if self.opset < 20 else 10)
        onnx.checker.check_model(proto, full_check=True)
        return proto


Layer = Callable[[Sketch, str], str]


@dataclass(frozen=True)
class Entry:
    layer: Layer
    opset: int
    fixed: bool


LAYERS: list[Entry] = []


def layer(opset: int = 7, *, fixed: bool = False, times: int = 1) -> Callable[[Layer], Layer]:
    """Adds a layer to the list: from which opset on, whether it needs a known height and width, how often."""

    def put(function: Layer) -> Layer:
        LAYERS.extend([Entry(function, opset, fixed)] * times)
        return function

    return put


def join(s: Sketch, x: str) -> str | None:
    """Another tensor of the same shape, if the graph has one."""
    mine = [n.output[0] for n in s.nodes if n.op_type != "Constant" and n.output[0] not in s.types]
    same = [t for t in ["x", *mine] if t != x and s.shapes.get(t) == s.shape(x)]
    return s.choose.pick(same[-4:]) if same else None


# --- convolutions and matrix products ----------------------------------------------------------------


def convolve(s: Sketch, x: str, out: int, kernel: tuple[int, int], group: int = 1, **attributes: Any) -> str:
    inside = s.shape(x)[1] // group
    scale = (2.0 / (inside * kernel[0] * kernel[1])) ** 0.5
    inputs = [x, s.weight(out, inside, *kernel, scale=scale)]
    if s.choose.chance(60):
        inputs.append(s.weight(out, scale=0.5))
    shape = list(kernel) if s.choose.chance(80) else None
    return str(s.add("Conv", *inputs, group=group if group > 1 else None, kernel_shape=shape, **attributes))


@layer(times=5)
def conv(s: Sketch, x: str) -> str:
    k = s.choose.pick(((1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1), (2, 2), (7, 7)))
    pads: list[int] | None = [k[0] // 2, k[1] // 2, k[0] // 2, k[1] // 2]
    how = s.choose.pick(("same", "same", "none", "uneven", "auto"))
    auto = s.choose.pick(("SAME_UPPER", "SAME_LOWER", "VALID")) if how == "auto" else None
    if how == "uneven":
        pads = [s.choose.number(0, 2) for _ in range(4)]
    elif how in ("none", "auto"):
        pads = None
    strides = s.choose.pick((None, None, [1, 1], [2, 2], [2, 1]))
    dilations = s.choose.pick((None, None, None, [1, 1], [2, 2], [2, 1])) if auto is None else None
    return convolve(s, x, s.choose.pick(CHANNELS), k, pads=pads, auto_pad=auto, strides=strides, dilations=dilations)


@layer(times=2)
def depthwise(s: Sketch, x: str) -> str:
    channels = s.shape(x)[1]
    out = channels * s.choose.pick((1, 1, 2))
    return convolve(s, x, out, (3, 3), channels, pads=[1, 1, 1, 1], strides=s.choose.pick((None, [2, 2])))


@layer()
def grouped(s: Sketch, x: str) -> str:
    channels = s.shape(x)[1]
    groups = [g for g in (2, 3, 4) if channels % g == 0]
    s.need(bool(groups))
    group = s.choose.pick(groups)
    return convolve(s, x, group * s.choose.number(1, 3), (3, 3), group, pads=[1, 1, 1, 1])


@layer()
def conv_transpose(s: Sketch, x: str) -> str:
    channels, out = s.shape(x)[1], s.choose.pick((1, 2, 4, 5))
    s.need(s.shape(x)[2] <= 20 and s.shape(x)[3] <= 20)
    k, stride = s.choose.pick(((2, 2), (3, 2), (3, 1), (4, 2)))
    pads = s.choose.pick((None, [1, 1, 1, 1], [0, 1, 1, 0]))
    extra = [1, 1] if stride == 2 and s.choose.chance(25) else None
    inputs = [x, s.weight(channels, out, k, k, scale=(1 / channels) ** 0.5 / k)]
    inputs += [s.weight(out)] if s.choose.chance(50) else []
    return str(
        s.add("ConvTranspose", *inputs, strides=[stride] * 2, pads=pads, output_padding=extra, kernel_shape=[k, k])
    )


@layer()
def pixel_matmul(s: Sketch, x: str) -> str:
    """A linear layer over the channels of an image whose channels are last for a while."""
    out = s.choose.pick(CHANNELS)
    t = s.add("Transpose", x, perm=[0, 2, 3, 1])
    m = s.add("MatMul", t, s.weight(s.shape(x)[1], out, scale=s.shape(x)[1] ** -0.5))
    if s.choose.chance(60):
        m = s.add("Add", m, s.weight(out))
    return str(s.add("Transpose", m, perm=[0, 3, 1, 2]))


# --- normalisation -----------------------------------------------------------------------------------


@layer(times=4)
def batch_norm(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    scale = s.weight(c, scale=0.7, offset=s.choose.pick((0.0, 0.5)))
    return str(s.add("BatchNormalization", x, scale, s.weight(c), s.weight(c, scale=0.3), s.positive(c), epsilon=1e-3))


@layer()
def lrn(s: Sketch, x: str) -> str:
    return str(
        s.add("LRN", x, size=s.choose.pick((3, 5)), alpha=s.choose.pick((1e-4, 0.1)), beta=s.choose.pick((0.75, 0.5)))
    )


@layer()
def instance_norm(s: Sketch, x: str) -> str:
    s.need(s.fixed and s.shape(x)[2] * s.shape(x)[3] >= 9)
    c = s.shape(x)[1]
    return str(s.add("InstanceNormalization", x, s.weight(c), s.weight(c), epsilon=0.1))


@layer(17, fixed=True)
def layer_norm(s: Sketch, x: str) -> str:
    s.need(s.shape(x)[3] >= 3)
    width = s.shape(x)[3]
    return str(s.add("LayerNormalization", x, s.weight(width), s.weight(width), axis=-1, epsilon=0.1))


@layer(21)
def group_norm(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    s.need(c % 2 == 0 and s.shape(x)[2] * s.shape(x)[3] >= 9)
    return str(s.add("GroupNormalization", x, s.weight(c), s.weight(c), num_groups=2, epsilon=0.1))


# --- element by element ------------------------------------------------------------------------------


@layer(times=4)
def activation(s: Sketch, x: str) -> str:
    known = [
        "Relu",
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "Softplus",
        "Softsign",
        "Abs",
    ]
    known += ["Neg", "ThresholdedRelu"]
    known += ["Erf"] if s.opset >= 9 else []
    known += ["Sin", "Atan"] if s.opset >= 9 else []
    known += ["Celu"] if s.opset >= 12 and not s.half else []
    known += ["HardSwish"] if s.opset >= 14 else []
    known += ["Mish"] if s.opset >= 18 else []
    known += ["Gelu"] if s.opset >= 20 else []
    return str(s.add(s.choose.pick(known), x))


@layer()
def prelu(s: Sketch, x: str) -> str:
    s.need(s.opset >= 9)
    return str(s.add("PRelu", x, s.weight(s.shape(x)[1], 1, 1, scale=0.3)))


@layer()
def relu6(s: Sketch, x: str) -> str:
    return s.clip(x, s.choose.pick((0.0, -1.0)), s.choose.pick((6.0, 1.0)))


@layer()
def swish(s: Sketch, x: str) -> str:
    if s.choose.chance(50):
        return str(s.add("Mul", x, s.add("Sigmoid", x)))
    gate = s.clip(s.add("Add", x, s.scalar(3.0)), 0.0, 6.0)
    product = s.add("Mul", x, gate)
    return str(s.add("Div", product, s.scalar(6.0)) if s.choose.chance(50) else s.add("Mul", product, s.scalar(1 / 6)))


@layer(times=3)
def affine(s: Sketch, x: str) -> str:
    """Arithmetic with a constant: of one number, per channel, per pixel, on either side."""
    c, h, w = s.shape(x)[1:]
    shapes: list[tuple[int, ...]] = [(), (1,), (1, 1, 1, 1), (c, 1, 1), (1, c, 1, 1)]
    shapes += [(h, w)] if s.fixed else []
    op_type = s.choose.pick(("Add", "Sub", "Mul", "Div", "Max", "Min"))
    if op_type in ("Max", "Min"):
        s.need(s.opset >= 8)
    shape = s.choose.pick(shapes)
    constant = s.positive(*shape) if op_type == "Div" else s.weight(*shape)
    swapped = op_type not in ("Div",) and s.choose.chance(30)
    return str(s.add(op_type, *((constant, x) if swapped else (x, constant))))


@layer(times=3)
def merge(s: Sketch, x: str) -> str:
    other = join(s, x)
    s.need(other is not None)
    op_type = s.choose.pick(("Add", "Add", "Mul", "Sub", "Max", "Sum", "Mean", "Min"))
    s.need(s.opset >= 8 or op_type not in ("Max", "Min", "Sum", "Mean"))
    product = s.add(op_type, x, str(other))
    return str(s.add("Tanh", product) if op_type == "Mul" else product)


@layer(times=2)
def residual(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    y = convolve(s, x, c, (3, 3), pads=[1, 1, 1, 1])
    if s.choose.chance(50):
        y = batch_norm(s, y)
    y = s.add("Add", y, x)
    return str(s.add("Relu", y) if s.choose.chance(60) else y)


@layer()
def repeated_branches(s: Sketch, x: str) -> str:
    """Training form of RepVGG: 3x3 and 1x1 side by side, perhaps with the identity."""
    c = s.shape(x)[1]
    y = s.add("Add", convolve(s, x, c, (3, 3), pads=[1, 1, 1, 1]), convolve(s, x, c, (1, 1)))
    return str(s.add("Add", y, batch_norm(s, x)) if s.choose.chance(50) else y)


@layer()
def squares(s: Sketch, x: str) -> str:
    t = s.add("Tanh", x)
    kind = s.choose.pick(("Pow", "Exp", "Sqrt", "Reciprocal", "Mul"))
    if kind == "Pow":
        return str(s.add("Pow", t, s.scalar(2.0)))
    if kind == "Sqrt":
        return str(s.add("Sqrt", s.add("Add", s.add("Abs", t), s.scalar(1.0))))
    if kind == "Reciprocal":
        return str(s.add("Reciprocal", s.add("Add", t, s.scalar(2.0))))
    return str(s.add("Exp", t) if kind == "Exp" else s.add("Mul", t, t))


@layer()
def softmax(s: Sketch, x: str) -> str:
    s.need(s.opset >= 13 or s.fixed)
    return str(s.add(s.choose.pick(("Softmax", "LogSoftmax")), x, axis=1))


# --- nothing at all ----------------------------------------------------------------------------------


@layer(times=2)
def no_op(s: Sketch, x: str) -> str:
    kind = s.choose.pick(("Identity", "Dropout", "Transpose", "Cast", "Mul", "Add", "Pad", "Slice", "Reshape"))
    if kind == "Transpose":
        return str(s.add("Transpose", s.add("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]))
    if kind == "Cast":
        return str(s.add("Cast", x, to=s.type))
    if kind == "Mul":
        return str(s.add("Mul", x, s.scalar(1.0)))
    if kind == "Add":
        return str(s.add("Add", x, s.scalar(0.0)))
    if kind == "Pad":
        return str(s.add("Pad", x, pads=[0] * 8) if s.opset < 11 else s.add("Pad", x, s.ints([0] * 8)))
    if kind == "Slice":
        return s.slice(x, 1, 0, s.shape(x)[1])
    if kind == "Reshape":
        s.need(s.fixed)
        return str(s.add("Reshape", x, s.ints([-1, *s.shape(x)[1:]])))
    return str(s.add(kind, x))


@layer(9)
def where(s: Sketch, x: str) -> str:
    other = join(s, x) or s.add("Neg", x)
    if s.choose.chance(50):
        condition: str | NDArray[Any] = s.rng.random((s.shape(x)[1], 1, 1)) < 0.5
    else:
        condition = s.add("Greater", x, s.scalar(0.1))
        # a comparison is a step: what is on either side of it must meet there
        return str(
            s.add(
                "Where",
                condition,
                s.add("Sub", x, s.scalar(0.1)),
                s.add("Mul", s.add("Sub", x, s.scalar(0.1)), s.scalar(0.5)),
            )
        )
    return str(s.add("Where", condition, x, other))


@layer()
def cast_there_and_back(s: Sketch, x: str) -> str:
    wide = TensorProto.FLOAT if s.half else TensorProto.DOUBLE
    t = s.add("Cast", x, to=wide)
    return str(s.add("Cast", t, to=s.type))


# --- pooling and resizing ----------------------------------------------------------------------------


@layer(times=3)
def pool(s: Sketch, x: str) -> str:
    op_type = s.choose.pick(("MaxPool", "AveragePool"))
    k = s.choose.pick((2, 3, 3, 5))
    s.need(min(s.shape(x)[2:]) >= 2)
    how = s.choose.pick(("none", "same", "uneven", "auto"))
    pads = {"same": [k // 2] * 4, "uneven": [0, 1, 1, 0]}.get(how)
    auto = s.choose.pick(("SAME_UPPER", "SAME_LOWER", "VALID")) if how == "auto" else None
    ceil = s.choose.pick((None, 0, 1)) if s.opset >= 10 and auto is None else None
    counted = s.choose.pick((None, 0, 1)) if op_type == "AveragePool" else None
    dilated = [2, 2] if op_type == "MaxPool" and s.opset >= 10 and how == "same" and s.choose.chance(15) else None
    stride = s.choose.pick((1, 2, 2, 3))
    return str(
        s.add(
            op_type,
            x,
            kernel_shape=[k, k],
            strides=[stride, stride] if stride > 1 or s.choose.chance(50) else None,
            pads=pads,
            auto_pad=auto,
            ceil_mode=ceil,
            count_include_pad=counted,
            dilations=dilated,
        )
    )


@layer()
def pyramid(s: Sketch, x: str) -> str:
    """SPP: poolings of several sizes beside each other."""
    parts = [x]
    for k in (3, 5, 7):
        parts.append(s.add("MaxPool", x, kernel_shape=[k, k], strides=[1, 1], pads=[k // 2] * 4))
    s.need(s.shape(x)[1] <= 8)
    return str(s.add("Concat", *parts, axis=1))


@layer()
def upsample(s: Sketch, x: str) -> str:
    s.need(max(s.shape(x)[2:]) <= 12)
    mode = s.choose.pick(("nearest", "linear"))
    scales = np.array([1, 1, 2, s.choose.pick((2, 3))], np.float32)
    if s.opset < 9:
        return str(s.add("Upsample", x, scales=[float(v) for v in scales], mode=mode))
    if s.opset == 9:
        return str(s.add("Upsample", x, scales, mode=mode))
    if s.opset == 10:
        return str(s.add("Resize", x, scales, mode=mode))
    s.need(not s.half)
    roi = s.store(np.zeros(0, np.float32)) if s.opset < 13 else ""
    how = s.choose.pick(("asymmetric", "half_pixel", "align_corners"))
    rounding = s.choose.pick(("floor", "round_prefer_floor")) if mode == "nearest" else None
    return str(s.add("Resize", x, roi, scales, mode=mode, coordinate_transformation_mode=how, nearest_mode=rounding))


@layer(times=2)
def pad(s: Sketch, x: str) -> str:
    s.need(min(s.shape(x)[2:]) >= 3 and max(s.shape(x)[2:]) <= 24)
    mode = s.choose.pick(("constant", "constant", "reflect", "edge"))
    ends = [s.choose.number(0, 2) for _ in range(4)]
    pads = [0, 0, ends[0], ends[1], 0, 0, ends[2], ends[3]]
    if s.opset < 11:
        return str(s.add("Pad", x, pads=pads, mode=mode, value=0.5 if s.choose.chance(20) else None))
    extra = [s.scalar(s.choose.pick((0.0, 0.5)))] if mode == "constant" and s.choose.chance(50) else []
    return str(s.add("Pad", x, s.ints(pads), *extra, mode=mode))


# --- moving channels and pixels ----------------------------------------------------------------------


@layer(times=2)
def concat(s: Sketch, x: str) -> str:
    s.need(s.shape(x)[1] <= 13)
    parts = [x]
    for _ in range(s.choose.number(1, 2)):
        kind = s.choose.pick(("conv", "self", "other"))
        other = join(s, x)
        if kind == "other" and other:
            parts.append(other)
        elif kind == "self":
            parts.append(x)
        else:
            parts.append(convolve(s, x, s.choose.pick((1, 2, 4)), (3, 3), pads=[1, 1, 1, 1]))
    return str(s.add("Concat", *parts, axis=1))


@layer()
def split(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    s.need(c >= 2)
    cut = s.choose.number(1, c - 1)
    parts = s.split(x, [cut, c - cut])
    what = s.choose.pick(("swap", "first", "work"))
    if what == "first":
        return parts[0]
    if what == "work":
        parts[0] = activation(s, parts[0])
        return str(s.add("Concat", *parts, axis=1))
    return str(s.add("Concat", *reversed(parts), axis=1))


@layer()
def slice_channels(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    s.need(c >= 3)
    start = s.choose.number(0, c - 2)
    return s.slice(x, 1, start, s.choose.pick((c, start + 1)))


@layer()
def crop(s: Sketch, x: str) -> str:
    s.need(min(s.shape(x)[2:]) >= 4)
    return s.slice(x, 2, 1, -1)


@layer()
def every_other(s: Sketch, x: str) -> str:
    """The shortcut of small ResNets: every second pixel."""
    s.need(s.opset >= 10 and min(s.shape(x)[2:]) >= 3)
    return str(s.add("Slice", x, s.ints([0, 0]), s.ints([10**6] * 2), s.ints([2, 3]), s.ints([2, 2])))


@layer()
def gather(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    order = s.rng.permutation(c) if s.choose.chance(60) else s.rng.integers(0, c, s.choose.number(1, c))
    return str(s.add("Gather", x, order.astype(np.int64), axis=1))


@layer(fixed=True)
def shuffle(s: Sketch, x: str) -> str:
    n, c, h, w = s.shape(x)
    s.need(c % 2 == 0)
    batch = -1 if "N" in s.dynamic else n
    t = s.add("Reshape", x, s.ints([batch, 2, c // 2, h, w]))
    t = s.add("Transpose", t, perm=[0, 2, 1, 3, 4])
    return str(s.add("Reshape", t, s.ints([batch, c, h, w])))


@layer()
def depth_to_space(s: Sketch, x: str) -> str:
    s.need(s.shape(x)[1] % 4 == 0 and max(s.shape(x)[2:]) <= 12)
    mode = s.choose.pick(("DCR", "CRD")) if s.opset >= 11 else None
    return str(s.add("DepthToSpace", x, blocksize=2, mode=mode))


@layer(fixed=True)
def space_to_depth(s: Sketch, x: str) -> str:
    s.need(s.shape(x)[1] <= 4 and all(d % 2 == 0 for d in s.shape(x)[2:]))
    return str(s.add("SpaceToDepth", x, blocksize=2))


@layer(fixed=True)
def transposed_image(s: Sketch, x: str) -> str:
    return str(s.add("Transpose", x, perm=[0, 1, 3, 2]))


# --- what the rules look for -------------------------------------------------------------------------


@layer(times=2)
def padded(s: Sketch, x: str) -> str:
    """A Pad in front of what has pads of its own."""
    y = pad(s, x)
    if s.choose.chance(60):
        return convolve(s, y, s.choose.pick(CHANNELS), (3, 3), pads=s.choose.pick((None, [1, 0, 0, 1])))
    return str(s.add(s.choose.pick(("MaxPool", "AveragePool")), y, kernel_shape=[3, 3], strides=[2, 2]))


@layer(times=2)
def linear_stack(s: Sketch, x: str) -> str:
    """Convolutions, scales and shifts with nothing between that bends."""
    y = x
    for _ in range(s.choose.number(2, 3)):
        y = s.choose.pick((conv, affine, batch_norm, depthwise, pool))(s, y)
    return y


@layer(times=2)
def parted(s: Sketch, x: str) -> str:
    """Branches side by side, joined, and taken apart again."""
    parts = [convolve(s, x, s.choose.number(1, 4), k, pads=[k[0] // 2] * 4) for k in ((1, 1), (1, 1), (3, 3))]
    if s.choose.chance(40):
        parts = [str(s.add("Relu", p)) for p in parts]
    y = s.add("Concat", *parts, axis=1)
    kind = s.choose.pick(("join", "split", "slice", "gather", "conv"))
    if kind == "split":
        return s.split(y, [s.shape(p)[1] for p in parts])[s.choose.number(0, 2)]
    if kind == "slice":
        start = s.choose.number(0, s.shape(y)[1] - 1)
        return s.slice(y, 1, start, s.choose.number(start + 1, s.shape(y)[1]))
    if kind == "gather":
        return gather(s, y)
    return convolve(s, y, s.choose.pick(CHANNELS), (1, 1)) if kind == "conv" else str(y)


@layer(times=2)
def cheaper_elsewhere(s: Sketch, x: str) -> str:
    """What could stand before or after its neighbour: an activation at a pooling, a cut at a convolution."""
    first, second = s.choose.pick(
        (
            (activation, pool),
            (pool, activation),
            (activation, every_other),
            (conv, every_other),
            (conv, slice_channels),
            (conv, gather),
            (upsample, conv),
            (upsample, activation),
            (activation, concat),
            (no_op, no_op),
            (conv, crop),
            (depthwise, shuffle) if s.fixed else (depthwise, gather),
            (conv_transpose, affine),
            (depth_to_space, conv),
        )
    )
    return second(s, first(s, x))


# --- attention ---------------------------------------------------------------------------------------


@layer(times=2)
def squeeze_and_excite(s: Sketch, x: str) -> str:
    c = s.shape(x)[1]
    mean = s.add("GlobalAveragePool", x) if s.choose.chance(50) else s.reduce("ReduceMean", x, [2, 3])
    inside = s.choose.pick((1, 2, 3))
    if s.choose.chance(60):
        hidden = s.add("Relu", convolve(s, mean, inside, (1, 1)))
        gate = s.add("Sigmoid", convolve(s, hidden, c, (1, 1)))
        return str(s.add("Mul", x, gate))
    flat = s.add("Flatten", mean)
    hidden = s.add("Relu", s.add("Gemm", flat, s.weight(c, inside, scale=c**-0.5), s.weight(inside)))
    gate = s.add("Sigmoid", s.add("MatMul", hidden, s.weight(inside, c)))
    wide = s.squeeze("Unsqueeze", gate, [2, 3])
    return str(s.add("Mul", x, wide))


@layer()
def spatial_gate(s: Sketch, x: str) -> str:
    mean = s.reduce(s.choose.pick(("ReduceMean", "ReduceMax", "ReduceSum")), x, [1])
    return str(s.add("Mul", x, s.add("Sigmoid", mean)))


# --- the head ----------------------------------------------------------------------------------------


def head(s: Sketch, x: str) -> str:
    """The end of the net: none (an image comes out), or global pooling or flattening and linear layers."""
    kind = s.choose.pick(("none", "none", "pool", "pool", "flatten", "reduce", "chain"))
    if kind == "none":
        return x
    c = s.shape(x)[1]
    if kind == "reduce":
        flat = s.reduce("ReduceMean", x, [2, 3], keep=False)
    elif kind == "flatten" and s.fixed:
        flat = s.add("Flatten", x)
    elif kind == "chain" and s.fixed:  # how PyTorch writes view(x.size(0), -1)
        batch = s.squeeze("Unsqueeze", s.add("Gather", s.add("Shape", x), np.array(0, np.int64), axis=0), [0])
        n, *rest = s.shape(x)
        target = s.add("Concat", batch, s.ints([-1]), axis=0)
        flat = s.add("Reshape", x, target, known=(n, int(np.prod(rest))))
    else:
        pooled = s.add(s.choose.pick(("GlobalAveragePool", "GlobalMaxPool")), x)
        flat = (
            s.squeeze("Squeeze", pooled, [2, 3]) if s.choose.chance(50) else s.add("Reshape", pooled, s.ints([-1, c]))
        )
    for _ in range(s.choose.number(1, 3)):
        inside, out = s.shape(flat)[1], s.choose.pick((2, 5, 10, 17))
        if s.choose.chance(60):
            turned = s.choose.chance(50)
            w = s.weight(out, inside, scale=inside**-0.5) if turned else s.weight(inside, out, scale=inside**-0.5)
            flat = s.add("Gemm", flat, w, s.weight(out), transB=1 if turned else None)
        else:
            flat = s.add("Add", s.add("MatMul", flat, s.weight(inside, out, scale=inside**-0.5)), s.weight(out))
        if s.choose.chance(40):
            flat = s.add(s.choose.pick(("Relu", "Tanh", "Dropout")), flat)
    return str(s.add("Softmax", flat, axis=1) if s.choose.chance(30) else flat)


def random_model(choose: Choices, layers: int = 12) -> onnx.ModelProto:
    """A random network of up to so many layers."""
    s = Sketch(choose)
    x, passed = "x", []
    for _ in range(choose.number(1, layers)):
        entry = choose.pick(LAYERS)
        if s.opset < entry.opset or (entry.fixed and not s.fixed):
            continue
        start = choose.pick(passed) if passed and choose.chance(12) else x
        mark, weights, fed = len(s.nodes), len(s.weights), len(s.fed)
        try:
            y = entry.layer(s, start)
            if len(s.shape(y)) != 4 or np.prod(s.shape(y)) > 12_000:
                raise UnfitError
        except UnfitError:
            del s.nodes[mark:], s.weights[weights:], s.fed[fed:]
            s.shared.clear()
            continue
        x = y
        passed.append(x)
    if not s.nodes:
        x = s.add("Relu", x)
    end = head(s, x)
    outputs = [end]
    read = {i for n in s.nodes for i in n.input}
    for name in passed:
        if name != end and choose.chance(60 if name not in read else 6):
            outputs.append(name)
    return s.model(outputs)


def seeded_models(count: int, start: int = 0) -> Iterator[onnx.ModelProto]:
    for seed in range(start, start + count):
        yield random_model(Seeded(seed))
