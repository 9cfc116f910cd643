"""What a model file may hold although `onnx.checker` lets it through, and what no later stage could work with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import TensorProto

TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
SHOWN = 80
"""Characters of a foreign name that a message repeats."""


def fault(proto: onnx.ModelProto) -> str | None:
    """Why the model cannot be used, in words; None when it is well formed.

    Names that are not UTF-8 (protobuf hands them out as bytes), inputs and weights of unknown element types,
    tensors in segments (which nobody writes and onnx does not read), weights of negative size.
    """
    for message, field, value in _texts(proto):
        if isinstance(value, bytes):
            return f"a {field} of {message} is not UTF-8 text"
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and kind not in TYPES:
            return f"'{value.name[:SHOWN]}' has the unknown element type {kind}"
    for tensor in tensors(proto.graph):
        if tensor.data_type not in TYPES:
            return f"weight '{tensor.name[:SHOWN]}' has the unknown element type {tensor.data_type}"
        if tensor.HasField("segment"):
            return f"weight '{tensor.name[:SHOWN]}' is stored in segments"
        if any(d < 0 for d in tensor.dims):
            return f"weight '{tensor.name[:SHOWN]}' has a negative size"
    return None


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """All stored tensors: initializers, attributes (Constant nodes), those of nested bodies."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from tensors(body)


def _texts(message: Message) -> Iterator[tuple[str, str, Any]]:
    """Every string of the message and of those in it: (kind of message, field, value)."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _texts(part)
        elif field.type == field.TYPE_STRING:
            values: Sequence[Any] = value if field.is_repeated else (value,)
            for text in values:
                yield type(message).__name__, field.name, text
