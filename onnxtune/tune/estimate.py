"""What a rewrite saves where nothing may be measured: the same answer on every machine.

The work of a graph is counted, not timed: multiply-accumulates, values written, and a constant for each node. A
rewrite pays when its region does less of it by MARGIN, and no more multiply-accumulates. Rewrites that trade one for
another (alignment, other kernels) are for those who measure.
"""

from __future__ import annotations

import math

from onnxtune.apply import ApplyError, apply
from onnxtune.costs import macs
from onnxtune.facts import Facts, Node
from onnxtune.proposal import Proposal
from onnxtune.region import extract

WRITTEN = 8
"""Multiply-accumulates that take as long as writing one value, roughly."""
CALL = 20_000
"""The same for running a node at all (about two microseconds)."""
MARGIN = 1e-3
"""Least share of the region's work that has to be saved."""


def work(facts: Facts, node: Node) -> int:
    """Work of one node at the measured sizes, in multiply-accumulates; 0 for a Constant."""
    if node.is_op("Constant"):
        return 0
    written = sum(math.prod(facts.size(o) or ()) for o in node.outputs if o)
    return macs(facts, node) + WRITTEN * written + CALL


def saved_work(facts: Facts, proposal: Proposal) -> tuple[float, str]:
    """(multiply-accumulates that the rewrite saves, "") or (0, why it does not pay)."""
    region = extract(facts, proposal.removes, proposal.reads)
    was = facts if region is None else Facts(region, facts.sizes, facts.ranges)
    try:
        after = Facts(apply(was.model, [proposal], described=True), was.sizes, was.ranges)
    except ApplyError as error:
        return 0.0, str(error)
    before, now = sum(work(was, n) for n in was.nodes), sum(work(after, n) for n in after.nodes)
    more = sum(macs(after, n) for n in after.nodes) > sum(macs(was, n) for n in was.nodes)
    if more or before - now <= MARGIN * before:
        change = now / before if before else 1.0
        return 0.0, f"not measured, and it does not save work ({change:.3f} times as much)"
    return float(before - now), ""
