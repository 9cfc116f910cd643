"""Models and inputs on which a right rewrite is right to the last bit, and ones that leave an affine one no way out.

Sums and products of small integers (and of powers of two) have no rounding: float32 holds them all. A rewrite
that is the same function in real arithmetic then gives the same bits, and one that is not differs by a whole
unit. (PET, OSDI 2021, tests tensor programs on a finite field for the same reason.)

An affine map of an input x is known by its values at 0 and at all multiples of unit impulses. With a random
vector r over the channels, f(0) and f(e_s * r) for every position s of the map decide equality for one size:
two different maps agree on a random r with probability 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxtune.facts import Facts, Node
from onnxtune.feeds import Feeds
from onnxtune.localcheck import ROUNDOFF, doubled
from onnxtune.model import Model

LARGEST = 3
"""Largest magnitude of the integers."""
FACTORS = np.array([0.5, 1.0, 2.0])
PASSING = ("Identity", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Expand")
"""Operators through which a constant reaches the operator that decides what it means."""
NORMALIZATION = "BatchNormalization"


def integer_model(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with weights that are small integers, factors that are powers of two, statistics that divide by 1 or 2.

    Zeros stay zero, equal values stay equal, and small integers stay as they are. Constants of operators
    that are not listed in `_value` stay too (limits of a Clip, scales of a Resize, slopes).
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    facts = Facts(Model(proto))
    for tensor in changed.graph.initializer:
        _replace(facts, tensor, tensor.name)
    for node in changed.graph.node:
        if node.op_type == NORMALIZATION:
            kept = [a for a in node.attribute if a.name != "epsilon"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("epsilon", 0.5)])
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t"):
                _replace(facts, attribute.t, node.output[0])
    return changed


def _replace(facts: Facts, tensor: onnx.TensorProto, name: str) -> None:
    if tensor.data_type not in ROUNDOFF and tensor.data_type != onnx.TensorProto.DOUBLE:
        return
    stored = numpy_helper.to_array(tensor)
    use = _use(facts, name)
    value = None if use is None else _value(*use, stored.astype(np.float64))
    if value is not None:
        tensor.CopyFrom(numpy_helper.from_array(value.astype(stored.dtype), tensor.name))


def _use(facts: Facts, name: str) -> tuple[Node, int] | None:
    """The node and input position that decide what the constant means."""
    for node in facts.consumers(name):
        if node.is_op(*PASSING) and node.input(0) == name:
            if (found := _use(facts, node.outputs[0])) is not None:
                return found
        elif name in node.inputs:
            return node, node.inputs.index(name)
    return None


def _value(node: Node, position: int, value: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The constant's replacement, None when it stays."""
    if node.is_op(NORMALIZATION) and position == 4:
        return np.where(value > np.median(value), 3.5, 0.5)  # + epsilon 0.5: roots 2 and 1
    if node.is_op("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Sum", NORMALIZATION):
        return _integers(value)
    if node.is_op("Mul", "Div"):
        nearest = FACTORS[np.argmin(np.abs(np.abs(value)[..., None] - FACTORS), axis=-1)]
        return np.where(value == 0, 0.0, np.copysign(nearest, value))
    return None


def _integers(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to integers of at most LARGEST; the root mean square becomes about 1.5."""
    if np.all(value == np.round(value)) and np.all(np.abs(value) <= LARGEST):
        return value
    size = float(np.sqrt(np.mean(np.square(value)))) or 1.0
    whole = np.round(np.clip(1.5 * value / size, -LARGEST, LARGEST))
    return np.where((value != 0) & (whole == 0), np.sign(value), whole)  # what is not zero stays that


def integer_feeds(feeds: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> Feeds:
    """Small random integers in the place of floating-point inputs."""
    return {n: _random(a, rng) if a.dtype.kind == "f" else a for n, a in feeds.items()}


def _random(like: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return rng.integers(-LARGEST, LARGEST + 1, like.shape).astype(like.dtype)


def impulses(feeds: Mapping[str, NDArray[Any]], name: str, rng: np.random.Generator) -> Iterator[Feeds]:
    """The feeds with input `name` (N, C, positions...) zero, an impulse at each position, -2 times all of them.

    An impulse is a random vector over the channels (another for each position). The last of the feeds
    follows from the others when the function is affine.
    """
    base = np.asarray(feeds[name])
    places = int(np.prod(base.shape[2:], dtype=np.int64))
    vectors = rng.standard_normal((*base.shape[:2], places)).astype(base.dtype)
    yield {**feeds, name: np.zeros_like(base)}
    for place in range(places):
        x = np.zeros_like(vectors)
        x[..., place] = vectors[..., place]
        yield {**feeds, name: x.reshape(base.shape)}
    yield {**feeds, name: (-2 * vectors).reshape(base.shape)}


def reference(proto: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs in float64 from onnx's reference implementation, which raises whatever it raises."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feeds.items()}
    return [np.asarray(v) for v in ReferenceEvaluator(doubled(copy)).run(None, wide)]
