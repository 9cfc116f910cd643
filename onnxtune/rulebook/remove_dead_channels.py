"""Channels without influence on the outputs are removed.

Forward: a channel is constant when its filter is 0 (its value is the bias) or its BatchNormalization
has gamma = 0 (the value is beta); activations, pools, sums... of constants are constant. Backward: a channel is
needed only by a layer that has weights for it. A channel is constant, too, when its bounds are equal: one that
can never be above 0 is 0 after Relu (`onnxtune.channels.bounds`; inputs may have declared ranges). Let K be the
channels of a layer's input that stay, S the others:

    y = b + sum_{c in K} W_c * x_c + sum_{c in S} W_c * x_c

    W_c = 0            dead: nothing is lost
    x_c = v_c          without zeros around the map (and in Gemm):  b' = b + sum_{c in S} v_c sum(W_c)
    x_c = v_c != 0     with zeros around the map, W_c * v_c is another value at the border, which no bias
                       holds. A constant channel k of K has the same border: W'_k = W_k + sum_{c in S} v_c / v_k W_c

Rows of layers, and all that works on single channels, lose the places of S. Channels that are added
go together or not at all; an operand of a sum that is constant in all channels becomes a weight, and the
branch that made it goes. `onnxtune.channels` finds the least set of channels that must stay.

Fewer channels can be slower, when their number no longer fits the kernels' blocks (pad_channels): the
same removal is also proposed with the remaining channels padded with zeros to multiples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from onnxtune.channels.candidates import candidates
from onnxtune.channels.compose import State
from onnxtune.channels.constants import bounded, known
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.removal import Plan, plan, support, without, without_constant_operands
from onnxtune.facts import Facts
from onnxtune.proposal import Decline, Proposal

NAME = "remove_dead_channels"
ROUNDS = 8
PADDING, DEAD, ZERO = "padding", "dead", "constant 0"
BIAS, CARRIED = "constant, in a bias", "constant, carried by another channel"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    channels, values = facts.once(analyse), facts.once(known)
    why: Counter[str] = Counter()
    start = state = State(facts, facts)
    for _ in range(ROUNDS):
        before, state = state, without_constant_operands(state, NAME)
        found = plan(state.facts)
        if not found.kept.all():
            why.update(_reasons(found))
            state = without(state, found, NAME)
        if state is before:
            break
    if state is not start:
        region = state.difference(())[0]
        also = support(channels, values, region)
        relies = _declared(facts, region | also)
        only_padding = why.keys() == {PADDING}
        for small in islice(candidates(state, settings["provider"], NAME), 1 if only_padding else None):
            yield Proposal(
                NAME, small.title(f"{why.total()} channels removed"), *small.state.difference(also),
                settings={"channels": small.sizes}, details={"tensors": small.tensors, "why": dict(why), **relies},
            )  # fmt: skip
    yield from _held(channels, values)


def _reasons(found: Plan) -> Counter[str]:
    """How many channels are removed, by the reason; one that has several counts for the strongest."""
    reason = np.array([DEAD] * len(found.kept), dtype=object)
    for layer in found.layers:
        spared, ids = found.spared(layer), found.ids(layer)
        zero = layer.uses[found.rows(layer)].any(axis=0) & (found.values[layer.node.input(0)] == 0)
        reason[ids[zero & (reason[ids] == DEAD)]] = ZERO
        reason[ids[spared & (reason[ids] != CARRIED)]] = BIAS if layer.uniform else CARRIED
    for layer in found.layers:
        ids = found.channels.axes[layer.node.outputs[0]].ids
        empty = ~layer.uses.any(axis=1) & (layer.bias == 0)
        reason[ids[empty & (reason[ids] == DEAD)]] = PADDING
    return Counter(reason[~found.kept].tolist())


def _declared(facts: Facts, keys: Collection[str]) -> dict[str, Any]:
    """The declared input ranges from which it follows that channels are constant."""
    read = {i for key in keys for i in facts.by_key[key].inputs} if facts.once(bounded) else set()
    found = {name: list(limits) for name, limits in facts.ranges.items() if name in read}
    return {"input_ranges": found} if found else {}


def _held(channels: Channels, values: Mapping[str, Any]) -> Iterator[Decline]:
    """Constant channels that must stay."""
    said: set[str] = set()
    for tensor, axis in channels.axes.items():
        held = channels.held[axis.ids]
        constant = np.isfinite(values[tensor]) & (held > 0)
        for index in np.unique(held[constant]).tolist():
            reason = channels.reasons[index]
            if reason not in said:
                said.add(reason)
                number = np.count_nonzero(constant & (held == index))
                yield Decline(NAME, tensor, f"{number} constant channel{'s' if number > 1 else ''}: {reason}")
