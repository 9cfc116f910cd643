"""Static shapes and element types of every tensor, from `onnx.shape_inference`.

Two views are needed. Symbolic shapes (what the model declares, dimension names kept) decide whether
a rewrite is *correct*. Concrete shapes (all inputs bound to the sizes that will be measured) decide
what it *costs*; nothing about correctness may be read off them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx
from onnx import GraphProto, shape_inference

from onnxtune.external import nbytes
from onnxtune.mapped import is_mapped

Shape = tuple["int | str | None", ...]
"""Dimensions: an int when known, the model's own name when symbolic, None when unknown."""

STRIP_ABOVE = 1024
"""Bytes from which a weight is only described (dims, type), not shown, to shape inference."""


class TensorInfo(NamedTuple):
    """Element type (onnx.TensorProto.DataType) and shape (None: unknown rank)."""

    elem_type: int
    shape: Shape | None

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape when every dimension is a known number."""
        dims = self.shape
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        return tuple(d for d in dims if isinstance(d, int))


PLACEHOLDERS = frozenset({"?", "*", "-1", "None", "none", "unknown"})
"""Names that exporters write for every dimension they do not know: no symbols that equal each other."""

FEW_JOINS = 16
"""Concat nodes that are too few to make a long vector out of short ones."""
MAKERS = frozenset({"ConstantOfShape", "Expand", "Pad", "Range", "Resize", "Tile", "Upsample"})
"""Operators whose output may be as long as a number says."""
LONGEST = 2**16
"""Values of a vector that shape inference may follow."""
OPEN = "onnxtune-open-"
"""Stem of the names under which unnamed input dimensions travel through shape inference."""


def infer(proto: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, TensorInfo]:
    """Types and shapes of all tensors that shape inference can tell.

    `sizes` binds graph inputs to concrete shapes (and drops all declared intermediate and output
    shapes, which may contradict them). What cannot be inferred is absent or partly None.

    Without `sizes`, what follows from the inputs goes before what the model states of intermediate
    tensors: exporters leave the batch of their example input there although the input is dynamic.
    """
    if sizes is not None:
        bare = _skeleton(proto, stated=False)
        for value in bare.graph.input:
            if value.name in sizes:
                _set_shape(value, sizes[value.name])
        return _run(bare)
    found = _run(_skeleton(proto, stated=True))
    bare = _skeleton(proto, stated=False)
    symbols = _name_open_dimensions(bare.graph)
    if symbols:
        derived = _run(bare)
        found = {name: _merge(info, derived.get(name), symbols) for name, info in found.items()}
    return found


def _run(bare: onnx.ModelProto) -> dict[str, TensorInfo]:
    graph = _inferred(bare, data_prop=not _grows(bare)).graph
    found = {i.name: TensorInfo(i.data_type, tuple(i.dims)) for i in graph.initializer}
    for value in [*graph.value_info, *graph.output, *graph.input]:
        info = describe(value)
        if info is not None:
            found[value.name] = info
    return found


def _inferred(bare: onnx.ModelProto, *, data_prop: bool) -> onnx.ModelProto:
    """What onnx infers; where it fails, and it raises what it likes, what the model says."""
    try:
        return shape_inference.infer_shapes(bare, check_type=False, data_prop=data_prop)
    except Exception:
        return bare


def _grows(bare: onnx.ModelProto) -> bool:
    """Is there a vector too long for its values to be followed? onnx would hold all of them: those of a constant of
    any size, or of a chain of Concat nodes, each of which doubles their number."""
    operators = Counter(n.op_type for n in bare.graph.node)
    if operators["Concat"] < FEW_JOINS and not operators.keys() & MAKERS:
        return False
    plain = _inferred(bare, data_prop=False)
    found = (describe(v) for v in [*plain.graph.value_info, *plain.graph.output])
    sizes = (info.static for info in found if info is not None)
    return any(size is not None and len(size) == 1 and size[0] > LONGEST for size in sizes)


def _name_open_dimensions(graph: GraphProto) -> frozenset[str]:
    """Give unnamed dimensions of the inputs a name each; returns the names of all dynamic dimensions."""
    names: set[str] = set()
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if _dimension(dim) is None:
                dim.dim_param = f"{OPEN}{len(names)}"
            if dim.dim_param:
                names.add(dim.dim_param)
    return frozenset(names)


def _merge(stated: TensorInfo, derived: TensorInfo | None, symbols: frozenset[str]) -> TensorInfo:
    """What is derived from the inputs (numbers and their symbols), else what the model states."""
    if derived is None or derived.shape is None:
        return stated
    others = stated.shape if stated.shape and len(stated.shape) == len(derived.shape) else (None,) * len(derived.shape)
    dims = [d if isinstance(d, int) or d in symbols else s for d, s in zip(derived.shape, others, strict=True)]
    opened = (None if isinstance(d, str) and d.startswith(OPEN) else d for d in dims)
    return TensorInfo(stated.elem_type or derived.elem_type, tuple(opened))


def describe(value: onnx.ValueInfoProto) -> TensorInfo | None:
    """The TensorInfo of a value declaration; None for sequences, maps, optionals and untyped values."""
    if not value.type.HasField("tensor_type"):
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorInfo(tensor.elem_type, None)
    return TensorInfo(tensor.elem_type, tuple(_dimension(d) for d in tensor.shape.dim))


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param if dim.dim_param and dim.dim_param not in PLACEHOLDERS else None


def _set_shape(value: onnx.ValueInfoProto, shape: Iterable[int]) -> None:
    value.type.tensor_type.ClearField("shape")
    value.type.tensor_type.shape.SetInParent()  # no axes is a shape, too
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def _skeleton(proto: onnx.ModelProto, *, stated: bool) -> onnx.ModelProto:
    """The model without the bytes of its large weights: what shape inference needs, and small.

    `stated`: with the shapes that the model states of intermediate tensors and outputs.
    """
    bare = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    source, graph = proto.graph, bare.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    fed = {v.name for v in source.input}
    for value in (v for v in source.output if v.name not in fed):
        kept = graph.output.add()
        kept.CopyFrom(value)
        if not stated and kept.type.HasField("tensor_type"):
            kept.type.tensor_type.ClearField("shape")
    if stated:
        graph.value_info.extend(source.value_info)
    _describe_weights(source, graph)
    return bare


def _describe_weights(source: GraphProto, graph: GraphProto) -> None:
    for tensor in source.initializer:
        weight = graph.initializer.add()
        if (nbytes(tensor) if is_mapped(tensor) else tensor.ByteSize()) <= STRIP_ABOVE:  # len(raw_data) would copy it
            weight.CopyFrom(tensor)
        else:
            weight.name, weight.data_type = tensor.name, tensor.data_type
            weight.dims.extend(tensor.dims)
