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
from onnxtune.channels.duplicates import multiples
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.linear import layers, linear
from onnxtune.channels.merging import groups_of, heads_of, merged, support
from onnxtune.facts import Facts
from onnxtune.proposal import Decline, Proposal

NAME = "merge_duplicate_channels"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    channels = facts.once(analyse)
    marks = multiples(channels)
    read = [layer for n in layers(channels) if n.input(0) in channels.axes and (layer := linear(channels, n))]
    groups = groups_of(channels, marks, read)
    heads = heads_of(channels, marks, read, groups)
    kept = heads == np.arange(channels.count)
    if not kept.all():
        shared = {x.node.outputs[0]: new for x in read if (new := merged(channels, marks, x, heads)) is not None}
        state = State(facts, facts).reweighted(read, shared, NAME).without(channels, kept, NAME)
        also = support(channels, marks, state.difference(())[0])
        number = int(np.count_nonzero(~kept))
        for small in candidates(state, settings["provider"], NAME):
            yield Proposal(
                NAME, small.title(f"{number} duplicate channels merged"), *small.state.difference(also),
                settings={"channels": small.sizes}, details={"tensors": small.tensors, "merged": number},
            )  # fmt: skip
    yield from _held(channels, heads, groups)


def _held(channels: Channels, heads: Integers, group: Integers) -> Iterator[Decline]:
    """Duplicates that must stay."""
    _, first, times = np.unique(group, return_index=True, return_counts=True)
    double = np.isin(group, group[first[times > 1]]) & (channels.held > 0) & (heads == np.arange(len(heads)))
    for index in np.unique(channels.held[double]).tolist():
        if np.count_nonzero(double & (channels.held == index)) > 1:
            tensor = next(t for t, a in channels.axes.items() if (double & (channels.held == index))[a.ids].any())
            yield Decline(NAME, tensor, f"duplicate channels: {channels.reasons[index]}")
