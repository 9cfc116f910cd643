"""Models that are valid and rare through `optimize` with every exact rule forced: right, declined, or refused in words.

    python tests/robustness/strange.py [--only TEXT]

Each model of the table is optimised and run in ONNX Runtime before and after, on three inputs. Also its interface,
metadata, doc strings and quantisation annotations must be there afterwards, and the caller's model unchanged.
Where ONNX Runtime cannot run the original, onnxtune has to refuse it with a ModelError or UsageError; what it can run
is refused only where REFUSED says so.

Prints tried, right (of these: rewritten), refused and lost. Exits with 1 when any was lost.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tally
from onnx import TensorProto, helper, numpy_helper

import onnxtune
from onnxtune.catalog import catalog
from onnxtune.domains import unify
from onnxtune.errors import ModelError, UsageError
from onnxtune.proposal import Decline

FOREIGN = ("simplify", "upgrade_opset")
"""Somebody else's code: the gates may refuse what it makes."""
NEWEST = min(onnx.defs.onnx_opset_version(), 26)
NEWEST_IR = onnx.IR_VERSION
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float64": 1e-6}
EXACT = tuple(r.name for r in catalog(plugins=False) if r.card.safety == "exact")
REFUSED = ("nodes in the wrong order", "a weight twice")
"""Refused although ONNX Runtime takes them: what `onnx.checker` refuses."""
DECLINED = ("Sequence input", "Optional input", "Map input", "Sequence and image")
"""Come back as they are, and the report says that their inputs cannot be fed."""
Feeds = dict[str, Any]
RNG = np.random.default_rng(1)


@dataclass(frozen=True)
class Outcome:
    name: str
    status: str
    reason: str = ""
    rules: tuple[str, ...] = ()


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def parsed(
    body: str, weights: dict[str, Any] | None = None, *, opset: int = 17, ir: int = 8, more: str = ""
) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}{more}]> {body}')
    for name, value in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return proto


def conv_weights(*names: str, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    shapes = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "s": (8,), "b": (8,), "m": (8,), "r": (8,), "g": (8, 5)}
    return {n: (abs(normal(*shapes[n])) if n in "sbmr" else normal(*shapes[n])).astype(dtype) for n in names}


