"""What a rule may ask about a graph: nodes, who makes and who reads a tensor, constants, shapes.

Facts are computed once per model and never changed. Tensors are named by their ONNX names, which are
unique in a graph; a node is named by its key, the name of its first output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.later import Later, is_large
from onnxtune.mapped import array
from onnxtune.model import Model
from onnxtune.shapes import Shape, TensorInfo, infer

Result = TypeVar("Result")

NUMBERS = {"value", "value_float", "value_floats", "value_int", "value_ints"}
"""Attributes of a Constant node that hold numbers; the others hold strings and sparse tensors."""


class Node:
    """One node of the main graph, read-only. `domain` is "" for ONNX's own operators."""

    def __init__(self, proto: onnx.NodeProto, index: int) -> None:
        self.proto = proto
        self.index = index
        self.op_type: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs: tuple[str, ...] = tuple(proto.input)
        self.outputs: tuple[str, ...] = tuple(proto.output)
        self.key: str = next((o for o in self.outputs if o), proto.name)
        """The node's identity: the name of its first named output (else its node name)."""

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute values as Python objects; strings decoded; graphs and tensors as protos."""
        return {a.name: _value(a) for a in self.proto.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def input(self, position: int) -> str:
        """Name of an input, "" when the optional input is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""

    @cached_property
    def captured(self) -> frozenset[str]:
        """Outer tensors that the bodies of an If, Loop or Scan read."""
        return frozenset().union(*(free_names(a.g) for a in self.proto.attribute if a.HasField("g")), ())

    def is_op(self, *op_types: str) -> bool:
        """Is it one of these operators of the default domain?"""
        return self.domain == "" and self.op_type in op_types

    def __repr__(self) -> str:
        return f"Node({self.op_type} -> {self.key})"


