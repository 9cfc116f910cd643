"""The channels of a whole graph: which ones always stand next to each other, and which may be resized.

1. Trace every node in order: producers make new channel identities, others pass them on, unite them
   (Add) or are barriers that pin them. Graph inputs and outputs are pinned.
2. Identities that were united or change together only become one (identities.py).
3. Follow the values of pad channels; where they may not be finite, pin.
4. Cut the identities into runs: maximal sequences that stand together in every tensor. A run is resized
   by pad channels behind its last identity, or by leaving identities out.

Everything is linear in the number of channels of all tensors, and done in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis, Integers
from onnxtune.channels.identities import components, identities
from onnxtune.channels.operators import Pads, Trace
from onnxtune.channels.ranges import ZERO
from onnxtune.channels.table import operator
from onnxtune.facts import Facts, Node

UNSEEN, END = -2, -1


@dataclass(frozen=True)
class Run:
    """Channels that are resized together. `tensor`: the first that holds them; `last`: identity of the
    last channel; `reason`: why the run must stay as it is, "" when it may be resized; `times`: how many channels
    of the tensor each one stands for (as many as there are groups in a convolution that reads it)."""

    index: int
    tensor: str
    size: int
    last: int
    reason: str
    times: int = 1


@dataclass(frozen=True, eq=False)
class Channels:
    """Result of the analysis. `axes`: tensors whose channels are known; `count`: how many identities.

    `held`: (count,) why an identity may not even be removed, as an index into `reasons` (0: it may).
    `barriers`: keys of the nodes of which nothing is known. `cuts`: tensors at which a class may end, with
    what lies beyond: there pad channels are cut off by a Slice, or added by a Pad.
    """

    facts: Facts
    axes: Mapping[str, Axis]
    runs: Sequence[Run]
    count: int
    held: Integers
    reasons: Sequence[str]
    barriers: frozenset[str]
    cuts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def ends(self) -> Mapping[str, tuple[tuple[int, int], ...]]:
        """For each tensor the runs in it: (run, how much the axis grows for each pad channel)."""
        run_ending_at = np.full(self.count, -1, np.int64)
        for run in self.runs:
            run_ending_at[run.last] = run.index
        known: dict[int, tuple[tuple[int, int], ...]] = {}
        for axis in self.axes.values():
            if id(axis) not in known:
                runs = run_ending_at[axis.ids]
                here, place = np.unique(runs, return_inverse=True)
                grows = np.bincount(place.ravel(), axis.grows).astype(int)
                known[id(axis)] = tuple((int(r), int(g)) for r, g in zip(here, grows, strict=True) if r >= 0)
        return {tensor: known[id(axis)] for tensor, axis in self.axes.items()}

    @cached_property
    def touching(self) -> Mapping[int, tuple[Node, ...]]:
        """For each run the nodes that read or make a tensor that holds it, in order."""
        found: dict[int, dict[str, Node]] = {run.index: {} for run in self.runs}
        for node in self.facts.nodes:
            for tensor in (*node.inputs, *node.outputs):
                for run, _ in self.ends.get(tensor, ()):
                    found[run][node.key] = node
        return {run: tuple(nodes.values()) for run, nodes in found.items()}

    def padded(self, sizes: Mapping[int, int]) -> Integers:
        """Counts (see axis.py) that bring the runs with these indices to these sizes. Larger than now only."""
        counts = np.ones(self.count, np.int64)
        for run, size in sizes.items():
            counts[self.runs[run].last] += size - self.runs[run].size
        return counts


def analyse(facts: Facts) -> Channels:
    return _analyse(facts, cutting=False)


def analyse_cutting(facts: Facts) -> Channels:
    """The same, but what is pinned for the sake of those outside alone (barriers, callers) may grow: see `cuts`."""
    return _analyse(facts, cutting=True)


def _analyse(facts: Facts, *, cutting: bool) -> Channels:
    trace = Trace(facts)
    for name in facts.inputs:
        trace.unknown(name, f"'{name}' is a graph input")
    for node in facts.nodes:
        _trace(node, trace)
        trace.seen.update(node.inputs)
    for name in facts.outputs:
        if name in trace.axes:
            _pin_border(trace, name, f"'{name}' is a graph output")
    cuts = {t: why for t, why in trace.borders.items() if cutting and trace.axes[t].plain}
    for tensor in (t for t in trace.borders if t not in cuts):  # in order: the first reason stays
        trace.pin(trace.axes[tensor], trace.borders[tensor])
    identity, count, weights = identities(trace.count, trace.equal, trace.tied)
    merged: dict[int, Axis] = {}
    for axis in trace.axes.values():
        if id(axis) not in merged:
            pads = None if weights is None else axis.blocks * weights[axis.ids]
            merged[id(axis)] = Axis(identity[axis.ids], axis.blocks, axis.dim, pads)
    axes = {tensor: merged[id(axis)] for tensor, axis in trace.axes.items()}
    reasons: list[str] = [""]
    pinned = np.zeros(count, np.int64)  # index into reasons; 0: free
    for ids, reason in trace.pinned:
        _pin(pinned, identity[ids], reason, reasons)
    held = pinned.copy()
    for ids, reason in trace.held:
        _pin(held, identity[ids], reason, reasons)
    if weights is not None:
        closed = np.bincount(identity, weights, minlength=count) == 0
        _pin(pinned, np.flatnonzero(closed), "its channels come in blocks that do not fit together", reasons)
    _check_pads(trace, axes, pinned, reasons, [t for t in cuts if _comes_from_outside(trace, t)])
    runs = _runs(axes, count, pinned, reasons)
    return Channels(facts, axes, runs, count, held, reasons, frozenset(trace.barriers), cuts)


def same_channels(channels: Channels, node: Node) -> bool:
    """Are the channels of a node's output those of its first input, one by one?"""
    into, out = (channels.axes.get(t) for t in (node.input(0), node.outputs[0]))
    return into is not None and out is not None and np.array_equal(into.ids, out.ids)


