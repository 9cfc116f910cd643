"""Which channels a network can do without, and the network without them.

A channel may go when no layer that sums over channels needs it: its columns there are zero (`dead`), or
it is constant and the layer can have its share in another way:

    the value is 0           no share
    no zeros around the map  the bias:     b += v_c sum(W[:, c])
    zeros around the map     a carrier:    W[:, k] += v_c / v_k W[:, c]   for one constant channel k that stays

(in the last case the share is not constant near the border, but the carrier meets the same border).
What is needed is the least set that holds the channels that must stay and, for every row of a layer
whose output is needed, the columns that cannot be spared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Integers
from onnxtune.channels.bounds import origin
from onnxtune.channels.compose import State, Weights
from onnxtune.channels.constants import bounded, known, transfer
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.linear import Linear, Vector, layers, linear
from onnxtune.channels.pointwise import operand
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder

NEAR = 0.1
"""A carrier's value is at least this part of the largest one that it carries: its weights stay small."""
Mask = NDArray[np.bool_]


@dataclass(eq=False)
class Plan:
    """`kept`: (identities,); `values`: see constants.py; `idle`: for each layer its rows whose result nobody
    looks at; `carriers`: layer -> the channel of its input that carries the constants."""

    channels: Channels
    values: Mapping[str, Vector]
    layers: list[Linear]
    kept: Mask
    idle: dict[str, Mask] = field(default_factory=dict)
    carriers: dict[str, int] = field(default_factory=dict)

    def ids(self, layer: Linear) -> Integers:
        return self.channels.axes[layer.node.input(0)].ids

    def rows(self, layer: Linear) -> Mask:
        """The rows of a layer that someone needs."""
        return np.asarray(self.kept[self.channels.axes[layer.node.outputs[0]].ids] & ~self.idle[layer.node.key])

    def spared(self, layer: Linear) -> Mask:
        """Removed channels of a layer's input whose constant share it must get in another way."""
        x = self.values[layer.node.input(0)]
        used = layer.uses[self.rows(layer)].any(axis=0)
        return np.asarray(~self.kept[self.ids(layer)] & used & (np.nan_to_num(x) != 0))


def plan(facts: Facts) -> Plan:
    """The least set of channels. Needs channels of at least one layer's input; see the module's text."""
    channels = facts.once(analyse)
    kept = channels.held != 0
    read = []
    for node in layers(channels):
        layer, axis = linear(channels, node), channels.axes.get(node.input(0))
        if layer is not None and axis is not None:
            read.append(layer)
        elif axis is not None:
            kept[axis.ids] = True
    useful = _useful(facts)
    for tensor, axis in channels.axes.items():
        maker = facts.producer(tensor)
        if maker is not None and maker.key not in useful:
            kept[axis.ids] = True  # leads nowhere: not ours to tidy up
    found = Plan(channels, facts.once(known), read, kept)
    found.idle = {layer.node.key: _idle(found, layer.node.outputs[0]) for layer in read}
    while True:
        _need(found)
        more = _never_empty(found) | _carriers(found)
        if not more:
            return found
        kept[list(more)] = True


def _useful(facts: Facts) -> set[str]:
    """Keys of the nodes that lead to a graph output."""
    found: set[str] = set()
    for node in reversed(facts.nodes):
        readers = (r for o in node.outputs for r in facts.consumers(o))
        if any(facts.is_output(o) for o in node.outputs) or any(r.key in found for r in readers):
            found.add(node.key)
    return found


def _need(found: Plan) -> None:
    """Extend the kept set by what its rows need."""
    while True:
        before = np.count_nonzero(found.kept)
        for layer in reversed(found.layers):
            used = layer.uses[found.rows(layer)].any(axis=0)
            found.kept[found.ids(layer)[used & np.isnan(found.values[layer.node.input(0)])]] = True
        if np.count_nonzero(found.kept) == before:
            return


def _idle(found: Plan, tensor: str) -> Mask:
    """Channels of a layer's output whose readers give the same constant whatever comes in."""
    channels = found.channels
    readers = channels.facts.consumers(tensor)

    def nothing(name: str) -> Vector:
        return np.full(len(channels.axes[name].ids), np.nan)

    idle = np.full(len(channels.axes[tensor].ids), bool(readers) and not channels.facts.is_output(tensor))
    for reader in readers:
        if reader.key in channels.barriers or not reader.is_op("BatchNormalization"):
            return np.zeros_like(idle)
        made = transfer(channels, reader, nothing)
        idle &= np.isfinite(made[reader.outputs[0]])
    return idle


def _never_empty(found: Plan) -> set[int]:
    """One channel of each tensor of which nothing would be left."""
    unique = {id(a): a for a in found.channels.axes.values()}.values()
    return {int(a.ids[0]) for a in unique if len(a.ids) and not found.kept[a.ids].any()}