class Facts:
    """A model with its index. `sizes` binds the inputs to the shapes that are measured; `ranges`: between
    which values the inputs lie, as the user has declared (correctness may be read off these). `weights`:
    those that the model only describes."""

    def __init__(
        self,
        model: Model,
        sizes: Mapping[str, tuple[int, ...]] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        weights: Mapping[str, Later] | None = None,
    ) -> None:
        self.model = model
        self.opset = model.opset
        self.sizes = dict(sizes or {})
        self.ranges = dict(ranges or {})
        graph = model.proto.graph
        self.nodes = tuple(Node(n, i) for i, n in enumerate(graph.node))
        self.by_key = {n.key: n for n in self.nodes}
        self.outputs = frozenset(o.name for o in graph.output)
        self.inputs = frozenset(i.name for i in graph.input)
        self._initializers = {i.name: i for i in graph.initializer}
        self._producers = {o: n for n in self.nodes for o in n.outputs if o}
        consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys([*node.inputs, *node.captured]):
                if name:
                    consumers.setdefault(name, []).append(node)
        self._consumers = {name: tuple(found) for name, found in consumers.items()}
        self.weights = dict(weights or {})
        self._constants: dict[str, NDArray[Any] | None] = {}
        self._large: WeakValueDictionary[str, NDArray[Any]] = WeakValueDictionary()
        self._derived: dict[Callable[[Facts], Any], Any] = {}

    def once(self, analysis: Callable[[Facts], Result]) -> Result:
        """What an analysis of this graph says; it is run for the first who asks."""
        if analysis not in self._derived:
            self._derived[analysis] = analysis(self)
        result: Result = self._derived[analysis]
        return result

    def forget(self) -> None:
        """Drop what analyses have found: it may be large, and refers back to these Facts."""
        self._derived.clear()

    # --- tensors -----------------------------------------------------------------------------

    def exists(self, tensor: str) -> bool:
        """Is it a graph input, an initializer or made by a node?"""
        return tensor in self.inputs or tensor in self._initializers or tensor in self._producers

    def producer(self, tensor: str) -> Node | None:
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """Nodes that read the tensor, each once, subgraph captures included."""
        return self._consumers.get(tensor, ())

    def is_output(self, tensor: str) -> bool:
        return tensor in self.outputs

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """Value of an initializer or Constant node; None when it is not constant.

        An initializer that is also a graph input may be fed at run time: it is not constant.
        Do not write into the array. Large ones are decoded again when nobody holds them any more.
        """
        if tensor in self._constants:
            return self._constants[tensor]
        found = self._large.get(tensor)
        if found is None:
            found = self._decode(tensor)
            if found is not None and is_large(found):
                self._large[tensor] = found
            else:
                self._constants[tensor] = found
        return found

    def stored(self, tensors: Iterable[str]) -> dict[str, onnx.TensorProto]:
        """Those of the tensors that are initializers, in the order in which the model has them."""
        found = [name for name in dict.fromkeys(tensors) if name in self._initializers]
        return {name: self._initializers[name] for name in sorted(found, key=self._stored_at.__getitem__)}

    @cached_property
    def _stored_at(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self._initializers)}

    def is_constant(self, tensor: str) -> bool:
        if tensor in self._initializers:
            return tensor not in self.inputs
        node = self.producer(tensor)
        return node is not None and node.is_op("Constant") and node.attributes.keys() <= NUMBERS

    def _decode(self, tensor: str) -> NDArray[Any] | None:
        if not self.is_constant(tensor):
            return None
        if tensor in self.weights:
            return self.weights[tensor].array()
        stored = self._initializers.get(tensor)
        if stored is not None:
            return array(stored)
        node = self._producers[tensor]
        name, value = next(iter(node.attributes.items()))
        if name == "value":
            return numpy_helper.to_array(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        return np.asarray(value, np.int64)

    @cached_property
    def declared(self) -> Mapping[str, TensorInfo]:
        return infer(self.model.proto)

    @cached_property
    def concrete(self) -> Mapping[str, TensorInfo]:
        return infer(self.model.proto, self.sizes) if self.sizes else self.declared

    def shape(self, tensor: str) -> Shape | None:
        """Shape as declared: ints, the model's dimension names, None; None when the rank is unknown."""
        info = self.declared.get(tensor)
        return info.shape if info else None

    def rank(self, tensor: str) -> int | None:
        """Number of dimensions; None when unknown."""
        shape = self.shape(tensor)
        return None if shape is None else len(shape)

    def size(self, tensor: str) -> tuple[int, ...] | None:
        """Shape at the measured input sizes, for costs only."""
        info = self.concrete.get(tensor)
        return info.static if info else None

    def dtype(self, tensor: str) -> np.dtype[Any] | None:
        """Element type; None when unknown."""
        info = self.declared.get(tensor)
        if not info or not info.elem_type:
            return None
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.elem_type))

    def channels(self, tensor: str) -> int | None:
        """Size of axis 1 when it is a known number."""
        shape = self.shape(tensor)
        if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
            return None
        return shape[1]

    # --- privacy -----------------------------------------------------------------------------

    def why_not_private(self, tensor: str, readers: frozenset[str] | set[str]) -> str | None:
        """None when only the nodes with these keys see the tensor, else the reason why not."""
        if self.is_output(tensor):
            return f"'{tensor}' is a graph output"
        other = [n for n in self.consumers(tensor) if n.key not in readers]
        if other:
            return f"'{tensor}' has a second consumer ({other[0].op_type})"
        return None

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name in use: tensors and nodes, those inside of bodies too."""
        return frozenset(_names(self.model.proto.graph) - {""})


def free_names(graph: onnx.GraphProto) -> frozenset[str]:
    """Names that a subgraph reads from outside itself, nested bodies included."""
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    own.update(i.values.name for i in graph.sparse_initializer)
    own.update(o for n in graph.node for o in n.output)
    used = {i for n in graph.node for i in n.input if i} | {o.name for o in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                used |= free_names(attribute.g)
    return frozenset(used - own)


def _names(graph: onnx.GraphProto) -> set[str]:
    used = {v.name for part in (graph.input, graph.output, graph.initializer, graph.value_info) for v in part}
    used.update(i.values.name for i in graph.sparse_initializer)
    for node in graph.node:
        used.update([node.name], node.input, node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                used |= _names(attribute.g)
    return used


def _value(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [v.decode("utf-8", "replace") for v in value]
    return value
