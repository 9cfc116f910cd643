"""simplify: folds what exporters leave behind, under our gates; what it does not understand it leaves alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune import Result, optimize
from onnxtune.rulebook.simplify import transform
from onnxtune.testing import model_of

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
    transform(proto, {})
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
    ],
)
def test_declines(text: str, reason: str) -> None:
    weights = {"k": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    answer = transform(model_of(f"g (float[4] x) => (float[4] y) {{ {text} }}", weights), {})
    assert isinstance(answer, str)
    assert reason in answer
