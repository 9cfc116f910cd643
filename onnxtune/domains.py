"""ONNX's own operators have a domain of two names, "" and "ai.onnx": models are read into the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

ALIAS = "ai.onnx"


def spelt_out(proto: onnx.ModelProto) -> bool:
    """Does the model use the long name anywhere?"""
    return any(part.domain == ALIAS for part in _parts(proto))


def contradiction(proto: onnx.ModelProto) -> str | None:
    """Why the imports cannot be read, in words: the two names with different versions."""
    for imports in (proto.opset_import, *(f.opset_import for f in proto.functions)):
        versions = sorted({o.version for o in imports if o.domain in ("", ALIAS)})
        if len(versions) > 1:
            return f"it imports ONNX's own operators in the versions {' and '.join(map(str, versions))}"
    return None


def unify(proto: onnx.ModelProto) -> None:
    """Use the short name everywhere, in place; one import is left of two."""
    for part in _parts(proto):
        if part.domain == ALIAS:
            part.domain = ""
    for imports in (proto.opset_import, *(f.opset_import for f in proto.functions)):
        for i in reversed(range(1, len(imports))):
            if imports[i].domain == "" and any(o.domain == "" for o in imports[:i]):
                del imports[i]


Part = onnx.OperatorSetIdProto | onnx.NodeProto | onnx.FunctionProto


def _parts(proto: onnx.ModelProto) -> Iterator[Part]:
    """Everything that names an operator domain."""
    yield from proto.opset_import
    yield from _nodes(proto.graph.node)
    for function in proto.functions:
        yield function
        yield from function.opset_import
        yield from _nodes(function.node)


def _nodes(found: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes and those of their bodies."""
    for node in found:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(body.node)