def _trace(node: Node, trace: Trace) -> None:
    if node.is_op("Constant"):
        return
    known = operator(node)
    reason = known.trace(node, trace) if known else f"{node.op_type} may mix channels"
    for name in node.captured:
        if name in trace.axes:
            _pin_border(trace, name, f"a subgraph of {node.op_type} reads '{name}'")
    if reason is None:
        return
    trace.barriers.add(node.key)
    reason = reason if node.op_type in reason else f"{node.op_type}: {reason}"
    for name in node.inputs:
        if name in trace.axes:
            _pin_border(trace, name, reason)
    for name in node.outputs:
        trace.unknown(name, reason)


def _pin_border(trace: Trace, tensor: str, reason: str) -> None:
    """Someone outside makes or reads this tensor. The first reason stays."""
    trace.borders.setdefault(tensor, reason)


def _comes_from_outside(trace: Trace, tensor: str) -> bool:
    maker = trace.facts.producer(tensor)
    return maker is None or maker.key in trace.barriers


def _pin(pinned: Integers, ids: Integers, reason: str, reasons: list[str]) -> None:
    """The first reason stays."""
    reasons.append(reason)
    pinned[ids] = np.where(pinned[ids] == 0, len(reasons) - 1, pinned[ids])


def _check_pads(
    trace: Trace, axes: Mapping[str, Axis], pinned: Integers, reasons: list[str], padded: Sequence[str]
) -> None:
    """Pin what would make a pad channel infinite; again until nothing changes (pinned ones have no pads).

    `padded`: tensors whose pad channels are zeros that a Pad has put there.
    """
    while True:
        pads, before = Pads(trace.facts, axes), np.count_nonzero(pinned)
        pads.ranges.update((tensor, ZERO) for tensor in padded)
        for node in trace.facts.nodes:
            open_inputs, open_outputs = (
                [t for t in tensors if t in axes and not pinned[axes[t].ids].all()]
                for tensors in (node.inputs, node.outputs)
            )
            known = operator(node)
            if known is None or node.key in trace.barriers or not (open_inputs or open_outputs):
                continue
            result = known.pads(node, pads)
            for name in (open_outputs or open_inputs) if isinstance(result, str) else open_outputs:
                if isinstance(result, str):
                    _pin(pinned, axes[name].ids, result, reasons)
                else:
                    pads.ranges[name] = result
        if np.count_nonzero(pinned) == before:
            return


def _runs(axes: Mapping[str, Axis], count: int, pinned: Integers, reasons: list[str]) -> list[Run]:
    unique = {id(axis): axis for axis in axes.values()}.values()
    rows = [a.ids[a.grows > 0] for a in unique]  # of channels that stand side by side the last is followed by pads
    after, cut_after = _neighbours(rows, count)
    _, cut_before = _neighbours([r[::-1] for r in rows], count)
    chained = (after >= 0) & ~cut_after
    chained[chained] = ~cut_before[after[chained]]
    here = np.flatnonzero(chained)
    label, number = components(count, [(here, after[here])])
    sizes = np.bincount(label, minlength=number)
    last = np.full(number, -1, np.int64)
    last[label[~chained]] = np.flatnonzero(~chained)
    runs: list[Run] = []
    seen = np.zeros(number, bool)
    for tensor, axis in axes.items():
        for found in dict.fromkeys(label[axis.ids].tolist()):
            if not seen[found]:
                seen[found], end = True, int(last[found])
                times = int(axis.grows[axis.ids == end].sum()) or 1
                runs.append(Run(len(runs), tensor, int(sizes[found]), end, reasons[pinned[end]], times))
    return runs


def _neighbours(rows: Sequence[Integers], count: int) -> tuple[Integers, NDArray[np.bool_]]:
    """(the identity that follows each one, END at the end of a row; whether it differs between places)."""
    after = np.full(count, UNSEEN, np.int64)
    differs = np.zeros(count, bool)
    for ids in rows:
        following = np.append(ids[1:], END)
        differs[ids[(after[ids] != UNSEEN) & (after[ids] != following)]] = True
        after[ids] = following
        differs[ids[after[ids] != following]] = True  # the identity stands in this row twice
    return after, differs
