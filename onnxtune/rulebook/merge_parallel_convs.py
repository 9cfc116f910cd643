"""Linear branches of one input that are added up, as one convolution.

    sum_i W_i * x + b_i  =  (sum_i W_i at its place in a common kernel) * x + sum_i b_i      (Sub: with a minus)

    identity                     one filter per channel, 1 in the middle
    BatchNormalization, Mul...   the same with scale and shift
    AveragePool                  1 / (kH kW) all over the window
    Conv + BatchNormalization    s W, s b + t;  1x1 before KxK composed

(`onnxtune.stencil` has the algebra: offsets, dilations, groups, sizes.) Constants per channel in the sum
join the bias; operands that are no branch of the same input are added to the result as before. No weight
grows beyond the sum of the |W_i|, so that rounding does not either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxtune.branches import Base, Term, base_of, between, is_sum, reach, sources, stencil, sum_of, terms
from onnxtune.convolution import add_conv
from onnxtune.costs import macs
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.linear import fits, makers, per_channel, value
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.stencil import Stencil

RULE = "merge_parallel_convs"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for root in facts.nodes:
        if not is_sum(facts, root) or _inside_a_sum(facts, root):
            continue
        adds, leaves = _flatten(facts, root)
        reaches = {leaf: reach(facts, leaf) for leaf, _ in leaves if value(facts, leaf) is None}
        for tensor in dict.fromkeys(t for found in reaches.values() for t in found):
            branches = [t for t in reaches if tensor in reaches[t]]
            result = _at(facts, adds, leaves, branches, tensor, settings["growth"])
            if result is not None:
                yield Decline(RULE, root.key, str(result)) if isinstance(result, No) else result


def _inside_a_sum(facts: Facts, node: Node) -> bool:
    readers = facts.consumers(node.outputs[0])
    return not facts.is_output(node.outputs[0]) and len(readers) == 1 and is_sum(facts, readers[0])


def _flatten(facts: Facts, root: Node, sign: int = 1) -> tuple[list[Node], list[Term]]:
    """The additions of a tree of sums, and its operands."""
    nodes, leaves = [root], list[Term]()
    for tensor, own in terms(root, sign):
        node = facts.producer(tensor)
        if node is not None and is_sum(facts, node) and not facts.why_not_private(tensor, {root.key}):
            more, deeper = _flatten(facts, node, own)
            nodes += more
            leaves += deeper
        else:
            leaves.append((tensor, own))
    return nodes, leaves


def _at(
    facts: Facts,
    adds: Sequence[Node],
    leaves: Sequence[Term],
    branches: Sequence[str],
    tensor: str,
    growth: float,
) -> Proposal | No | None:
    """The operands of the sum that are branches of `tensor` in one Conv, why not, or None: there is nothing to see."""
    inner = {n.key: n for t in branches for n in between(facts, t, tensor)}
    if not any(n.is_op("Conv") for n in inner.values()):
        return None
    if len(branches) < 2:
        return _near(facts, adds, branches[0], leaves, tensor)
    base = base_of(facts, tensor)
    if base is None:
        return No(f"the channels of '{tensor}' are not known")
    maps = {t: stencil(facts, t, base) for t in branches}
    good = [t for t in branches if isinstance(maps[t], Stencil)]
    if len(good) < 2:
        return No(next(str(m) for m in maps.values() if isinstance(m, str)))
    return _merge(facts, adds, leaves, good, base, growth)


def _near(facts: Facts, adds: Sequence[Node], branch: str, leaves: Sequence[Term], tensor: str) -> No | None:
    """Another operand would be a branch of the same tensor, were it not seen from outside."""
    inside = {n.key for n in adds}
    for leaf, _ in leaves:
        node = facts.producer(leaf)
        seen = facts.why_not_private(leaf, inside)
        if seen and leaf != branch and node is not None and tensor in sources(facts, node):
            return No(seen)
    return None


def _merge(
    facts: Facts, adds: Sequence[Node], leaves: Sequence[Term], good: Sequence[str], base: Base, growth: float
) -> Proposal | No:
    rest = [(t, sign) for t, sign in leaves if t not in good and not _joins_bias(facts, t, base)]
    merged = sum_of(facts, [term for term in leaves if term not in rest], base)
    if isinstance(merged, str):
        return No(merged)
    inner = {n.key: n for t in good for n in between(facts, t, base.tensor)}
    convs = [n for n in inner.values() if n.is_op("Conv")]
    if not convs:
        return No("none of the branches that fit has a Conv")
    result = adds[0].outputs[0]
    size = facts.size(result) or (0,)
    before, after = sum(macs(facts, n) for n in convs), merged.weight.size * size[0] * math.prod(size[2:])
    if before and after > growth * before:
        return No(f"one Conv would multiply {after / before:.1f} times as much as the branches")
    dtype = next(facts.dtype(n.input(1)) for n in convs) or np.dtype(np.float32)
    if not fits(dtype, merged.weight, merged.bias):
        return No("the merged weights are not finite")
    sums = {n.key: n for add in adds for n in (add, *makers(facts, add))}
    new = Builder(f"{adds[0].key}/{RULE}", facts.names, facts.opset)
    bias = merged.bias if merged.biased else None
    y = add_conv(new, base.tensor, merged.weight, bias, merged.window, dtype, merged.group)
    for tensor, sign in rest:
        other = value(facts, tensor) if tensor in sums else tensor
        y = str(new.Add(y, other) if sign > 0 else new.Sub(y, other))
    title = f"{len(good)} parallel branches -> Conv {'x'.join(map(str, merged.window.kernel))}"
    details = {"macs_before": before, "macs_after": after}
    return Proposal(RULE, title, frozenset([*inner, *sums]), new.finish({result: y}), details=details)


def _joins_bias(facts: Facts, tensor: str, base: Base) -> bool:
    constant = value(facts, tensor)
    return constant is not None and per_channel(constant, base.rank) is not None