def classic(opset: int, ir: int = 8, kind: str = "float") -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Dropout, Conv, Add, pooling, Gemm at this opset; weights as inputs up to IR 3."""
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    weights = conv_weights("w", "v", "s", "b", "m", "r", "g", dtype=dtype)
    proto = parsed(
        f"""g ({kind}[N, 3, 12, 12] x) => ({kind}[N, 5] y) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w)  n = BatchNormalization (a, s, b, m, r)  c = Relu (n)
            o = Dropout (c)  d = Conv <pads = [1, 1, 1, 1]> (o, v)  e = Add (o, d)
            p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (e)  q = GlobalAveragePool (p)
            f = Flatten (q)  z = {f"Constant <value = {kind} {{0}}> ()" if opset >= 11 else f"Constant <value = {kind}[5] {{0, 0, 0, 0, 0}}> ()"}
            y = Gemm (f, g, z) }}""",
        weights, opset=opset, ir=ir,
    )  # fmt: skip
    if ir < 4:
        types = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer]
        proto.graph.input.extend(types)
    return proto


CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, w)  n = BatchNormalization (c, s, b, m, r)"
MORE = ("w", "s", "b", "m", "r")


def subgraphs() -> Iterator[tuple[str, onnx.ModelProto]]:
    head = "g (float[N, 3, 8, 8] x, bool k) => (float[N, 8, 8, 8] y)"
    yield "If captures a tensor", parsed(
        f"""{head} {{ {CONV} y = If (k) <then_branch = t () => (float[A, 8, 8, 8] u) {{ u = Relu (n) }},
            else_branch = e () => (float[A, 8, 8, 8] v) {{ v = Add (n, c) }}> }}""", conv_weights(*MORE))  # fmt: skip
    yield "If captures a weight", parsed(
        f"""{head} {{ {CONV} y = If (k) <then_branch = t () => (float[A, 8, 8, 8] u) {{ q = Conv <pads = [1,1,1,1]> (x, w) u = Relu (q) }},
            else_branch = e () => (float[A, 8, 8, 8] v) {{ v = Identity (n) }}> }}""", conv_weights(*MORE))  # fmt: skip
    yield "If with convolutions inside", parsed(
        f"""{head} {{ {CONV} y = If (k)
            <then_branch = t () => (float[A, 8, 8, 8] u) {{ z = Conv <pads = [1,1,1,1]> (n, v) z2 = LRN <size = 5> (z) u = Relu (z2) }},
            else_branch = e () => (float[A, 8, 8, 8] f) {{ f = Identity (n) }}> }}""", conv_weights(*MORE, "v"))  # fmt: skip
    inner = "u = Relu (n)"
    for depth in range(6):
        inner = (f"u{depth} = If (k) <then_branch = t{depth} () => (float[A, 8, 8, 8] u) {{ {inner} }}, else_branch ="
                 f" e{depth} () => (float[A, 8, 8, 8] w{depth}) {{ w{depth} = Add (n, c) }}> u = Identity (u{depth})")  # fmt: skip
    yield "If in If in If", parsed(f"{head} {{ {CONV} {inner} y = LRN <size = 3> (u) }}", conv_weights(*MORE))
    yield "Loop captures", parsed(
        f"""g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV}
            t = Constant <value = int64 {{3}}> () k = Constant <value = bool {{1}}> ()
            q = Loop (t, k, n) <body = b (int64 i, bool d, float[A, 8, 8, 8] p) => (bool more, float[A, 8, 8, 8] o)
            {{ more = Identity (d) o = Add (p, c) }}> y = Relu (q) }}""", conv_weights(*MORE))  # fmt: skip
    yield "Scan over an axis", parsed(
        f"""g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y) {{ {CONV} q = Scan <num_scan_inputs = 1, body =
            b (float[8, 8, 8] p) => (float[8, 8, 8] o) {{ z = ReduceMax <keepdims = 1> (c) f = Add (p, p) o = Mul (f, z) }}> (n)
            y = Relu (q) }}""", conv_weights(*MORE))  # fmt: skip
    names = parsed(
        f"""{head} {{ {CONV} y = If (k) <then_branch = t () => (float[A, 8, 8, 8] u) {{ w2 = Relu (n) u = Relu (w2) }},
            else_branch = e () => (float[A, 8, 8, 8] f) {{ w2 = Abs (n) f = Relu (w2) }}> }}""", conv_weights(*MORE))  # fmt: skip
    yield "one name in both branches", names


def functions() -> Iterator[tuple[str, onnx.ModelProto]]:
    def with_function(body: list[onnx.NodeProto], attributes: list[str]) -> onnx.ModelProto:
        proto = parsed(f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} q = own.block (n) l = LRN <size = 5> (q) y = own.block (l) }}",
                       conv_weights(*MORE), more=', "own": 1')  # fmt: skip
        opset = [helper.make_opsetid("", 17)]
        proto.functions.append(helper.make_function("own", "block", ["p"], ["q"], body, opset, attributes))
        return proto

    relu = [helper.make_node("Relu", ["p"], ["t"]), helper.make_node("Add", ["t", "p"], ["q"])]
    yield "local function", with_function(relu, [])
    one = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2)))
    yield "local function with a constant", with_function([one, helper.make_node("Mul", ["p", "k"], ["q"])], [])
    shadow = parsed(f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} q = own.Relu (n) y = LRN <size = 5> (q) }}",
                    conv_weights(*MORE), more=', "own": 1')  # fmt: skip
    body = [helper.make_node("Neg", ["p"], ["q"])]
    shadow.functions.append(helper.make_function("own", "Relu", ["p"], ["q"], body, [helper.make_opsetid("", 17)]))
    yield "a function named like an operator", shadow


def types() -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "Sequence inside", parsed(
        f"""g (float[2, 3, 8, 8] x) => (float[2, 8, 8, 8] y) {{ {CONV} s0 = SplitToSequence <axis = 0> (n)
            q = ConcatFromSequence <axis = 0> (s0) y = Relu (q) }}""", conv_weights(*MORE))  # fmt: skip
    yield "Sequence output", parsed(
        f"g (float[2, 3, 8, 8] x) => (seq(float[A, 8, 8, 8]) y) {{ {CONV} r2 = Relu (n) y = SplitToSequence <axis = 0> (r2) }}",
        conv_weights(*MORE))  # fmt: skip
    yield (
        "Sequence input",
        parsed("g (seq(float[2, 4]) x) => (float[A, 4] y) { y = ConcatFromSequence <axis = 0> (x) }"),
    )
    yield (
        "Optional input",
        parsed("g (optional(float[2, 4]) x) => (float[2, 4] y) { q = OptionalGetElement (x) y = Relu (q) }"),
    )
    yield "Map input", _map_input()
    yield "Sequence and image", parsed(
        f"""g (float[N, 3, 8, 8] x, seq(float[2, 4]) t) => (float[N, 8, 8, 8] y, float[A, 4] u) {{ {CONV}
            y = LRN <size = 3> (n) u = ConcatFromSequence <axis = 0> (t) }}""", conv_weights(*MORE))  # fmt: skip
    yield "Optional inside", parsed(
        f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} o = Optional (n) q = OptionalGetElement (o) y = Relu (q) }}",
        conv_weights(*MORE))  # fmt: skip
    yield "string tensors", parsed(
        f"""g (float[N, 3, 8, 8] x, string[N] t) => (float[N, 8, 8, 8] y, string[N] u) {{ {CONV} y = Relu (n) u = Identity (t) }}""",
        conv_weights(*MORE))  # fmt: skip
    strings = parsed(
        f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y, string[2] u) {{ {CONV} y = Relu (n) u = Identity (k) }}",
        conv_weights(*MORE),
    )
    strings.graph.initializer.append(helper.make_tensor("k", TensorProto.STRING, [2], [b"cat", "dög".encode()]))
    yield "string weights", strings
    yield "zero-size dimension", parsed(
        f"""g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} e = Slice (n, i, j, k) q = Concat <axis = 1> (n, e) y = Relu (q) }}""",
        {**conv_weights(*MORE), "i": np.array([0]), "j": np.array([0]), "k": np.array([1])})  # fmt: skip
    yield "zero-size weight", parsed(
        f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} q = Concat <axis = 1> (n, e) y = Relu (q) }}",
        {**conv_weights(*MORE), "e": np.zeros((1, 0, 8, 8), np.float32)})  # fmt: skip
    yield (
        "zero-size input",
        parsed(f"g (float[0, 3, 8, 8] x) => (float[0, 8, 8, 8] y) {{ {CONV} y = Relu (n) }}", conv_weights(*MORE)),
    )
    yield "scalar input", parsed(
        f"g (float[N, 3, 8, 8] x, float a) => (float[N, 8, 8, 8] y) {{ {CONV} q = Mul (n, a) y = LRN <size = 3> (q) }}",
        conv_weights(*MORE))  # fmt: skip
    yield (
        "scalar output",
        parsed(
            f"g (float[1, 3, 8, 8] x) => (float y) {{ {CONV} q = Relu (n) y = ReduceMean <keepdims = 0> (q) }}",
            conv_weights(*MORE),
        ),
    )
    yield "complex numbers", parsed("g (float[1, 8, 1] x) => (float[1, 8, 2] y) { y = DFT <axis = 1> (x) }")
    yield (
        "integers only",
        parsed(
            "g (int64[N, 4] x) => (int64[N, 4] y) { a = Add (x, k) b = Mul (a, k) y = Abs (b) }",
            {"k": np.array([1, 2, 3, 4])},
        ),
    )


def wiring() -> Iterator[tuple[str, onnx.ModelProto]]:
    body = f"{CONV} q = Relu (n) l = LRN <size = 5> (q) y = Conv <pads = [1, 1, 1, 1]> (l, v)"
    head = "g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y)"
    plain = lambda: parsed(f"{head} {{ {body} }}", conv_weights(*MORE, "v"))  # noqa: E731
    proto = plain()
    for node in proto.graph.node:
        node.name = "same"
    yield "all nodes of one name", proto
    proto = plain()
    for node in proto.graph.node:
        node.ClearField("name")
    yield "no node names", proto
    proto = plain()
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    yield "nodes in the wrong order", proto
    proto = plain()
    proto.graph.node[0].output[0] = "y"
    yield "a tensor made twice", proto
    proto = plain()
    proto.graph.initializer.append(proto.graph.initializer[0])
    yield "a weight twice", proto
    proto = plain()
    proto.graph.output.append(helper.make_tensor_value_info("q", 1, None))
    yield "an inner tensor is an output", proto
    proto = plain()
    proto.graph.output.append(helper.make_tensor_value_info("x", 1, None))
    yield "an input is an output", proto
    proto = plain()
    proto.graph.output.append(proto.graph.output[0])
    yield "an output twice", proto
    proto = plain()
    proto.graph.output.append(helper.make_tensor_value_info("w", 1, None))
    yield "a weight is an output", proto
    proto = plain()
    proto.graph.node.append(helper.make_node("Relu", ["c"], ["idle"]))
    proto.graph.initializer.append(numpy_helper.from_array(normal(4), "unread"))
    yield "idle node and weight", proto
    proto = plain()
    proto.graph.node[2].input[0] = proto.graph.node[2].input[0]
    proto.graph.value_info.append(helper.make_tensor_value_info("q", 1, [7, 7]))
    yield "a false value_info", proto
    yield (
        "an input that nothing reads",
        parsed(
            f"g (float[N, 3, 8, 8] x, float[4] idle) => (float[N, 8, 8, 8] y) {{ {body} }}", conv_weights(*MORE, "v")
        ),
    )
    yield "weights that are inputs", _listed(plain())
    yield "unused optional outputs", parsed(
        """g (float[N, 3, 8, 8] x) => (float[N, 8, A, B] y) { c = Conv (x, w) p, i = MaxPool <kernel_shape = [2, 2]> (c)
           d, k = Dropout (p) y = Relu (d) }""", conv_weights("w"))  # fmt: skip
    yield (
        "mask of Dropout is an output",
        parsed(
            f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y, bool[N, 8, 8, 8] k) {{ {CONV} y, k = Dropout (n) }}",
            conv_weights(*MORE),
        ),
    )
    names = plain()
    new = {n: f"/model/层.{i}:0 ü" for i, n in enumerate(["c", "n", "q", "l"])}
    for node in names.graph.node:
        node.input[:] = [new.get(i, i) for i in node.input]
        node.output[:] = [new.get(o, o) for o in node.output]
    yield "names of all characters", names
    sparse = parsed("g (float[N, 4] x) => (float[N, 3] y) { q = MatMul (x, k) y = Relu (q) }")
    values = numpy_helper.from_array(np.array([1.5, -2, 3], np.float32), "k")
    sparse.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 5, 10])), [4, 3])
    )
    yield "sparse initializer", sparse
    yield "sparse constant", _sparse_constant()
    yield (
        "an unknown domain",
        parsed(
            f"{head} {{ {CONV} q = elsewhere.Gadget (n) y = Relu (q) }}", conv_weights(*MORE), more=', "elsewhere": 1'
        ),
    )
    yield (
        "Microsoft's operators",
        parsed(
            f"{head} {{ {CONV} q = com.microsoft.Gelu (n) y = LRN <size = 3> (q) }}",
            conv_weights(*MORE),
            more=', "com.microsoft": 1',
        ),
    )
    yield "domain ai.onnx spelt out in nodes", _spelt(plain())
    imported = plain()
    imported.opset_import[0].domain = "ai.onnx"
    both = _spelt(imported)
    yield "domain ai.onnx spelt out in the import", imported
    yield "domain ai.onnx spelt out in both", both
    twice = _spelt(plain())
    twice.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    yield "both names of the domain imported", twice
    bodies = dict(subgraphs())["If with convolutions inside"]
    bodies.opset_import[0].domain = "ai.onnx"
    yield "domain ai.onnx spelt out in bodies", _spelt(bodies)
    called = dict(functions())["local function"]
    for function in called.functions:
        function.opset_import[0].domain = "ai.onnx"
        for node in function.node:
            node.domain = "ai.onnx"
    yield "domain ai.onnx spelt out in a function", _spelt(called)
    chain = "".join(f" t{i} = Relu ({'n' if i == 0 else f't{i - 1}'})" for i in range(300))
    yield "a chain of 300 nodes", parsed(f"{head} {{ {CONV}{chain} y = LRN <size = 3> (t299) }}", conv_weights(*MORE))


def _listed(proto: onnx.ModelProto) -> onnx.ModelProto:
    types_ = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer]
    proto.graph.input.extend(types_)
    return proto


def _spelt(given: onnx.ModelProto) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(given)
    graphs = [proto.graph, *(a.g for n in proto.graph.node for a in n.attribute if a.HasField("g"))]
    for node in (n for g in graphs for n in g.node if not n.domain):
        node.domain = "ai.onnx"
    return proto


def _map_input() -> onnx.ModelProto:
    kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    node = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])
    fed = helper.make_value_info("x", kind)
    graph = helper.make_graph([node], "g", [fed], [helper.make_tensor_value_info("y", 1, [1, 2])])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _sparse_constant() -> onnx.ModelProto:
    proto = parsed(
        "g (float[N, 4] x) => (float[N, 3] y) { k = Constant <value_int = 1> () q = MatMul (x, k) y = Relu (q) }"
    )
    values = numpy_helper.from_array(np.array([1.5, -2, 3], np.float32), "k")
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 5, 10])), [4, 3])
    proto.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["k"], sparse_value=tensor))
    return proto


def training() -> Iterator[tuple[str, onnx.ModelProto]]:
    head = "g (float[2, 3, 8, 8] x) => (float[2, 8, 8, 8] y)"
    yield "BatchNormalization in training", parsed(
        f"{head} {{ c = Conv <pads = [1,1,1,1]> (x, w) n, m1, r1 = BatchNormalization <training_mode = 1> (c, s, b, m, r) y = Relu (n) }}",
        conv_weights(*MORE))  # fmt: skip
    yield (
        "running means are outputs",
        parsed(
            "g (float[2, 3, 8, 8] x) => (float[2, 8, 8, 8] y, float[8] m1, float[8] r1) { c = Conv <pads = [1,1,1,1]> (x, w)"
            " n, m1, r1 = BatchNormalization <training_mode = 1> (c, s, b, m, r) y = Relu (n) }",
            conv_weights(*MORE),
        ),
    )
    yield "Dropout in training, ratio 0", parsed(
        f"{head} {{ {CONV} d = Dropout (n, p, t) y = Relu (d) }}",
        {**conv_weights(*MORE), "p": np.float32(0), "t": np.array(True)})  # fmt: skip
    yield "Dropout's switch is an input", parsed(
        f"g (float[2, 3, 8, 8] x, bool t) => (float[2, 8, 8, 8] y) {{ {CONV} d = Dropout (n, p, t) y = Relu (d) }}",
        {**conv_weights(*MORE), "p": np.float32(0)})  # fmt: skip
    yield "epsilon and negative variance", parsed(
        f"{head} {{ c = Conv <pads = [1,1,1,1]> (x, w) n = BatchNormalization <epsilon = 0.5> (c, s, b, m, r) y = Relu (n) }}",
        {**conv_weights(*MORE), "r": -0.4 * np.ones(8, np.float32)})  # fmt: skip
    yield (
        "weights of NaN and infinity",
        parsed(f"{head} {{ {CONV} y = Relu (n) }}", {**conv_weights(*MORE), "w": _poisoned()}),
    )


def _poisoned() -> np.ndarray:
    w = normal(8, 3, 3, 3)
    w[0, 0, 0, 0], w[1, 0, 0, 0] = np.nan, np.inf
    return w


def numbers() -> Iterator[tuple[str, onnx.ModelProto]]:
    for kind in ("double", "float16"):
        yield f"network of {kind}", classic(17, kind=kind)
    bf16 = classic(17)
    for tensor in (*bf16.graph.initializer, *(a.t for n in bf16.graph.node for a in n.attribute if a.HasField("t"))):
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.ravel()))
    for value in (*bf16.graph.input, *bf16.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    yield "network of bfloat16", bf16
    weights = {
        "a": normal(6, 8).astype(np.float64),
        "c": normal(8).astype(np.float64),
        "d": normal(8, 8).astype(np.float64),
    }
    yield (
        "dense layers of double",
        parsed("g (double[N, 6] x) => (double[N, 8] y) { p = Gemm (x, a, c) q = Gemm (p, d) y = Tanh (q) }", weights),
    )
    yield "casts in between", parsed(
        f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} h = Cast <to = 10> (n) q = Relu (h) y = Cast <to = 1> (q) }}",
        conv_weights(*MORE))  # fmt: skip
    quantised = {"w": RNG.integers(-127, 127, (8, 3, 3, 3)).astype(np.int8), "s": np.float32(0.05), "z": np.uint8(128),
                 "ws": np.full(8, 0.02, np.float32), "wz": np.zeros(8, np.int8)}  # fmt: skip
    qdq = parsed(
        """g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y) { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
           f = DequantizeLinear <axis = 0> (w, ws, wz) c = Conv <pads = [1,1,1,1]> (d, f) e = Relu (c)
           h = QuantizeLinear (e, s, z) y = DequantizeLinear (h, s, z) }""", quantised)  # fmt: skip
    note = qdq.graph.quantization_annotation.add(tensor_name="x")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    yield "QDQ with an annotation", qdq
    yield "QLinearConv", parsed(
        """g (uint8[1, 3, 8, 8] x) => (uint8[1, 8, 8, 8] y) {
           c = QLinearConv <pads = [1,1,1,1]> (x, s, z, w, ws, wz, s, z) y = MaxPool <kernel_shape = [1, 1]> (c) }""", quantised)  # fmt: skip
    yield "ConvInteger", parsed(
        """g (uint8[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y) { c = ConvInteger <pads = [1,1,1,1]> (x, w, z) y = Cast <to = 1> (c) }""",
        {**quantised, "w": RNG.integers(0, 255, (8, 3, 3, 3)).astype(np.uint8)})  # fmt: skip
    four = parsed(
        """g (float[N, 4] x) => (float[N, 6] y) { f = DequantizeLinear (k, ws) q = MatMul (x, f) y = Relu (q) }""",
        {"ws": np.float32(0.1)}, opset=21, ir=10)  # fmt: skip
    four.graph.initializer.append(helper.make_tensor("k", TensorProto.INT4, [4, 6], list(RNG.integers(-8, 8, 24))))
    yield "4-bit weights", four
    for eight in ("FLOAT8E4M3FN", "FLOAT8E5M2"):
        proto = parsed(
            "g (float[N, 4] x) => (float[N, 6] y) { f = DequantizeLinear (k, ws) q = MatMul (x, f) y = Relu (q) }",
            {"ws": np.float32(0.1)}, opset=19, ir=9)  # fmt: skip
        kind = getattr(TensorProto, eight)
        proto.graph.initializer.append(helper.make_tensor("k", kind, [4, 6], list(RNG.uniform(-2, 2, 24))))
        yield f"8-bit floats {eight}", proto
    raw = classic(17)
    for tensor in raw.graph.initializer:  # typed fields instead of raw bytes
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape, values.ravel()))
    yield "weights in typed fields", raw
    yield "subnormal and huge weights", parsed(
        f"g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {{ {CONV} y = Relu (n) }}",
        {**conv_weights(*MORE), "s": np.array([1e-42, 1e38, 0, -0.0, 1, -1, 1e-30, 1e30], np.float32)})  # fmt: skip


def versions() -> Iterator[tuple[str, onnx.ModelProto]]:
    for opset in range(7, NEWEST + 1):
        yield f"opset {opset}", classic(opset)
    for ir in range(3, NEWEST_IR + 1):
        yield f"IR {ir}", classic(10 if ir < 4 else 17, ir)
    yield "an opset that does not exist yet", classic(999)
    yield "an IR that does not exist yet", classic(17, 999)
    yield "opset 1", parsed("g (float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }", opset=1, ir=3)


TABLE: tuple[Callable[[], Iterator[tuple[str, onnx.ModelProto]]], ...] = (
    subgraphs, functions, types, wiring, training, numbers, versions,
)  # fmt: skip


def models() -> Iterator[tuple[str, onnx.ModelProto]]:
    for part in TABLE:
        for name, proto in part():
            proto.doc_string, proto.graph.doc_string = f"about {name}", "the graph"
            proto.producer_name, proto.model_version = "exporter", 42
            proto.metadata_props.add(key="author", value="somebody")
            if proto.graph.input:
                proto.graph.input[0].doc_string = "what is fed"
            yield name, proto


# --- the judge -----------------------------------------------------------------------------------------


def feeds_of(proto: onnx.ModelProto, seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    stored = {i.name for i in proto.graph.initializer}
    found: Feeds = {}
    for value in (v for v in proto.graph.input if v.name not in stored):
        if not value.type.HasField("tensor_type"):
            several = [rng.standard_normal((2, 4)).astype(np.float32) for _ in range(3)]
            other = {"optional_type": several[0], "map_type": {"a": 1.5, "b": -2.0}}
            found[value.name] = other.get(value.type.WhichOneof("value") or "", several)
            continue
        shape = [d.dim_value if d.HasField("dim_value") else 2 for d in value.type.tensor_type.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        if dtype.kind == "O" or dtype.kind in "SU":
            found[value.name] = np.full(shape, "word", object)
        elif dtype.kind == "b":
            found[value.name] = np.array(seed % 2 == 0) if not shape else rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            found[value.name] = rng.integers(0, 100, shape).astype(dtype)
        else:
            found[value.name] = np.asarray(rng.standard_normal(shape)).astype(dtype)
    return found


def run(proto: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def difference(want: Any, have: Any) -> str:
    """Why two outputs are not the same ("" when they are)."""
    if isinstance(want, list):
        pairs = zip(want, have, strict=False)
        return (
            "another length" if len(want) != len(have) else next((d for w, h in pairs if (d := difference(w, h))), "")
        )
    want, have = np.asarray(want), np.asarray(have)
    if want.shape != have.shape or want.dtype != have.dtype:
        return f"{have.dtype}{have.shape}, was {want.dtype}{want.shape}"
    allowed = TOLERANCE.get(want.dtype.name, 1e-3)
    if want.dtype.kind not in "fc" and want.dtype.name != "bfloat16":
        return "" if np.array_equal(want, have) else "other values"
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    want, have = want.astype(kind), have.astype(kind)
    usable = np.isfinite(want)
    if not np.isfinite(have[usable]).all():
        return "not finite where it was"
    scale = float(np.max(np.abs(want[usable]), initial=1e-30))
    worst = float(np.max(np.abs(want[usable] - have[usable]), initial=0.0)) / scale
    return "" if worst < allowed else f"differs by {worst:.2g}"


def short_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the short name of ONNX's own domain: ONNX Runtime does not know the long one in bodies and functions."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    unify(copy)
    return copy


def kept(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What of the model's own words is lost ("" when nothing is)."""
    for field in ("doc_string", "producer_name", "model_version", "producer_version", "domain"):
        if getattr(before, field) != getattr(after, field):
            return f"{field} is lost"
    if before.graph.doc_string != after.graph.doc_string or before.graph.name != after.graph.name:
        return "the graph's name or doc string is lost"
    if list(before.metadata_props) != [p for p in after.metadata_props if not p.key.startswith("onnxtune.")]:
        return "metadata is lost"
    stored = {i.name for i in before.graph.initializer}
    fed = [v for v in before.graph.input if v.name not in stored]
    now = [v for v in after.graph.input if v.name not in stored]
    if fed != now or list(before.graph.output) != list(after.graph.output):
        return "inputs or outputs are declared otherwise"
    used = {i for n in after.graph.node for i in n.input}
    notes = [q for q in before.graph.quantization_annotation if q.tensor_name in used]
    if notes != list(after.graph.quantization_annotation):
        return "a quantisation annotation is lost"
    if list(short_names(before).functions) != list(after.functions) and before.functions:
        return "functions are lost"
    return ""


def judge(name: str, proto: onnx.ModelProto) -> Outcome:
    try:
        cases = [feeds_of(proto, seed) for seed in range(3)]
        want = [run(short_names(proto), feeds) for feeds in cases]
    except Exception as error:  # onnxruntime's classes share no base
        want, unable = None, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    before = proto.SerializeToString(deterministic=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = onnxtune.optimize(
                proto, only=EXACT, force_rules=EXACT, exact_only=True, plugins=False, threads=1, providers="cpu",
                cache=False, time_budget=0.0,
            )  # fmt: skip
    except (ModelError, UsageError) as error:
        return Outcome(name, "lost" if want is not None and name not in REFUSED else "refused", str(error))
    except Exception as error:  # what this script is there to find
        return Outcome(name, "lost", f"{type(error).__name__}: {error}")
    rules = tuple(result.report.counts())
    if proto.SerializeToString(deterministic=True) != before:
        return Outcome(name, "lost", "the caller's model was changed", rules)
    broken = [
        o
        for o in result.report.outcomes
        if isinstance(o, Decline) and " failed (" in o.reason and o.rule not in FOREIGN
    ]
    if broken:
        return Outcome(name, "lost", f"{broken[0].rule}: {broken[0].reason}", rules)
    wrong = [r for r in result.report.rejected if r.stage == "verify" and r.rewrite.rule not in FOREIGN]
    if wrong:
        return Outcome(name, "lost", f"{wrong[0].rewrite.rule} proposed what is wrong: {wrong[0].reason}", rules)
    if problem := kept(proto, result.model):
        return Outcome(name, "lost", problem, rules)
    said = [n for n in result.report.notes if n.startswith("nothing was tried: input '")]
    if bool(said) != (name in DECLINED) or (said and result.model.graph != proto.graph):
        return Outcome(name, "lost", f"declined otherwise than expected: {said}", rules)
    if want is None:
        return Outcome(name, "right" if not rules else "lost", f"ONNX Runtime cannot run it here ({unable})", rules)
    try:
        have = [run(result.model, feeds) for feeds in cases]
    except Exception as error:  # as above
        return Outcome(name, "lost", f"the result does not run: {error}", rules)
    reason = difference(want, have)
    return Outcome(name, "lost" if reason else "right", reason, rules)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    tally.option(parser)
    arguments = parser.parse_args()
    outcomes = [judge(n, p) for n, p in models() if arguments.only in n]
    for o in outcomes:
        print(f"{o.status:8} {o.name:36} {', '.join(o.rules)} {o.reason[:200]}")
    count = {s: sum(o.status == s for o in outcomes) for s in ("right", "refused", "lost")}
    rewritten = sum(o.status == "right" and bool(o.rules) for o in outcomes)
    print(
        f"tried {len(outcomes)}, right {count['right']} (rewritten {rewritten}), refused {count['refused']}, lost {count['lost']}"
    )
    if arguments.record:
        remark = f"{count['right']} right, {rewritten} of them rewritten; {count['refused']} refused in words"
        tally.record([tally.Row("models of rare kinds", len(outcomes), count["lost"], remark)])
    return int(bool(count["lost"]))


if __name__ == "__main__":
    sys.exit(main())
