"""Levels of channel pruning: which classes of channels, how many of them stay, and the new weights of who reads them.

Where several layers sum over a class, which channels go is decided first, by the harm to all of them together. Then
each layer is refitted in the network's order, on what those before it have become: at that point the channels still
run, with weights of zero behind them. In the end all tensors are made smaller at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate import prune
from onnxtune.calibrate.evidence import Evidence, too_large
from onnxtune.calibrate.layer import Layer, conv_layer
from onnxtune.calibrate.level import Fitted, Level, Look
from onnxtune.calibrate.moments import Array
from onnxtune.calibrate.prune import Pruned
from onnxtune.channels.compose import State, Weights
from onnxtune.channels.cost import Target
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.linear import Linear, layers, linear
from onnxtune.costs import macs, total_macs
from onnxtune.facts import Facts, Node
from onnxtune.proposal import Decline, Proposal

MOST_BYTES = 2**30
"""What the covariances of all layers that read a class may take together."""


@dataclass(frozen=True, eq=False)
class Class:
    """Channels `ids` that stand together, and the layers that sum over them, in order; `full`: multiply-accumulates
    of everything that makes or reads them."""

    channels: Channels
    ids: NDArray[np.int64]
    readers: tuple[Layer, ...]
    full: int

    @property
    def size(self) -> int:
        return len(self.ids)

    def kernel(self, layer: Layer) -> Array:
        """(J, size, columns for each channel)"""
        return layer.weight.reshape(layer.outputs, self.size, -1)


def prune_levels(facts: Facts, settings: Mapping[str, Any], rule: str) -> Iterator[Level | Decline]:
    """For every class of channels that matters a ladder of smaller numbers of channels.

    Settings: `ratios` (of the channels that stay), `min_share` (of the network's multiply-accumulates that the layers
    around a class must have), `min_channels`, `multiple` (0: what the provider's kernels like), `provider`.
    """
    channels, total = facts.once(analyse), max(total_macs(facts), 1)
    done: set[str] = set()
    for node in layers(channels):
        axis = channels.axes[node.input(0)]
        full = sum(macs(facts, n) for n in _around(channels, axis.ids))
        if node.key in done or len(axis.ids) <= settings["min_channels"] or full < settings["min_share"] * total:
            continue
        nodes = [n for n in layers(channels) if np.isin(channels.axes[n.input(0)].ids, axis.ids).any()]
        done.update(n.key for n in nodes)
        readers = _readers(channels, axis.ids, nodes)
        if isinstance(readers, str):
            yield Decline(rule, node.key, readers)
            continue
        found = Class(channels, axis.ids, readers, full)
        for keep in ladder(found.size, settings):
            yield _level(found, rule, keep)


def _around(channels: Channels, ids: NDArray[np.int64]) -> list[Node]:
    """The nodes with arithmetic that make or read a tensor which holds one of the channels."""
    held = {t for t, axis in channels.axes.items() if np.isin(axis.ids, ids).any()}
    return [n for n in channels.facts.nodes if not held.isdisjoint((*n.inputs[:1], *n.outputs))]


def _readers(channels: Channels, ids: NDArray[np.int64], nodes: Sequence[Node]) -> tuple[Layer, ...] | str:
    """The layers that sum over the channels, or why these must stay."""
    held = channels.held[ids]
    if held.any():
        return channels.reasons[int(held[held > 0][0])]
    if len(np.unique(ids)) < len(ids):
        return "channels share their fate with others (groups, shuffles)"
    found: list[Layer] = []
    for node in nodes:
        axis = channels.axes[node.input(0)]
        if not np.array_equal(axis.ids, ids):
            return f"'{node.key}' reads some of these channels together with others, or in another order"
        if len(np.unique(axis.blocks)) > 1:
            return "the channels have different numbers of columns"
        layer = _layer(channels, node)
        if isinstance(layer, str):
            return layer
        found.append(layer)
    if 16 * sum(r.columns**2 for r in found) > MOST_BYTES:
        return f"{len(found)} layers read these channels: too many columns together for their covariances"
    return tuple(found)


def _layer(channels: Channels, node: Node) -> Layer | str:
    if node.is_op("Conv"):
        found = conv_layer(channels.facts, node)
        return found if isinstance(found, str) else too_large(found) or found
    matrix = linear(channels, node)
    if matrix is None or not node.is_op("Gemm", "MatMul") or channels.facts.rank(node.input(0)) != 2:
        return f"{node.op_type} of this kind is not refitted"
    layer = Layer(node.key, node.input(0), node.outputs[0], matrix.w, matrix.bias, matrix.dtype)
    return too_large(layer) or layer


def ladder(channels: int, settings: Mapping[str, Any]) -> list[int]:
    """How many channels to keep: the next lower multiples of all that the provider's kernels may like (4, 8, their
    block), then fractions in multiples."""
    block = Target.of(settings["provider"]).block or 8
    likes = {settings["multiple"]} if settings["multiple"] else {4, 8, block}
    step = settings["multiple"] or (block if channels > 2 * block else max(4, block // 4))
    sizes = {(channels - 1) // m * m for m in likes} | {int(channels * r) // step * step for r in settings["ratios"]}
    return sorted((s for s in sizes if 4 <= s < channels), reverse=True)


def _level(found: Class, rule: str, keep: int) -> Level:
    count, readers = found.size, found.readers
    title, settings = f"{count} channels pruned to {keep}", {"channels": keep}

    def proposal(stay: Sequence[int], fitted: Sequence[Pruned]) -> Proposal:
        kept, label = _kept(found, stay), f"{readers[0].y}/{rule}"
        state = State(found.channels.facts, found.channels.facts).without(found.channels, kept, label)
        made: dict[str, Weights] = {}
        for reader, pruned in zip(readers, fitted, strict=False):
            rows = _rows(found, reader, kept)
            made[state.names.get(reader.y, reader.y)] = _weights(pruned.weight[rows], pruned.bias[rows])
        state = _reweighted(state, made, label)
        keys = [r.key for r in readers]
        return Proposal(rule, title, *state.difference(keys), "calibrated", settings=settings)

    def joint(look: Look, rough: bool) -> Fitted:
        moments = [look(r, None).moments for r in readers]
        kernels = [found.kernel(r) for r in readers]
        stay = prune.cheapest(kernels, moments, count - keep)
        done: list[Pruned] = []
        for i, (reader, kernel) in enumerate(zip(readers, kernels, strict=True)):
            seen = moments[i]
            if i and not rough:
                seen = look(reader, _blinded(found, rule, stay, done)).moments
            done.append(prune.prune(kernel, seen, stay))
        error = float(np.sqrt(np.mean([p.rel_error**2 for p in done])))
        return Fitted(proposal(stay, done), error)

    def fit(evidence: Evidence, rough: bool) -> Fitted:
        return joint(lambda layer, change: evidence, rough)

    unfitted = proposal(range(keep), ())
    several = joint if len(readers) > 1 else None
    return Level(rule, readers[0], title, unfitted, fit, settings, found.full * keep // count, found.full, several)


def _kept(found: Class, stay: Sequence[int]) -> NDArray[np.bool_]:
    kept = np.ones(found.channels.count, bool)
    kept[np.delete(found.ids, list(stay))] = False
    return kept


def _rows(found: Class, reader: Layer, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of its outputs a layer keeps: in a residual stream it may write to the class that it reads."""
    axis = found.channels.axes.get(reader.y)
    return np.ones(reader.outputs, bool) if axis is None else kept[axis.ids]


def _blinded(found: Class, rule: str, stay: Sequence[int], done: Sequence[Pruned]) -> Proposal:
    """The network whose first readers have their new weights, and zeros for the channels that will go."""
    made = {}
    for reader, pruned in zip(found.readers, done, strict=False):
        weight = np.zeros(found.kernel(reader).shape)
        weight[:, list(stay)] = pruned.weight.reshape(reader.outputs, len(stay), -1)
        made[reader.y] = _weights(weight, pruned.bias)
    state = _reweighted(State(found.channels.facts, found.channels.facts), made, f"{found.readers[0].y}/{rule}/seen")
    return Proposal(rule, "", *state.difference([r.key for r in found.readers[: len(done)]]), "calibrated")


def _reweighted(state: State, made: Mapping[str, Weights], label: str) -> State:
    """With new weights for the layers whose outputs these are."""
    channels = state.facts.once(analyse)
    found = [linear(channels, n) for n in layers(channels) if n.outputs[0] in made]
    known: list[Linear] = [f for f in found if f is not None]
    assert len(known) == len(made), "they were layers before"
    return state.reweighted(known, made, label)


def _weights(weight: Array, bias: Array) -> Weights:
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    return (lambda: flat), bias.astype(np.float64)
