"""Channels that are multiples of another one are removed, and the next weights take that in.

Let x_j = a x_i with a > 0 in every tensor that a layer sums over channels (equal or proportional filters
and biases, through what keeps them so: Relu, pools, equal parameters of what works on single channels):

    W_i * x_i + W_j * x_j = (W_i + a W_j) * x_i

Proportional rows w_j = a w_i, b_j = a b_i stay proportional through positively homogeneous functions
(f(a x) = a f(x) for a > 0) only; equal ones (a = 1) through all. Channels that are added go together: both must
be duplicates in all operands. Weights count as proportional when they differ by rounding alone.

Constant channels are left to remove_dead_channels. As there, the same is proposed with the remaining
channels padded again to the kernels' multiples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxtune.channels.axis import Integers
from onnxtune.channels.candidates import candidates
from onnxtune.channels.compose import State
from onnxtune.channels.constants import constants
from onnxtune.channels.duplicates import Marks, multiples
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.linear import Linear, Vector, layers, linear
from onnxtune.facts import Facts
from onnxtune.proposal import Decline, Proposal

NAME = "merge_duplicate_channels"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    channels = analyse(facts)
    marks = multiples(channels)
    read = [layer for n in layers(channels) if n.input(0) in channels.axes and (layer := linear(channels, n))]
    groups = _groups(channels, marks, read)
    heads = _heads(channels, marks, read, groups)
    kept = heads == np.arange(channels.count)
    if not kept.all():
        shared = {x.node.outputs[0]: new for x in read if (new := _merged(channels, marks, x, heads)) is not None}
        state = State(facts, facts).reweighted(read, shared, NAME).without(channels, kept, NAME)
        also = _support(channels, marks, state.difference(())[0])
        number = int(np.count_nonzero(~kept))
        for small in candidates(state, settings["provider"], NAME):
            yield Proposal(
                NAME, small.title(f"{number} duplicate channels merged"), *small.state.difference(also),
                settings={"channels": small.sizes}, details={"tensors": small.tensors, "merged": number},
            )  # fmt: skip
    yield from _held(channels, heads, groups)


def _groups(channels: Channels, marks: Mapping[str, Marks], read: list[Linear]) -> Integers:
    """(identities,): equal numbers for identities that are multiples wherever a layer reads them."""
    values, alone = constants(channels), np.ones(channels.count, bool)
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
    """The groups split by a number that some identities have."""
    mark = np.full(len(group), -1, np.int64)
    mark[ids] = what
    return np.unique(np.stack([group, mark]), axis=1, return_inverse=True)[1].ravel().astype(np.int64)


def _heads(channels: Channels, marks: Mapping[str, Marks], read: list[Linear], group: Integers) -> Integers:
    """For each identity the one that it is merged into: one that must stay, else the largest multiple."""
    factor = np.ones(channels.count)
    for layer in reversed(read):
        factor[channels.axes[layer.node.input(0)].ids] = marks[layer.node.input(0)].factors
    free = channels.held == 0
    order = np.lexsort((-factor, free, group))
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    head = order[first][np.searchsorted(group[order][first], group)]
    return np.where(free, head, np.arange(channels.count))


def _merged(
    channels: Channels, marks: Mapping[str, Marks], layer: Linear, heads: Integers
) -> tuple[Vector, Vector] | None:
    """A layer's weights with those for merged channels added to the ones for their heads; None: none is merged."""
    ids, factors = channels.axes[layer.node.input(0)].ids, marks[layer.node.input(0)].factors
    gone = np.flatnonzero(heads[ids] != ids).tolist()
    if not gone:
        return None
    place, w = {int(i): p for p, i in enumerate(ids)}, layer.w.copy()
    for j in gone:
        i = place[int(heads[ids[j]])]
        w[:, layer.columns(i)] += factors[j] / factors[i] * layer.w[:, layer.columns(j)]
    return w, layer.bias


def _support(channels: Channels, marks: Mapping[str, Marks], keys: frozenset[str]) -> set[str]:
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
    return found - keys


def _held(channels: Channels, heads: Integers, group: Integers) -> Iterator[Decline]:
    """Duplicates that must stay."""
    _, first, times = np.unique(group, return_index=True, return_counts=True)
    double = np.isin(group, group[first[times > 1]]) & (channels.held > 0) & (heads == np.arange(len(heads)))
    for index in np.unique(channels.held[double]).tolist():
        if np.count_nonzero(double & (channels.held == index)) > 1:
            tensor = next(t for t, a in channels.axes.items() if (double & (channels.held == index))[a.ids].any())
            yield Decline(NAME, tensor, f"duplicate channels: {channels.reasons[index]}")