def _carriers(found: Plan) -> set[int]:
    """Choose the carriers among the kept channels; returns channels that must be kept for want of one."""
    missing: set[int] = set()
    for layer in found.layers:
        spared = found.spared(layer)
        if layer.uniform or not spared.any():
            continue
        if layer.group > 1:
            missing.update(found.ids(layer)[spared].tolist())  # no channel can carry those of another group
            continue
        ids, size = found.ids(layer), np.abs(np.nan_to_num(found.values[layer.node.input(0)]))
        largest = int(np.argmax(np.where(spared, size, 0.0)))
        able = np.where(found.kept[ids], size, 0.0)
        best = int(np.argmax(able))
        if able[best] >= NEAR * size[largest]:
            found.carriers[layer.node.key] = best
        else:
            missing.add(int(ids[largest]))
    return missing


def without(state: State, found: Plan, label: str) -> State:
    """The network without the channels that the plan of it spares."""
    made = {x.node.outputs[0]: new for x in found.layers if (new := _share(found, x)) is not None}
    return state.reweighted(found.layers, made, label).without(found.channels, found.kept, label)


def _share(found: Plan, layer: Linear) -> Weights | None:
    """The layer's weights and bias with the constants of its removed inputs in them; None: as they are."""
    spared, ids = found.spared(layer), found.ids(layer)
    idle = found.idle[layer.node.key]
    if not spared.any() and not (idle.any() and not found.kept[ids].all()):
        return None
    x, carrier = found.values[layer.node.input(0)], found.carriers.get(layer.node.key)
    bias = np.where(idle, 0.0, layer.bias)
    if layer.uniform:
        bias = bias + np.where(idle, 0.0, layer.shares(np.where(spared, x, 0.0)))

    def weights() -> Vector:
        w = layer.w
        w[idle] = 0.0
        for c in np.flatnonzero(spared & (not layer.uniform)).tolist():
            assert carrier is not None, "chosen in _carriers"
            w[:, layer.columns(carrier)] += x[c] / x[carrier] * w[:, layer.columns(c)]
        return w

    return weights, bias


def without_constant_operands(state: State, label: str) -> State:
    """Elementwise operators whose one operand is constant in all channels get it as a weight.

    What made that operand (a residual branch whose last scales are 0) falls away.
    """
    facts = state.facts
    channels, values = facts.once(analyse), facts.once(known)
    fragments = []
    useful = _useful(facts)
    for node in facts.nodes:
        position = _constant_operand(channels, values, node)
        if position is None or node.key not in useful:
            continue
        x = values[node.input(position)]
        new = Builder(f"{node.key}/{label}", state.taken, facts.opset)
        if node.is_op("Add", "Sum") and not x.any():
            others = [n for i, n in enumerate(node.inputs) if i != position]
            y = new.Identity(others[0]) if len(others) == 1 else new.copy(node.proto, others)[0]
        else:
            behind = (facts.rank(node.outputs[0]) or 2) - 1 - channels.axes[node.outputs[0]].dim
            array = x.astype(facts.dtype(node.outputs[0])).reshape(-1, *(1,) * behind)
            y = new.copy(node.proto, [array if i == position else n for i, n in enumerate(node.inputs)])[0]
        fragments.append((frozenset({node.key}), new.finish({node.outputs[0]: y})))
    return state.replaced(fragments)


def _constant_operand(channels: Channels, values: Mapping[str, Vector], node: Node) -> int | None:
    """Position of an operand that a weight can replace, so that another one still gives the output its shape."""
    facts = channels.facts
    if not node.is_op("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum") or node.key in channels.barriers:
        return None
    if len(node.inputs) < 2 or not channels.axes[node.outputs[0]].plain:
        return None
    shape = facts.shape(node.outputs[0])
    roles = [operand(facts, node, n, channels.axes[node.outputs[0]].dim) for n in node.inputs]
    for i, name in enumerate(node.inputs):
        if roles[i] != "channels" or np.isnan(values[name]).any():
            continue
        for j, other in enumerate(node.inputs):
            if other != name and roles[j] == "channels" and facts.shape(other) == shape and None not in (shape or ()):
                return i
    return None


def support(channels: Channels, values: Mapping[str, Vector], keys: Collection[str]) -> set[str]:
    """What else belongs to a region, so that its rewrite is right for any values that come in.

    The nodes that make the constants that the region reads, and the normalizations after its layers
    that do not look at what comes in.
    """
    facts = channels.facts
    found = {r.key for k in keys for r in facts.consumers(k) if r.is_op("BatchNormalization")} - set(keys)
    wanted = [facts.by_key[k] for k in [*keys, *found]]
    while wanted:
        for name in wanted.pop().inputs:
            maker = facts.producer(name)
            if maker is None or maker.key in found or maker.key in keys:
                continue
            if name in values and np.isfinite(values[name]).any():
                found.add(maker.key)
                wanted.append(maker)
    for name in sorted(facts.once(bounded)):
        maker = facts.producer(name)
        if maker is not None and (maker.key in keys or maker.key in found):
            found |= origin(facts, name) - set(keys)
    return found
