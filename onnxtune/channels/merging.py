"""Which channels can be merged into others, given which are multiples of each other (duplicates.py)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from onnxtune.channels.axis import Integers
from onnxtune.channels.compose import Weights
from onnxtune.channels.constants import known
from onnxtune.channels.duplicates import Marks
from onnxtune.channels.flow import Channels
from onnxtune.channels.linear import Linear, Vector, layers


def groups_of(channels: Channels, marks: Mapping[str, Marks], read: list[Linear]) -> Integers:
    """(identities,): equal numbers for identities that are multiples wherever a layer reads them."""
    values, alone = channels.facts.once(known), np.ones(channels.count, bool)
    group = np.zeros(channels.count, np.int64)
    for axis in {id(a): a for a in channels.axes.values()}.values():
        group = _refined(group, axis.ids, axis.blocks)
        here, times = np.unique(axis.ids, return_counts=True)
        alone[here] &= times == 1
    seen = np.zeros(channels.count, bool)
    for layer in read:
        tensor = layer.node.input(0)
        ids = channels.axes[tensor].ids
        group = _refined(group, ids, marks[tensor].labels)
        seen[ids] = True
        alone[ids[np.isfinite(values[tensor])]] = False
    understood = {layer.node.key for layer in read}
    for node in layers(channels):
        if node.key not in understood and node.input(0) in channels.axes:
            alone[channels.axes[node.input(0)].ids] = False
    single = ~(alone & seen)
    group[single] = group.max(initial=0) + 1 + np.flatnonzero(single)
    return group


def _refined(group: Integers, ids: Integers, what: Integers) -> Integers:
    """The groups split by a number (not negative) that some identities have."""
    code = group[ids] * (int(what.max(initial=0)) + 1) + what
    refined = group.copy()
    refined[ids] = group.max(initial=0) + 1 + np.unique(code, return_inverse=True)[1].ravel()
    return refined


def heads_of(channels: Channels, marks: Mapping[str, Marks], read: list[Linear], group: Integers) -> Integers:
    """For each identity the one that it is merged into: one that must stay, else the largest multiple."""
    factor = np.ones(channels.count)
    for layer in reversed(read):
        factor[channels.axes[layer.node.input(0)].ids] = marks[layer.node.input(0)].factors
    free = channels.held == 0
    order = np.lexsort((-factor, free, group))
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    head = order[first][np.searchsorted(group[order][first], group)]
    return np.where(free, head, np.arange(channels.count))


def merged(channels: Channels, marks: Mapping[str, Marks], layer: Linear, heads: Integers) -> Weights | None:
    """A layer's weights with those for merged channels added to the ones for their heads; None: none is merged."""
    ids, factors = channels.axes[layer.node.input(0)].ids, marks[layer.node.input(0)].factors
    gone = np.flatnonzero(heads[ids] != ids).tolist()
    if not gone:
        return None
    place = {int(i): p for p, i in enumerate(ids)}

    def weights() -> Vector:
        w = layer.w
        for j in gone:
            i = place[int(heads[ids[j]])]
            w[:, layer.columns(i)] += factors[j] / factors[i] * w[:, layer.columns(j)]
        return w

    return weights, layer.bias


def support(channels: Channels, marks: Mapping[str, Marks], keys: Collection[str]) -> set[str]:
    """The nodes that make duplicates that the region reads."""
    facts, found = channels.facts, set(keys)
    wanted = [facts.by_key[k] for k in keys]
    while wanted:
        for name in wanted.pop().inputs:
            maker = facts.producer(name)
            if maker is None or maker.key in found or name not in marks:
                continue
            if len(np.unique(marks[name].labels)) < len(marks[name].labels):
                found.add(maker.key)
                wanted.append(maker)
    return found - set(keys)
