"""ONNX's own operators have a domain of two names: models are read into the short one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxtune.domains import contradiction, spelt_out, unify
from onnxtune.errors import ModelError
from onnxtune.model import Model, load
from onnxtune.testing import model_of

TEXT = """g (float[N, 4] x, bool k) => (float[N, 4] y) { a = Relu (x) y = If (k) <
    then_branch = t () => (float[N, 4] u) { u = Neg (a) }, else_branch = e () => (float[N, 4] v) { v = Abs (a) }> }"""


def short() -> onnx.ModelProto:
    return model_of(TEXT, {})


def long(imported: str = "ai.onnx") -> onnx.ModelProto:
    """All nodes with the long name."""
    proto = short()
    proto.opset_import[0].domain = imported
    choice = proto.graph.node[1]
    for node in (*proto.graph.node, *(n for a in choice.attribute for n in a.g.node)):
        node.domain = "ai.onnx"
    return proto


@pytest.mark.parametrize("imported", ["", "ai.onnx"])
def test_both_names_are_read_as_one(imported: str, tmp_path: Path) -> None:
    given = long(imported)
    before = given.SerializeToString()
    assert spelt_out(given)
    assert load(given).proto == short()
    assert given.SerializeToString() == before, "the caller's model is not changed"
    onnx.save(given, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").proto == short()


def test_a_model_without_the_long_name_is_not_copied() -> None:
    proto = short()
    assert not spelt_out(proto)
    assert load(proto).proto is proto


def test_functions_too() -> None:
    proto, call = short(), onnx.helper.make_node("Relu", ["p"], ["q"], domain="ai.onnx")
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
    proto.functions.append(
        onnx.helper.make_function("own", "f", ["p"], ["q"], [call], [onnx.helper.make_opsetid("ai.onnx", 17)])
    )
    unify(proto)
    assert not spelt_out(proto)
    assert proto.functions[0].node[0].domain == proto.functions[0].opset_import[0].domain == ""
    assert proto.functions[0].domain == "own"


def test_of_two_equal_imports_one_is_left() -> None:
    proto = short()
    version = proto.opset_import[0].version
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx", version))
    assert contradiction(proto) is None
    assert [(o.domain, o.version) for o in load(proto).proto.opset_import] == [("", version)]


def test_different_versions_are_refused(tmp_path: Path) -> None:
    proto = short()
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 11))
    onnx.save(proto, tmp_path / "m.onnx")
    for source in (proto, tmp_path / "m.onnx"):
        with pytest.raises(ModelError, match="imports ONNX's own operators in the versions 11 and"):
            load(source)


def test_what_another_tool_gives_back() -> None:
    taken = Model(short()).adopt(long()).proto
    assert list(taken.graph.node) == list(short().graph.node)
    assert not spelt_out(taken)
