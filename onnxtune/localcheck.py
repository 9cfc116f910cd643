"""The rewritten region alone, in float64, with onnx's reference implementation.

In float64 rounding is some 1e-15, so that what is left is a real difference or the rounding of new
weights to the model's own type (a few units in the last place). It sees errors that the tolerance of
an end-to-end comparison would hide, such as a wrong border of one channel.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxtune.costs import macs, total_macs
from onnxtune.errors import ModelError, one_line
from onnxtune.facts import Facts
from onnxtune.mapped import embedded
from onnxtune.model import Model, tensor_bytes
from onnxtune.ranges import Ranges, clipped
from onnxtune.region import input_sizes
from onnxtune.runtime import CPU, Session, Target
from onnxtune.shapes import describe

MAC_LIMIT = 3e8
"""Largest region (multiply-accumulates) that the reference evaluates within about a second; larger
ones are compared in ONNX Runtime."""
DEFORMED_LIMIT = 1e4
"""The same for DeformConv, which the reference evaluates tap by tap in Python."""
HEAVY = 2**22
"""Bytes of a region's weights from which what the reference leaves behind, in cycles, is cleared away at once."""
HEAVIEST = 2**27
"""Bytes of a region's weights above which it is compared in ONNX Runtime: the reference holds several copies."""
SMALL = (13, 17)
"""Height and width to which larger maps are cut for the check: odd, unequal, wider than kernels."""
WEIGHT_ROUNDING = 64.0
"""Allowed error in units of the weights' rounding, relative to the largest value of the channel."""
CHANNEL_SAMPLE = 16
"""How many values a channel needs for its largest value to tell its scale."""
SINGLE_MARGIN = 8.0
"""How much more is allowed when the region itself is computed in single precision."""
SIZE_INPUTS = {"Reshape": 1, "Expand": 1, "Tile": 1, "ConstantOfShape": 0, "Resize": 3}
"""Positions of inputs that are shapes or sizes."""
ROUNDOFF: dict[int, float] = {TensorProto.FLOAT: 2.0**-24, TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}


@dataclass(frozen=True)
class LocalVerdict:
    """`ok` None: the check could not be made, `reason` says why. `error` is relative, per channel."""

    ok: bool | None
    error: float = 0.0
    reason: str = ""


def check_region(before: Model, after: Model, seed: int = 0, ranges: Ranges | None = None) -> LocalVerdict:
    """Compare a region with its rewritten form on random inputs in float64 (batch as declared).

    Large maps are cut first. A region whose operators or weights know the size of the map, or a
    rewrite that is right at the declared size only, is judged at the declared size. `ranges`: what is
    declared of graph inputs, which the region may read.
    """
    if (outer := _size_from_outside(before)) is not None:
        return LocalVerdict(None, reason=f"'{outer}' is a size that comes from outside of the region")
    sizes = input_sizes(before)
    small = _smaller(sizes)
    verdict = _check(before, after, small, seed, ranges or {})
    if not verdict.ok and small != sizes:
        whole = _check(before, after, sizes, seed, ranges or {})
        verdict = verdict if whole.ok is None else whole
    if verdict.ok is None:
        single = _judge_single(before, after, _feeds(before, sizes, seed, ranges or {}))
        verdict = verdict if single.ok is None else single
    return verdict


def _size_from_outside(region: Model) -> str | None:
    """An input of the region that is a shape: random numbers do not fit, and may even run (an empty map)."""
    inputs = {v.name for v in region.inputs}
    read = (n.input[SIZE_INPUTS[n.op_type]] for n in region.proto.graph.node if _takes_size(n))
    return next((name for name in read if name in inputs), None)


def _takes_size(node: onnx.NodeProto) -> bool:
    return not node.domain and len(node.input) > SIZE_INPUTS.get(node.op_type, len(node.input))


def _check(
    before: Model, after: Model, sizes: Mapping[str, tuple[int, ...]], seed: int, ranges: Ranges
) -> LocalVerdict:
    feeds = _feeds(before, sizes, seed, ranges)
    if _takes_long(Facts(before, sizes)) or max(tensor_bytes(before), tensor_bytes(after)) > HEAVIEST:
        return _judge_single(before, after, feeds)
    try:
        want = _evaluate(before, feeds)
    except Exception as error:  # the reference raises whatever its numpy code raises
        return LocalVerdict(None, reason=f"onnx's reference cannot evaluate the region ({one_line(error)})")
    return _judge(before, after, feeds, want)


def _takes_long(facts: Facts) -> bool:
    deformed = sum(macs(facts, n) for n in facts.nodes if n.is_op("DeformConv"))
    return deformed > DEFORMED_LIMIT or total_macs(facts) > MAC_LIMIT


def _judge(before: Model, after: Model, feeds: Mapping[str, NDArray[Any]], want: list[Any]) -> LocalVerdict:
    try:
        have = _evaluate(after, feeds)
    except Exception as error:  # as above
        return LocalVerdict(None, reason=f"onnx's reference cannot evaluate the rewrite ({one_line(error)})")
    weights = {w.data_type for w in [*before.proto.graph.initializer, *after.proto.graph.initializer]}
    allowed = WEIGHT_ROUNDING * max((ROUNDOFF[t] for t in weights if t in ROUNDOFF), default=2.0**-24)
    names = [o.name for o in before.proto.graph.output]
    errors = [relative(w, h) for w, h in zip(want, have, strict=True)]
    worst = max(errors)
    if worst <= allowed:
        return LocalVerdict(True, worst)
    for model, exact in ((before, want), (after, have)):
        native = _single(model, feeds)
        if native is None or max(map(relative, exact, native)) > min(worst, 1.0) / 4:
            return _judge_single(before, after, feeds)  # the reference itself is wrong here
    name = names[errors.index(worst)]
    return LocalVerdict(False, worst, f"float64 check: '{name}' differs by {worst:.2g} (allowed {allowed:.1g})")


