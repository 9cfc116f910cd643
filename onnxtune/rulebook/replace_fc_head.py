"""A fully connected layer on a map x (N, C, H, W), in its cheapest equal form.

    pooled    y_j = sum_{c,s} W[j,c,s] x[c,s] + b_j. Where W[j,c,s] is the same for all s in a block S,
              sum_{s in S} W x = (sum_{s in S} W) mean_S(x): pool with the block as kernel and stride (the
              whole map: GlobalAveragePool), then a layer with the weights summed over each block.
    product   a Conv whose kernel is the whole map is Gemm(Flatten(x)) with W.reshape(J, C H W); an
              activation between Conv and Flatten works on each element, so it can follow the Gemm.

Weights are summed in float64 and rounded once; weights that other nodes share stay as they are.

With calibration data, gentler to more radical, for y = W x + b with mean mu and covariance C of x:

    low rank  Q = leading eigenvectors of W C W^T: y = Q (Q^T W x) + b + (W - Q Q^T W) mu
    pooled    P x for x: means over a few cells of the map, learned maps, or the mean over all of it;
              W' = W C P^T (P C P^T)^-1, b' = b + (W - W' P) mu

What follows the layer stays. The known W is projected; no label or logit is regressed, so a few hundred images
are enough (C is shrunk, see calibrate/priors.py). Only where a user insists on `gap`, all layers of the head are also
tried as one on the mean of the map, for which there is no W: ridge regression of what they gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.head_levels import head_levels
from onnxtune.calibrate.level import Level
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.heads import FlatMap, Linear, flat_map, gemm, global_mean, linear
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No

RULE = "replace_fc_head"
POINTWISE = ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish")


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        maker = facts.producer(node.input(0))
        if node.is_op("Gemm", "MatMul") and maker is not None:
            answer = _pooled(facts, flat_map(facts, maker), linear(facts, node), settings["tolerance"])
        else:
            answer = _product(facts, flat_map(facts, node))
        if answer is not None:
            yield Decline(RULE, node.key, str(answer)) if isinstance(answer, No) else answer


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    yield from head_levels(facts, settings, RULE)


def _pooled(
    facts: Facts, flat: FlatMap | No | None, layer: Linear | No | None, tolerance: float
) -> Proposal | No | None:
    if not isinstance(flat, FlatMap):
        return flat
    if not isinstance(layer, Linear):
        return layer
    c, h, w = flat.channels, flat.height, flat.width
    if h * w == 1:
        return None
    j, dtype = layer.weight.shape[0], layer.weight.dtype
    if flat.channels_last:
        weight = layer.weight.reshape(j, h, w, c).transpose(0, 3, 1, 2)
    else:
        weight = layer.weight.reshape(j, c, h, w)
    block = constant_block(weight, tolerance)
    if block is None:
        return No(f"the weights vary over the {h}x{w} map: no exact pooling of it exists")
    if reason := facts.why_not_private(layer.x, {layer.nodes[0].key}):
        return No(reason)
    summed = _tiles(weight, block).sum(axis=(3, 5), dtype=np.float64).reshape(j, -1)
    if not np.abs(summed).max() <= np.finfo(dtype).max:
        return No(f"the summed weights overflow {dtype}")
    new = Builder(f"{layer.output}/{RULE}", facts.names, facts.opset)
    if block == (h, w):
        name, rows = "global average pool", global_mean(facts, new, flat.x, flat=True)
    else:
        name = f"{block[0]}x{block[1]} average pool"
        rows = new.Flatten(new.AveragePool(flat.x, kernel_shape=list(block), strides=list(block)), axis=1)
    y = gemm(new, rows, summed.astype(dtype), layer.bias)
    keys = {n.key for n in (*layer.nodes, flat.nodes[-1])}
    keys |= {n.key for n in flat.nodes if facts.why_not_private(n.outputs[0], keys) is None}
    title = f"fully connected {c}x{h}x{w} -> {j} becomes {name} + {summed.shape[1]} -> {j}"
    details = {"parameters_before": layer.weight.size, "parameters_after": summed.size}
    return Proposal(RULE, title, frozenset(keys), new.finish({layer.output: y}), details=details)


def _product(facts: Facts, flat: FlatMap | No | None) -> Proposal | No | None:
    if not isinstance(flat, FlatMap) or (flat.height, flat.width) != (1, 1):
        return None
    between: list[Node] = []
    conv = facts.producer(flat.x)
    if conv is not None and conv.is_op(*POINTWISE):
        between, conv = [conv], facts.producer(conv.input(0))
    if conv is None or not conv.is_op("Conv"):
        return None
    x, shape, w = conv.input(0), facts.shape(conv.input(0)), facts.constant(conv.input(1))
    if shape is None or w is None or w.ndim != 4 or shape[1:] != w.shape[1:]:
        return None  # in groups, or the kernel is not the whole map
    if any(conv.attribute("pads", [0])) or any(d != 1 for d in conv.attribute("dilations", [1])):
        return None
    inside = [conv, *between, *flat.nodes]
    keys = frozenset(n.key for n in inside)
    for node in inside[:-1]:
        if reason := facts.why_not_private(node.outputs[0], keys):
            return No(f"the Conv over the whole map cannot become a Gemm: {reason}")
    output = inside[-1].outputs[0]
    new = Builder(f"{output}/{RULE}", facts.names, facts.opset)
    y = gemm(new, str(new.Flatten(x, axis=1)), w.reshape(w.shape[0], -1), conv.input(2) or None)
    for node in between:
        y = new.copy(node.proto, [y])[0]
    title = f"Conv {w.shape[2]}x{w.shape[3]} over the whole map + {flat.nodes[-1].op_type} -> Flatten + Gemm"
    return Proposal(RULE, title, keys, new.finish({output: y}))


def constant_block(weight: NDArray[Any], tolerance: float) -> tuple[int, int] | None:
    """The largest tile of the map inside which no weight varies by more than the tolerance; W (J, C, H, W)."""
    allowed = tolerance * max(float(weight.max()), -float(weight.min()))
    heights, widths = ([d for d in range(1, n + 1) if n % d == 0] for n in weight.shape[2:])
    blocks = sorted(((h, w) for h in heights for w in widths if h * w > 1), key=lambda b: -b[0] * b[1])
    for block in blocks:
        # A few rows first: nearly every dense layer fails there, and it may have 100 million weights.
        if all(_spread(_tiles(rows, block)) <= allowed for rows in (weight[:4], weight)):
            return block
    return None


def _tiles(weight: NDArray[Any], block: tuple[int, int]) -> NDArray[Any]:
    """(J, C, H, W) as (J, C, H / h, h, W / w, w)."""
    (j, c, rows, columns), (h, w) = weight.shape, block
    return weight.reshape(j, c, rows // h, h, columns // w, w)


def _spread(tiles: NDArray[Any]) -> float:
    return float(np.subtract(tiles.max(axis=(3, 5)), tiles.min(axis=(3, 5)), dtype=np.float64).max())
