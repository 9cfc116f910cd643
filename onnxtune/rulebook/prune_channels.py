"""Channels removed before a layer that makes up for them, fitted to the data.

With K the channels that stay, the layer that sums over them gets the weights and bias that come closest to what it
answered before (least squares on the rows that it sees):

    W' = (C_yx)_:K (C_KK)^-1,     b' = mean y - W' mean x_K

Which channels go: one by one the one whose loss, made up for by all that stay, is least (the surgeon's formula for
groups of columns; onnxtune/calibrate/prune.py). The layer that makes the channels, and everything between (per-channel
operators, depthwise convolutions, pools), loses the same channels, exactly. A class of channels that several layers
sum over (a residual stream) is left alone, and so are channels that share their fate with others (groups, shuffles).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate import prune
from onnxtune.calibrate.evidence import Evidence, too_large
from onnxtune.calibrate.layer import Layer, conv_layer
from onnxtune.calibrate.level import Fitted, Level
from onnxtune.channels.compose import State
from onnxtune.channels.cost import Target
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.linear import Linear, layers, linear
from onnxtune.costs import macs, total_macs
from onnxtune.facts import Facts, Node
from onnxtune.proposal import Decline, Proposal

RULE = "prune_channels"


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    channels, total = facts.once(analyse), max(total_macs(facts), 1)
    block = settings["multiple"] or Target.of(settings["provider"]).block or 8
    for node in layers(channels):
        axis = channels.axes[node.input(0)]
        around = _around(channels, axis.ids)
        full = sum(macs(facts, n) for n in around)
        if len(axis.ids) <= settings["min_channels"] or full < settings["min_share"] * total:
            continue
        found = _layer(channels, node)
        if isinstance(found, str):
            yield Decline(RULE, node.key, found)
            continue
        for keep in _ladder(len(axis.ids), block, settings["ratios"]):
            yield _level(channels, node, found, keep, full)


def _around(channels: Channels, ids: NDArray[np.int64]) -> list[Node]:
    """The nodes with arithmetic that make or read a tensor which holds one of the channels."""
    held = {t for t, axis in channels.axes.items() if np.isin(axis.ids, ids).any()}
    return [n for n in channels.facts.nodes if not held.isdisjoint((*n.inputs[:1], *n.outputs))]


def _layer(channels: Channels, node: Node) -> Layer | str:
    """The layer that sums over the channels, or why they must stay."""
    facts, axis = channels.facts, channels.axes[node.input(0)]
    held = channels.held[axis.ids]
    if held.any():
        return channels.reasons[int(held[held > 0][0])]
    if len(np.unique(axis.ids)) < len(axis.ids):
        return "channels share their fate with others (groups, shuffles)"
    if len(np.unique(axis.blocks)) > 1:
        return "the channels have different numbers of columns"
    others = [n for n in layers(channels) if n is not node and np.isin(channels.axes[n.input(0)].ids, axis.ids).any()]
    if others:
        return f"{len(others) + 1} layers sum over these channels"
    found = conv_layer(facts, node) if node.is_op("Conv") else _matrix(facts, node, linear(channels, node))
    problem = found if isinstance(found, str) else too_large(found)
    return problem or found


def _matrix(facts: Facts, node: Node, found: Linear | None) -> Layer | str:
    if found is None or not node.is_op("Gemm", "MatMul") or facts.rank(node.input(0)) != 2:
        return f"{node.op_type} of this kind is not refitted"
    return Layer(node.key, node.input(0), node.outputs[0], found.w, found.bias, found.dtype)


def _ladder(channels: int, block: int, ratios: list[float]) -> list[int]:
    """How many channels to keep: the next lower multiple of the block, then fractions in multiples."""
    step = block if channels > 2 * block else max(4, block // 4)
    sizes = {(channels - 1) // step * step, *(int(channels * r) // step * step for r in ratios)}
    return sorted((s for s in sizes if 4 <= s < channels), reverse=True)


def _level(channels: Channels, node: Node, layer: Layer, keep: int, full: int) -> Level:
    axis = channels.axes[node.input(0)]
    count = len(axis.ids)
    title, settings = f"{count} channels pruned to {keep}", {"channels": keep}
    kernel = layer.weight.reshape(layer.outputs, count, -1)

    def build(stay: NDArray[np.int64], fitted: prune.Pruned | None = None) -> Proposal:
        kept = np.ones(channels.count, bool)
        kept[np.delete(axis.ids, stay)] = False
        state = State(channels.facts, channels.facts).without(channels, kept, f"{layer.y}/{RULE}")
        if fitted is not None:
            state = _reweighted(state, layer, fitted)
        return Proposal(RULE, title, *state.difference((node.key,)), "calibrated", settings=settings)

    def fit(evidence: Evidence, rough: bool) -> Fitted:
        stay = prune.cheapest(kernel, evidence.moments, count - keep)
        found = prune.prune(kernel, evidence.moments, stay)
        return Fitted(build(np.array(stay), found), found.rel_error)

    return Level(RULE, layer, title, build(np.arange(keep)), fit, settings, full * keep // count, full)


def _reweighted(state: State, layer: Layer, fitted: prune.Pruned) -> State:
    channels = state.facts.once(analyse)
    found = linear(channels, next(n for n in layers(channels) if n.outputs[0] == layer.y))
    assert found is not None, "it was one before"
    weight, bias = fitted.weight.astype(np.float64), fitted.bias.astype(np.float64)
    return state.reweighted([found], {layer.y: (lambda: weight.reshape(len(weight), -1), bias)}, f"{layer.y}/{RULE}")
