"""Levels of channel pruning: which classes of channels, how many of them stay, and the new weights of who reads them.

Where several layers sum over a class, which channels go is decided first, by the harm to all of them together. Then
each layer is refitted in the network's order, on what those before it have become: at that point the channels still
run, with weights of zero behind them. In the end all tensors are made smaller at once. Classes that lie next to each
other, so that a layer reads one and makes the other, are pruned together in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate import prune
from onnxtune.calibrate.evidence import Evidence, most_rows, too_large
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
"""What the covariances (or samples) of all layers that read a class may take together."""


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


@dataclass(frozen=True, eq=False)
class Part:
    """A class of which `keep` channels stay."""

    found: Class
    keep: int


def prune_levels(facts: Facts, settings: Mapping[str, Any], rule: str) -> Iterator[Level | Decline]:
    """For every class of channels that matters a ladder of smaller numbers of channels.

    Settings: `ratios` (of the channels that stay), `min_share` (of the network's multiply-accumulates that the layers
    around a class must have), `min_channels`, `multiple` (0: what the provider's kernels like), `provider`.
    """
    channels, total = facts.once(analyse), max(total_macs(facts), 1)
    holders, order = _Holders(channels), layers(channels)
    place = {n.key: i for i, n in enumerate(order)}
    done: set[str] = set()
    small: set[bytes] = set()
    for node in order:
        ids = channels.axes[node.input(0)].ids
        if node.key in done or len(ids) <= settings["min_channels"] or ids.tobytes() in small:
            continue
        near = holders.around(ids)
        full = sum(macs(facts, n) for n in near)
        if full < settings["min_share"] * total:
            small.add(ids.tobytes())
            continue
        nodes = [n for n in near if n.key in place and holders.hold(n.input(0), ids)]
        nodes.sort(key=lambda n: place[n.key])
        done.update(n.key for n in nodes)
        readers = _readers(channels, ids, nodes)
        if isinstance(readers, str):
            yield Decline(rule, node.key, readers)
            continue
        found = Class(channels, ids, readers, full)
        for keep in ladder(found.size, settings):
            yield _level(rule, [Part(found, keep)])


class _Holders:
    """Which tensors hold a channel: found among all of a network in the time that there are such."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._tensors = list(channels.axes)
        ids = [np.unique(channels.axes[t].ids) for t in self._tensors]
        every = np.concatenate([*ids, np.zeros(0, np.int64)])
        owners = np.repeat(np.arange(len(ids)), [len(i) for i in ids])
        order = np.argsort(every, kind="stable")
        self._ids, self._owners = every[order], owners[order]

    def of(self, ids: NDArray[np.int64]) -> list[str]:
        """The tensors that hold one of the channels."""
        wanted = np.unique(ids)
        first, last = (np.searchsorted(self._ids, wanted, side) for side in ("left", "right"))
        found = [self._owners[a:b] for a, b in zip(first, last, strict=True)]
        return [self._tensors[i] for i in np.unique(np.concatenate([*found, np.zeros(0, np.int64)]))]

    def hold(self, tensor: str, ids: NDArray[np.int64]) -> bool:
        return bool(np.isin(self._channels.axes[tensor].ids, ids).any())

    def around(self, ids: NDArray[np.int64]) -> list[Node]:
        """The nodes that make or read (first of all) a tensor which holds one of the channels."""
        facts = self._channels.facts
        found: dict[str, Node] = {}
        for tensor in self.of(ids):
            maker = facts.producer(tensor)
            readers = (n for n in facts.consumers(tensor) if n.input(0) == tensor)
            found.update((n.key, n) for n in (*readers, *(() if maker is None else (maker,))))
        return list(found.values())


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
    if sum(_bytes(r) for r in found) > MOST_BYTES:
        return f"{len(found)} layers read these channels: too many columns together"
    return tuple(found)


def _bytes(layer: Layer) -> int:
    """What has to be held of a layer while channels are chosen."""
    return 4 * most_rows(layer, 1) * layer.columns if layer.wide else 16 * layer.columns**2


def _layer(channels: Channels, node: Node) -> Layer | str:
    if node.is_op("Conv"):
        return conv_layer(channels.facts, node)
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


def _level(rule: str, parts: Sequence[Part]) -> Level:
    """One level that prunes all these classes."""
    order = {n.key: n.index for n in parts[0].found.channels.facts.nodes}
    parts = sorted(parts, key=lambda p: order[p.found.readers[0].key])
    readers = sorted(((r, i) for i, p in enumerate(parts) for r in p.found.readers), key=lambda r: order[r[0].key])
    title = "; ".join(f"{p.found.size} channels pruned to {p.keep}" for p in parts)
    settings: dict[str, Any] = {"channels": parts[0].keep}
    if len(parts) > 1:
        settings = {"channels": {p.found.readers[0].key: p.keep for p in parts}}
    change = _Change(rule, title, settings, parts, readers)

    def joint(look: Look, rough: bool) -> Fitted:
        stays = [_stay(p, look) for p in parts]
        done: list[Pruned] = []
        for number, (reader, i) in enumerate(readers):
            before = change.blinded(stays, done) if number and not rough else None
            done.append(prune.prune(parts[i].found.kernel(reader), look(reader, before).seen, stays[i]))
        error = float(np.sqrt(np.mean([p.rel_error**2 for p in done])))
        return Fitted(change.proposal(stays, done), error)

    def fit(evidence: Evidence, rough: bool) -> Fitted:
        return joint(lambda layer, change: evidence, rough)

    unfitted = change.proposal([range(p.keep) for p in parts], [])
    full = sum(p.found.full for p in parts)
    left = sum(p.found.full * p.keep // p.found.size for p in parts)
    several = joint if len(readers) > 1 else None
    together = lambda more: _level(rule, more)  # noqa: E731
    return Level(rule, readers[0][0], title, unfitted, fit, settings, left, full, several, tuple(parts), together)


def _stay(part: Part, look: Look) -> tuple[int, ...]:
    """Which channels of a class do."""
    readers = part.found.readers
    seen = [look(r, None).seen for r in readers]
    return prune.cheapest([part.found.kernel(r) for r in readers], seen, part.found.size - part.keep)


@dataclass(frozen=True, eq=False)
class _Change:
    """What pruning makes of the graph. `readers`: the layers in order, each with the number of the part it reads."""

    rule: str
    title: str
    settings: Mapping[str, Any]
    parts: Sequence[Part]
    readers: Sequence[tuple[Layer, int]]

    @property
    def channels(self) -> Channels:
        return self.parts[0].found.channels

    @property
    def label(self) -> str:
        return f"{self.readers[0][0].y}/{self.rule}"

    def proposal(self, stays: Sequence[Sequence[int]], fitted: Sequence[Pruned]) -> Proposal:
        """With the channels `stays` of each class alone; `fitted`: new weights of the first readers."""
        kept = np.ones(self.channels.count, bool)
        for part, stay in zip(self.parts, stays, strict=True):
            kept[np.delete(part.found.ids, list(stay))] = False
        state = State(self.channels.facts, self.channels.facts).without(self.channels, kept, self.label)
        made: dict[str, Weights] = {}
        for (reader, _), pruned in zip(self.readers, fitted, strict=False):
            axis = self.channels.axes.get(reader.y)  # a layer may write to a class that is pruned, too
            rows = np.ones(reader.outputs, bool) if axis is None else kept[axis.ids]
            made[state.names.get(reader.y, reader.y)] = _weights(pruned.weight[rows], pruned.bias[rows])
        return self._difference(_reweighted(state, made, self.label), len(self.readers))

    def blinded(self, stays: Sequence[Sequence[int]], done: Sequence[Pruned]) -> Proposal:
        """The first readers with their new weights, and zeros for the channels that will go."""
        made: dict[str, Weights] = {}
        for (reader, i), pruned in zip(self.readers, done, strict=False):
            weight = np.zeros(self.parts[i].found.kernel(reader).shape)
            weight[:, list(stays[i])] = pruned.weight.reshape(reader.outputs, len(stays[i]), -1)
            made[reader.y] = _weights(weight, pruned.bias)
        state = State(self.channels.facts, self.channels.facts)
        return self._difference(_reweighted(state, made, f"{self.label}/seen"), len(done))

    def _difference(self, state: State, count: int) -> Proposal:
        keys = [r.key for r, _ in self.readers[:count]]
        return Proposal(self.rule, self.title, *state.difference(keys), "calibrated", settings=self.settings)


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
