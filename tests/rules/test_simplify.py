"""simplify: folds what exporters leave behind, under our gates; what it does not understand it leaves alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune import Result, optimize
from onnxtune.rulebook.simplify import transform
from onnxtune.testing import model_of

SETTINGS = {"max_gigabytes": 1.0}
CHAIN = """g (float[N, 4, 3, 3] x) => (float[N, 36] y) {
    s = Shape (x)
    i = Constant <value_ints = [0]> ()
    n = Gather (s, i)
    r = Constant <value_ints = [-1]> ()
    t = Concat <axis = 0> (n, r)
    f = Reshape (x, t)
    a = Add (k, k)
    y = Mul (f, a)
}"""


def chain() -> onnx.ModelProto:
    proto = model_of(CHAIN, {"k": np.ones(36, np.float32)})
    proto.doc_string = "about"
    proto.metadata_props.add(key="author", value="somebody")
    return proto


def tuned(proto: onnx.ModelProto) -> Result:
    rule = ("simplify",)
    return optimize(proto, threads=1, providers="cpu", only=rule, force_rules=rule, cache=False)


@pytest.mark.usefixtures("quick")
def test_fires_and_is_the_same_function(capfd: pytest.CaptureFixture[str]) -> None:
    result = tuned(chain())
    assert [k.rewrite.rule for k in result.report.kept] == ["simplify"]
    operators = [n.op_type for n in result.model.graph.node]
    assert "Add" not in operators
    assert len(operators) < len(chain().graph.node)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("quick")
def test_metadata_and_interface_stay() -> None:
    result = tuned(chain()).model
    assert result.doc_string == "about"
    assert {p.key: p.value for p in result.metadata_props}["author"] == "somebody"
    assert result.graph.input == chain().graph.input
    assert result.graph.output == chain().graph.output


def test_the_given_model_is_not_changed() -> None:
    proto = chain()
    transform(proto, SETTINGS)
    assert proto == chain()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("q = QuantizeLinear (x, k, z)  y = DequantizeLinear (q, k, z)", "quantised"),
        (
            """c = Constant <value = bool {1}> ()
            y = If (c) <then_branch = a () => (float[4] p) { p = Abs (x) },
                        else_branch = b () => (float[4] q) { q = Neg (x) }>""",
            "subgraphs",
        ),
        ("r = RandomNormalLike (x)  y = Add (x, r)", "random numbers"),
    ],
)
def test_declines(text: str, reason: str) -> None:
    weights = {"k": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    answer = transform(model_of(f"g (float[4] x) => (float[4] y) {{ {text} }}", weights), SETTINGS)
    assert isinstance(answer, str)
    assert reason in answer


def test_declines_weights_that_can_be_fed() -> None:
    proto = model_of("g (float[4] x, float[4] w) => (float[4] y) { y = Add (x, w) }", {"w": np.ones(4, np.float32)})
    assert transform(proto, SETTINGS) == "weights are graph inputs"


def test_declines_large_models_and_old_opsets() -> None:
    assert "larger than" in str(transform(chain(), {"max_gigabytes": 1e-9}))
    old = chain()
    old.opset_import[0].version = 6
    assert transform(old, SETTINGS) == "the opset is older than 7"


@pytest.mark.usefixtures("quick")
def test_an_unused_input_stays() -> None:
    proto = chain()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("unused", onnx.TensorProto.FLOAT, [2]))
    result = tuned(proto)
    assert [i.name for i in result.model.graph.input] == ["x", "unused"]
    assert result.report.kept


@pytest.mark.parametrize(("attribute", "dtype"), [("value_floats = [1.5, 2.5]", 1), ("value_ints = [1, 2]", 7)])
def test_short_constants_keep_their_type(attribute: str, dtype: int) -> None:
    kind = "float" if dtype == 1 else "int64"
    text = f"g ({kind}[2] x) => ({kind}[2] y) {{ c = Constant <{attribute}> ()  d = Add (c, c)  y = Add (x, d) }}"
    result = transform(model_of(text), SETTINGS)
    assert isinstance(result, onnx.ModelProto)
    assert {i.data_type for i in result.graph.initializer} == {dtype}