def relative(want: NDArray[Any], have: NDArray[Any]) -> float:
    """Largest difference relative to the largest value of its channel (axis 1).

    Of a matrix or a map of one pixel a channel has few values, which may all be small by chance (sums
    that cancel): there the root mean square of the whole tensor is the least scale.
    """
    if want.shape != have.shape or want.dtype.kind != have.dtype.kind:
        return math.inf
    if want.size == 0 or want.dtype.kind not in "f":
        return 0.0 if np.array_equal(want, have) else math.inf
    if not np.array_equal(np.isfinite(want), np.isfinite(have)):
        return math.inf
    want, have = (np.where(np.isfinite(a), a, 0.0) for a in (want, have))
    axes = tuple(a for a in range(want.ndim) if a != 1)
    scale = np.max(np.abs(want), axis=axes, keepdims=True) if want.ndim > 1 else np.max(np.abs(want))
    floor = max(1e-3 * float(np.max(np.abs(want))), 1e-30)
    if want.size < CHANNEL_SAMPLE * np.size(scale):
        floor = max(floor, float(np.sqrt(np.mean(np.square(want)))))
    return float(np.max(np.abs(want - have) / np.maximum(scale, floor)))


def _judge_single(before: Model, after: Model, feeds: Mapping[str, NDArray[Any]]) -> LocalVerdict:
    """The same comparison in ONNX Runtime and the model's own precision: less sharp, but unbiased."""
    want, have = _single(before, feeds), _single(after, feeds)
    if want is None or have is None:
        return LocalVerdict(None, reason="neither onnx's reference nor ONNX Runtime can evaluate the region alone")
    worst = max(map(relative, want, have))
    allowed = (
        SINGLE_MARGIN
        * WEIGHT_ROUNDING
        * max(ROUNDOFF.get(v.type.tensor_type.elem_type, 2.0**-53) for v in before.outputs)
    )
    if worst <= allowed:
        return LocalVerdict(True, worst)
    return LocalVerdict(False, worst, f"region check: an output differs by {worst:.2g} (allowed {allowed:.1g})")


def _single(model: Model, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]] | None:
    """The region's outputs from ONNX Runtime without optimisations, widened to float64."""
    types = {v.name: describe(v) for v in model.inputs}
    cast = {n: a.astype(onnx.helper.tensor_dtype_to_np_dtype(t.elem_type)) for n, a in feeds.items() if (t := types[n])}
    try:
        got = Session(resized(model, feeds), Target(CPU, {}, 1), "disable").run(cast)
    except ModelError:
        return None
    values = [got[o.name] for o in model.proto.graph.output]
    return [v.astype(np.float64) if v.dtype.kind == "f" else v for v in values]


def resized(model: Model, feeds: Mapping[str, NDArray[Any]]) -> Model:
    """The region with its inputs declared in the feeds' shapes and its outputs in none."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for value in proto.graph.input:
        if value.name in feeds:
            value.type.tensor_type.ClearField("shape")
            value.type.tensor_type.shape.SetInParent()  # no axes is a shape, too
            for d in feeds[value.name].shape:
                value.type.tensor_type.shape.dim.add().dim_value = d
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return model.with_proto(proto)


def _evaluate(model: Model, feeds: Mapping[str, NDArray[Any]]) -> list[Any]:
    try:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(doubled(embedded(resized(model, feeds).proto))).run(None, dict(feeds)))
    finally:
        if tensor_bytes(model) > HEAVY:
            gc.collect()


def doubled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """All floating-point tensors of the model as float64."""
    for value in [*proto.graph.input, *proto.graph.output]:
        if value.type.tensor_type.elem_type in ROUNDOFF:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in proto.graph.initializer:
        _double(tensor)
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                number = np.asarray(onnx.helper.get_attribute_value(attribute), np.float32).astype(np.float64)
                attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(number)))
            if attribute.HasField("t"):
                _double(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in ROUNDOFF:
                attribute.i = TensorProto.DOUBLE
    return proto


def _double(tensor: TensorProto) -> None:
    if tensor.data_type in ROUNDOFF:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))


def _smaller(sizes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Cut maps to SMALL when all inputs with maps agree on their size."""
    maps = {s[2:] for s in sizes.values() if len(s) == 4}
    if len(maps) != 1 or not any(d > s for d, s in zip(next(iter(maps)), SMALL, strict=True)):
        return dict(sizes)
    return {n: (s[0], s[1], min(s[2], SMALL[0]), min(s[3], SMALL[1])) if len(s) == 4 else s for n, s in sizes.items()}


def _feeds(model: Model, sizes: Mapping[str, tuple[int, ...]], seed: int, ranges: Ranges) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.inputs:
        info = describe(value)
        assert info is not None, "regions have tensor inputs only"
        shape = sizes[value.name]
        if info.elem_type in ROUNDOFF or info.elem_type == TensorProto.DOUBLE:
            feeds[value.name] = np.asarray(rng.standard_normal(shape))
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(info.elem_type)
            feeds[value.name] = np.asarray(rng.integers(0, 2, shape), dtype)
    return clipped(feeds, ranges)
