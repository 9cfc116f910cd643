"""Small hand-made models, each of which asks a simplifier one question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser


@dataclass(frozen=True)
class Probe:
    """A model and the question it asks; `keep` names op types whose count must not change."""

    name: str
    question: str
    model: onnx.ModelProto
    keep: tuple[str, ...] = ()


def parse_model(text: str, opset: int = 17, domains: str = "") -> onnx.ModelProto:
    header = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>'
    return parser.parse_model(header + text)


def add_weights(model: onnx.ModelProto, **weights: Any) -> onnx.ModelProto:
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    return model


def make_probes() -> Iterator[Probe]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    yield Probe(
        "dynamic_shape_chain",
        "Shape -> Gather -> Concat -> Reshape with a dynamic batch: folded without baking the batch?",
        parse_model("""
        g (float[N,4,3] x) => (float[N,12] y) {
          shape = Shape(x)
          zero = Constant<value_int = 0>()
          batch = Gather(shape, zero)
          axes = Constant<value_ints = [0]>()
          batch1 = Unsqueeze(batch, axes)
          rest = Constant<value_ints = [12]>()
          target = Concat<axis = 0>(batch1, rest)
          y = Reshape(x, target)
        }"""),
    )
    yield Probe(
        "two_dynamic_dims",
        "Reshape to (N, C, H*W) with N, H, W dynamic: unchanged function for other sizes?",
        parse_model("""
        g (float[N,4,H,W] x) => (float[N,4,M] y) {
          shape = Shape(x)
          zero = Constant<value_ints = [0]>()
          one = Constant<value_ints = [1]>()
          two = Constant<value_ints = [2]>()
          head = Slice(shape, zero, two)
          minus = Constant<value_ints = [-1]>()
          target = Concat<axis = 0>(head, minus)
          y = Reshape(x, target)
        }"""),
    )
    yield Probe(
        "static_shape_chain",
        "the same chain with static shapes: folded away?",
        parse_model("""
        g (float[2,4,3] x) => (float[2,12] y) {
          shape = Shape(x)
          zero = Constant<value_int = 0>()
          batch = Gather(shape, zero)
          axes = Constant<value_ints = [0]>()
          batch1 = Unsqueeze(batch, axes)
          rest = Constant<value_ints = [12]>()
          target = Concat<axis = 0>(batch1, rest)
          y = Reshape(x, target)
        }"""),
    )
    yield Probe(
        "unused_input",
        "a graph input that nothing reads: kept?",
        parse_model("g (float[N,3] x, float[N] unused) => (float[N,3] y) { y = Relu(x) }"),
    )
    yield Probe(
        "training_dropout",
        "Dropout with training_mode = True is random: kept?",
        parse_model("""
        g (float[64,64] x) => (float[64,64] y) {
          ratio = Constant<value_float = 0.5>()
          train = Constant<value = bool {1}>()
          a = Relu(x)
          b = Dropout<seed = 7>(a, ratio, train)
          y = Neg(b)
        }"""),
        keep=("Dropout",),
    )
    yield Probe(
        "dropout_mask",
        "Dropout whose mask is a graph output",
        parse_model("""
        g (float[4,4] x) => (float[4,4] y, bool[4,4] mask) {
          a = Relu(x)
          b, mask = Dropout(a)
          y = Neg(b)
        }"""),
    )
    yield Probe(
        "random_constant",
        "RandomNormal has no inputs: folded into one frozen sample?",
        parse_model("""
        g (float[8,8] x) => (float[8,8] y) {
          noise = RandomNormal<shape = [8, 8], seed = 1.0>()
          y = Add(x, noise)
        }"""),
        keep=("RandomNormal",),
    )
    yield Probe(
        "quantized_weights",
        "DequantizeLinear of constant int8 weights: kept, scales untouched?",
        add_weights(
            parse_model("""
            g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
              xq = QuantizeLinear(x, sx, zx)
              xd = DequantizeLinear(xq, sx, zx)
              wd = DequantizeLinear<axis = 0>(w, sw, zw)
              bd = DequantizeLinear(b, sb)
              c = Conv(xd, wd, bd)
              cq = QuantizeLinear(c, sx, zx)
              y = DequantizeLinear(cq, sx, zx)
            }"""),
            sx=np.float32(0.05),
            zx=np.int8(0),
            w=rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
            sw=np.full(4, 0.01, np.float32),
            zw=np.zeros(4, np.int8),
            b=rng.integers(-99, 99, 4).astype(np.int32),
            sb=np.float32(0.0005),
        ),
        keep=("QuantizeLinear", "DequantizeLinear"),
    )
    yield Probe(
        "quantize_float_weights",
        "QuantizeLinear -> DequantizeLinear on constant float weights (training-aware export): kept?",
        add_weights(
            parse_model("""
            g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
              wq = QuantizeLinear<axis = 0>(w, sw, zw)
              wd = DequantizeLinear<axis = 0>(wq, sw, zw)
              y = Conv(x, wd)
            }"""),
            w=normal(4, 3, 3, 3),
            sw=np.full(4, 0.01, np.float32),
            zw=np.zeros(4, np.int8),
        ),
        keep=("QuantizeLinear", "DequantizeLinear"),
    )
    yield Probe(
        "conv_bn",
        "Conv -> BatchNormalization: left alone?",
        add_weights(
            parse_model("""
            g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
              c = Conv(x, w)
              y = BatchNormalization(c, scale, bias, mean, var)
            }"""),
            w=normal(4, 3, 3, 3),
            scale=normal(4),
            bias=normal(4),
            mean=normal(4),
            var=np.abs(normal(4)) + 0.5,
        ),
        keep=("Conv", "BatchNormalization"),
    )
    yield Probe(
        "matmul_add",
        "MatMul -> Add: left alone?",
        add_weights(
            parse_model("g (float[N,8] x) => (float[N,4] y) { m = MatMul(x, w) y = Add(m, b) }"),
            w=normal(8, 4),
            b=normal(4),
        ),
        keep=("MatMul", "Add"),
    )
    yield Probe(
        "pad_conv",
        "Pad -> Conv: left alone?",
        add_weights(
            parse_model("g (float[N,3,8,8] x) => (float[N,4,8,8] y) { p = Pad(x, pads) y = Conv(p, w) }"),
            pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            w=normal(4, 3, 3, 3),
        ),
        keep=("Pad", "Conv"),
    )
    yield Probe(
        "slice_slice",
        "two Slices and two Reshapes in a row: left alone?",
        add_weights(
            parse_model("""
            g (float[2,16] x) => (float[4,2] y) {
              a = Slice(x, starts, ends, axes)
              b = Slice(a, starts0, ends0, axes0)
              c = Reshape(b, s1)
              y = Reshape(c, s2)
            }"""),
            starts=np.array([4]),
            ends=np.array([12]),
            axes=np.array([1]),
            starts0=np.array([0]),
            ends0=np.array([1]),
            axes0=np.array([0]),
            s1=np.array([2, 4]),
            s2=np.array([4, 2]),
        ),
        keep=("Slice", "Reshape"),
    )
    same = normal(4, 4, 1, 1)
    yield Probe(
        "equal_weights",
        "two initializers with equal values and two equal nodes: kept apart?",
        add_weights(
            parse_model("""
            g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
              a = Conv(x, w1)
              b = Conv(x, w2)
              y = Add(a, b)
            }"""),
            w1=same,
            w2=same.copy(),
        ),
        keep=("Conv",),
    )
    yield Probe(
        "equal_nodes",
        "the same Relu twice (common subexpression): left alone?",
        parse_model("""
        g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Relu(x) y = Add(a, b) }"""),
        keep=("Relu",),
    )
    yield Probe(
        "identity_to_output",
        "Identity from input to output and between two outputs: names kept?",
        parse_model("""
        g (float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] same) {
          y = Relu(x)
          z = Identity(y)
          same = Identity(x)
        }"""),
    )
    yield Probe(
        "constant_output",
        "a graph output that is constant: kept?",
        parse_model("""
        g (float[N,4] x) => (float[N,4] y, float[2] c) {
          y = Relu(x)
          a = Constant<value_floats = [1.0, 2.0]>()
          b = Constant<value_floats = [3.0, 4.0]>()
          c = Add(a, b)
        }"""),
    )
    yield Probe(
        "large_constant",
        "ConstantOfShape -> Expand to 16 MiB: stored in the file?",
        parse_model("""
        g (float[N,1] x) => (float[N,4194304] y) {
          n = Constant<value_ints = [1, 4194304]>()
          big = ConstantOfShape<value = float[1] {2.0}>(n)
          y = Mul(x, big)
        }"""),
    )
    yield Probe(
        "if_constant",
        "If with a constant condition",
        parse_model("""
        g (float[N,4] x) => (float[N,4] y) {
          c = Constant<value = bool {1}>()
          y = If (c) <
            then_branch = t () => (float[N,4] yt) { yt = Relu(x) },
            else_branch = e () => (float[N,4] ye) { ye = Neg(x) }
          >
        }"""),
    )
    yield Probe(
        "if_dynamic",
        "If on data, reading outer tensors, with foldable work and an Identity inside",
        parse_model("""
        g (float[N,4] x) => (float[N,4] y) {
          w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
          w2 = Mul(w, w)
          total = ReduceSum<keepdims = 0>(x)
          zero = Constant<value_float = 0.0>()
          c = Greater(total, zero)
          y = If (c) <
            then_branch = t () => (float[N,4] yt) {
              a = Constant<value_floats = [1.0, 1.0, 1.0, 1.0]>()
              b = Add(a, a)
              u = Mul(x, w2)
              v = Identity(u)
              yt = Add(v, b)
            },
            else_branch = e () => (float[N,4] ye) { ye = Identity(x) }
          >
        }"""),
        keep=("If",),
    )
    yield Probe(
        "loop",
        "Loop that reads an outer tensor",
        parse_model("""
        g (float[4] x) => (float[4] y) {
          trips = Constant<value = int64 {3}>()
          go = Constant<value = bool {1}>()
          w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
          w2 = Mul(w, w)
          y = Loop (trips, go, x) <
            body = b (int64 i, bool c, float[4] s) => (bool c2, float[4] s2) {
              c2 = Identity(c)
              s2 = Add(s, w2)
            }
          >
        }"""),
        keep=("Loop",),
    )
    yield Probe(
        "local_function",
        "a model-local function: kept, still called?",
        parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 17]>
        twice (a) => (b) { two = Constant<value_float = 2.0>() b = Mul(a, two) }
        """),
        keep=("twice",),
    )
    yield Probe(
        "custom_domain",
        "an operator of an unknown domain beside foldable work",
        parse_model(
            """
        g (float[N,4] x) => (float[N,4] y) {
          a = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
          b = Mul(a, a)
          c = Add(x, b)
          y = vendor.Magic<level = 3>(c)
        }""",
            domains=', "vendor" : 2',
        ),
        keep=("Magic",),
    )
    yield Probe(
        "contrib_op",
        "com.microsoft FusedConv (ONNX Runtime runs it)",
        add_weights(
            parse_model(
                """
            g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
              y = com.microsoft.FusedConv<activation = "Relu">(x, w)
            }""",
                domains=', "com.microsoft" : 1',
            ),
            w=normal(4, 3, 3, 3),
        ),
        keep=("FusedConv",),
    )
    yield Probe(
        "metadata",
        "metadata_props, doc strings, producer, names of nodes",
        with_metadata(parse_model("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Neg(a) }")),
    )
    old = parse_model("g (float[1,4] x, float[4,4] w) => (float[1,4] y) { m = MatMul(x, w) y = Relu(m) }", opset=6)
    old.ir_version = 3
    yield Probe("opset_6", "opset 6, IR 3, a weight that is also an input", add_weights(old, w=normal(4, 4)))
    override = parse_model("g (float[N,4] x, float[4] w) => (float[N,4] y) { y = Mul(x, w) }")
    yield Probe(
        "overridable_weight",
        "IR 8 with an initializer listed as an input, which the user may override",
        add_weights(override, w=normal(4)),
    )
    yield Probe(
        "half_precision",
        "float16 constants: folded exactly?",
        add_weights(
            parse_model("g (float16[N,4] x) => (float16[N,4] y) { b = Mul(a, a) y = Add(x, b) }"),
            a=normal(4).astype(np.float16),
        ),
    )
    sparse = parse_model("g (float[N,4] x) => (seq(float[N,4]) y) { y = SequenceConstruct(x, x) }")
    yield Probe("sequence_output", "a graph output of sequence type", sparse)
    yield Probe(
        "optional_inputs",
        "optional inputs left empty in the middle (Resize, Clip)",
        add_weights(
            parse_model("""
            g (float[N,2,4,4] x) => (float[N,2,8,8] y) {
              r = Resize<mode = "nearest">(x, , scales)
              y = Clip(r, , high)
            }"""),
            scales=np.array([1, 1, 2, 2], np.float32),
            high=np.float32(0.5),
        ),
        keep=("Resize", "Clip"),
    )


def with_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.helper.set_model_props(model, {"author": "someone", "labels": '["a", "b"]'})
    model.doc_string, model.graph.doc_string = "model doc", "graph doc"
    model.producer_name, model.producer_version = "exporter", "1.2"
    model.domain, model.model_version = "org.example", 4
    model.graph.input[0].doc_string, model.graph.output[0].doc_string = "the input", "the output"
    for index, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"layer{index}", f"node doc {index}"
    return model
