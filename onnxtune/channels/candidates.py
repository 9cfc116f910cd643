"""A network with fewer channels, and the same with some of them padded again: what is worth measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxtune.channels.axis import Integers
from onnxtune.channels.compose import State
from onnxtune.channels.cost import SLOWNESS, Costs, Target, rounded
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.linear import layers
from onnxtune.channels.operators import length
from onnxtune.channels.search import aligned_options, descend

OVERHEAD = 0.5
"""Most extra arithmetic of a convolution for alignment, as in pad_channels."""


@dataclass(frozen=True)
class Candidate:
    """`tensors`: outputs of layers whose number of channels differs: tensor, from, to (0: it is gone)."""

    state: State
    tensors: list[dict[str, str | int]]

    @property
    def sizes(self) -> dict[str, str | int]:
        return {str(t["tensor"]): t["to"] for t in self.tensors}

    def title(self, what: str) -> str:
        changes = dict.fromkeys(f"{t['from']} -> {t['to']}" for t in self.tensors)
        return f"{what} ({', '.join(changes)})" if changes else what


def candidates(state: State, provider: str, label: str) -> Iterator[Candidate]:
    """First as the cost model would have it; none that is as large as the network was."""
    first = state.first.once(analyse)
    made = {n.outputs[0]: first.axes[n.outputs[0]] for n in layers(first)}
    channels = state.facts.once(analyse)
    for padded, counts in _padded(state, provider, label):
        widths = {t: _width(channels, state.names.get(t, t), counts) for t in made}
        tensors: list[dict[str, str | int]] = [
            {"tensor": t, "from": axis.size, "to": widths[t]} for t, axis in made.items() if widths[t] != axis.size
        ]
        if tensors or len(padded.facts.nodes) < len(state.first.nodes):
            yield Candidate(padded, tensors)


def _width(channels: Channels, tensor: str, counts: Integers) -> int:
    """How many channels a tensor has under these counts; 0 when it is gone."""
    axis = channels.axes.get(tensor)
    return 0 if axis is None else int((axis.blocks * counts[axis.ids]).sum())


def _padded(state: State, provider: str, label: str) -> Iterator[tuple[State, Integers]]:
    """The same network with the channel counts that have become smaller padded again, not above what they were.

    First as the cost model would have it, then in multiples. With the counts (see axis.py) of the padding.
    """
    channels, target = state.facts.once(analyse), Target.of(provider)
    costs = Costs(channels, target, SLOWNESS[-1])
    old = {now: tensor for tensor, now in state.names.items()}
    most: dict[int, int] = {}
    for r in channels.runs:
        if not r.reason and r.tensor in old and costs.terms[r.index]:
            dim, tensor = channels.axes[r.tensor].dim, old[r.tensor]
            fewer = (length(state.first, tensor, dim) or 0) - state.width(tensor, dim)
            most[r.index] = r.size + fewer // r.times
    runs = [channels.runs[i] for i in most]
    options = {i: [n for n in sizes if n <= most[i]] for i, sizes in aligned_options(costs, runs).items()}
    choices = [descend(costs, options, OVERHEAD), {}]
    for step in dict.fromkeys((target.multiple(costs.half), target.larger(costs.half))):
        sizes = {r.index: min(rounded(r.size, step), most[r.index]) for r in runs}
        choices.append({i: n for i, n in sizes.items() if n != channels.runs[i].size})
    tried: list[dict[int, int]] = []
    for sizes in choices:
        if sizes not in tried:
            tried.append(sizes)
            counts = channels.padded(sizes)
            yield (state.resized(channels, counts, label) if sizes else state), counts
