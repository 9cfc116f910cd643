"""What a rule may ask about a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxtune import shapes
from onnxtune.costs import macs, reduction_length, shrinks, total_macs
from onnxtune.facts import Facts, free_names
from onnxtune.model import Model
from onnxtune.testing import model_of


def facts_of(text: str, weights: dict[str, np.ndarray] | None = None, **sizes: tuple[int, ...]) -> Facts:
    return Facts(Model(model_of(text, weights)), sizes)


CHAIN = facts_of(
    "g (float[N, 3, 9, 9] x) => (float[N, 8, 7, 7] y, float[N, 8, 7, 7] z)"
    "{ c = Conv (x, w)  r = Relu (c)  y = Add (r, r)  z = Mul (c, r) }",
    {"w": np.ones((8, 3, 3, 3), np.float32)},
    x=(2, 3, 9, 9),
)

BRANCH = """g (bool c, float[2] x) => (float[2] y) {
    s = Relu (x)
    t = Neg (x)
    y = If (c) <
        then_branch = a () => (float[2] p) { p = Abs (s) },
        else_branch = b () => (float[2] q) { k = Constant <value_float = 2.0> ()  q = Mul (t, k) }>
}"""


def test_makers_readers_and_keys() -> None:
    assert [n.key for n in CHAIN.nodes] == ["c", "r", "y", "z"]
    maker = CHAIN.producer("r")
    assert maker is not None
    assert (maker.op_type, maker.inputs, maker.index) == ("Relu", ("c",), 1)
    assert CHAIN.producer("x") is None
    assert [n.key for n in CHAIN.consumers("r")] == ["y", "z"], "each reader once, though y reads r twice"
    assert CHAIN.consumers("y") == ()
    assert CHAIN.is_output("y")
    assert not CHAIN.is_output("r")
    assert {"x", "w", "c", "r", "y", "z"} <= CHAIN.names


def test_private_means_seen_by_nobody_else() -> None:
    assert CHAIN.why_not_private("r", {"y", "z"}) is None
    assert CHAIN.why_not_private("r", {"y"}) == "'r' has a second consumer (Mul)"
    assert CHAIN.why_not_private("y", {"y"}) == "'y' is a graph output"


def test_bodies_of_an_if_are_readers() -> None:
    facts = facts_of(BRANCH)
    assert [n.op_type for n in facts.consumers("s")] == ["If"]
    assert facts.producer("y").captured == {"s", "t"}
    assert facts.why_not_private("t", set()) == "'t' has a second consumer (If)"
    assert facts.producer("p") is None
    assert {"p", "q", "k"} <= facts.names, "a new name must not shadow one of a body"


def test_names_of_nested_bodies() -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["outer", "own"], ["sum"])],
        "inner", [], [onnx.helper.make_tensor_value_info("sum", 1, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "own")],
    )  # fmt: skip
    node = onnx.helper.make_node("If", ["condition"], ["r"], then_branch=inner, else_branch=inner)
    middle = onnx.helper.make_graph([node], "middle", [], [onnx.helper.make_tensor_value_info("passed", 1, [1])])
    assert free_names(middle) == {"outer", "condition", "passed"}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("Constant <value = float[2] {1, 2}> ()", np.array([1, 2], np.float32)),
        ("Constant <value_float = 1.5> ()", np.array(1.5, np.float32)),
        ("Constant <value_floats = [1.0, 2.0]> ()", np.array([1, 2], np.float32)),
    ],
)
def test_constant_nodes(node: str, value: np.ndarray) -> None:
    facts = facts_of(f"g (float[2] x) => (float[2] y) {{ k = {node}  y = Add (x, k) }}")
    found = facts.constant("k")
    assert found is not None
    assert facts.is_constant("k")
    assert found.dtype == value.dtype
    assert np.array_equal(found, value)
    assert found.shape == value.shape
    assert facts.constant("x") is None


def test_integer_constants() -> None:
    facts = facts_of("g (float[2] x) => (float[1, 2] y) { a = Constant <value_ints = [0]> ()  y = Unsqueeze (x, a) }")
    value = facts.constant("a")
    assert value is not None
    assert value.dtype == np.int64
    assert value.tolist() == [0]


def test_a_weight_that_may_be_fed_is_not_constant() -> None:
    facts = facts_of("g (float[2] x, float[2] w) => (float[2] y) { y = Add (x, w) }", {"w": np.ones(2, np.float32)})
    assert not facts.is_constant("w")
    assert facts.constant("w") is None
    assert facts_of("g (float[2] x) => (float[2] y) { y = Add (x, w) }", {"w": np.ones(2, np.float32)}).is_constant("w")


def test_constants_without_a_number_are_no_constants() -> None:
    proto = model_of('g (float[2] x) => (float[2] y) { y = Relu (x)  s = Constant <value_string = "a"> () }')
    facts = Facts(Model(proto))
    assert facts.constant("s") is None
    assert not facts.is_constant("s"), "a rule would take None for its value"


def test_attributes_are_plain_values() -> None:
    facts = facts_of(
        "g (float[1, 1, 4, 4] x) => (float[1, 1, A, B] y)"
        '{ y = MaxPool <kernel_shape = [2, 3], auto_pad = "SAME_UPPER", ceil_mode = 0> (x) }'
    )
    node = facts.nodes[0]
    assert dict(node.attributes) == {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "ceil_mode": 0}
    assert node.attribute("strides", [1, 1]) == [1, 1]
    assert (node.input(0), node.input(5)) == ("x", "")


def test_default_domain_has_two_spellings() -> None:
    proto = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    proto.graph.node[0].domain = "ai.onnx"
    assert Facts(Model(proto)).nodes[0].is_op("Relu")
    proto.graph.node[0].domain = "com.example"
    assert not Facts(Model(proto)).nodes[0].is_op("Relu")


# --- shapes ----------------------------------------------------------------------------------------------


def test_declared_and_measured_shapes_are_kept_apart() -> None:
    assert CHAIN.shape("c") == ("N", 8, 7, 7)
    assert CHAIN.size("c") == (2, 8, 7, 7)
    assert CHAIN.channels("c") == 8
    assert CHAIN.dtype("c") == np.float32
    assert CHAIN.shape("nobody") is None
    assert CHAIN.size("nobody") is None
    assert CHAIN.dtype("nobody") is None


def test_symbolic_sizes_never_become_numbers_in_the_declared_view() -> None:
    facts = facts_of("g (float[N, 3, H, W] x) => (float[N, 3, H, W] z) { y = Relu (x)  z = Neg (y) }", x=(1, 3, 32, 32))
    assert facts.shape("y") == ("N", 3, "H", "W")
    assert facts.size("y") == (1, 3, 32, 32)


def test_a_declared_shape_that_contradicts_the_inputs_binds_nobody() -> None:
    """Exporters write the batch of their example input into intermediate shapes of a dynamic model."""
    facts = facts_of(
        "g (float[N, 3, 8, 8] x) => (float[1, 3, 8, 8] z) <float[1, 3, 8, 8] y> { y = Relu (x)  z = Neg (y) }"
    )
    assert facts.shape("y") == ("N", 3, 8, 8)
    assert facts.shape("z") == ("N", 3, 8, 8)


def test_declared_shapes_are_used_where_inference_knows_nothing() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.example": 1]> g (float[N, 3] x) => (float[N, 5] z)'
        "<float[N, 5] y> { y = com.example.Odd (x)  z = Relu (y) }"
    )
    facts = Facts(Model(proto))
    assert facts.shape("y") == ("N", 5)
    assert facts.shape("z") == ("N", 5)


def test_placeholder_names_are_no_symbols() -> None:
    """Some exporters write "?" or "None" for every unknown dimension: they are not equal to each other."""
    proto = model_of("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu (x) }")
    for value in (proto.graph.input[0], proto.graph.output[0]):
        for axis, name in ((0, "?"), (2, "None"), (3, "-1")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    assert Facts(Model(proto)).shape("x") == (None, 3, None, None)


def test_an_input_that_is_an_output() -> None:
    proto = model_of("g (float[N, 3] x) => (float[N, 3] x, float[N, 3] y) { y = Relu (x) }")
    facts = Facts(Model(proto), {"x": (2, 3)})
    assert facts.size("x") == (2, 3)
    assert facts.size("y") == (2, 3)


def test_large_weights_are_not_shown_to_shape_inference() -> None:
    """4 kB of int64: inference gets its shape; small shape tensors keep their values."""
    table, target = np.arange(512, dtype=np.int64), np.array([-1, 4], np.int64)
    facts = facts_of(
        "g (int64[2] i, float[2, 8] x) => (int64[2] a, float[R, 4] b) { a = Gather (t, i)  b = Reshape (x, s) }",
        {"t": table, "s": target},
    )
    assert facts.shape("a") == (2,)
    assert facts.shape("b") == (4, 4)


def test_inference_that_fails_leaves_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> onnx.ModelProto:
        raise RuntimeError("inference")

    proto = model_of("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }")
    monkeypatch.setattr(shapes.shape_inference, "infer_shapes", refuse)
    found = shapes.infer(proto)
    assert found["x"].shape == ("N", 3)
    assert found["y"].shape == ("N", 3)


def test_values_that_are_no_tensors_have_no_description() -> None:
    value = onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(onnx.TypeProto()))
    assert shapes.describe(value) is None
    assert shapes.describe(onnx.helper.make_tensor_value_info("t", 1, None)) == (1, None)


# --- costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weights", "x", "terms", "multiplications"),
    [
        ("y = Conv (x, w)", (8, 3, 3, 3), (2, 3, 9, 9), 27, 2 * 8 * 7 * 7 * 27),
        ("y = Conv <group = 3> (x, w)", (6, 1, 3, 3), (1, 3, 9, 9), 9, 6 * 7 * 7 * 9),
        ("y = ConvTranspose (x, w)", (3, 5, 2, 2), (1, 3, 4, 4), 12, 3 * 4 * 4 * 5 * 4),
        ("y = Relu (x)", None, (1, 3, 4, 4), 0, 0),
        ("y = GlobalAveragePool (x)", None, (1, 3, 4, 5), 20, 0),
        ("y = AveragePool <kernel_shape = [2, 3]> (x)", None, (1, 3, 4, 5), 6, 0),
    ],
)
def test_arithmetic(
    text: str, weights: tuple[int, ...] | None, x: tuple[int, ...], terms: int, multiplications: int
) -> None:
    stored = {} if weights is None else {"w": np.ones(weights, np.float32)}
    facts = facts_of(f"g (float[N, C, H, W] x) => (float[A, B, D, E] y) {{ {text} }}", stored, x=x)
    assert reduction_length(facts, facts.nodes[0]) == terms
    assert macs(facts, facts.nodes[0]) == total_macs(facts) == multiplications


@pytest.mark.parametrize("transposed", [0, 1])
def test_arithmetic_of_a_matrix_product(transposed: int) -> None:
    shape = (7, 2) if transposed else (2, 7)
    facts = facts_of(
        f"g (float[A, B] x) => (float[C, D] y) {{ y = Gemm <transA = {transposed}> (x, w) }}",
        {"w": np.ones((7, 5), np.float32)}, x=shape,
    )  # fmt: skip
    assert reduction_length(facts, facts.nodes[0]) == 7
    assert total_macs(facts) == 2 * 5 * 7


def test_an_input_without_axes_keeps_its_shape() -> None:
    facts = Facts(Model(model_of("g (float[N] x, float s) => (float[N] y) { y = Mul(x, s) }")), {"x": (3,), "s": ()})
    assert (facts.size("s"), facts.size("y")) == ((), (3,))


@pytest.mark.parametrize(
    ("attributes", "answer"),
    [
        ("kernel_shape = [1, 1], strides = [1, 2]", True),
        ("kernel_shape = [2, 2]", True),
        ("kernel_shape = [1, 1]", False),
    ],
)
def test_a_pool_that_shrinks(attributes: str, answer: bool) -> None:
    text = f"g (float[1, 2, H, W] x) => (float[1, 2, P, Q] y) {{ y = MaxPool<{attributes}>(x) }}"
    facts = Facts(Model(model_of(text)), {"x": (1, 2, 5, 5)})
    assert shrinks(facts, facts.nodes[0]) == answer
