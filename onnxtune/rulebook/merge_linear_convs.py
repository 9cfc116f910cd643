"""Convolutions in a row without an activation between them, as one; scales and shifts before a convolution.

    U * (V * x + b1) + b2  =  (U o V) * x + (sum of U's taps) b1 + b2

`onnxtune.stencil.composed` says when that holds at the border: no pads in U, or V picks single places and b1
is 0. It is offered where one convolution multiplies no more than the two. Constant scales and shifts
(a normalization of the input) are a V of one filter per channel.

b1 != 0 before pads. What U makes of b1 is not constant near the border, because the pads are zeros:

    map     U * (V * x + b1) + b2 = (U o V) * x + (U * (b1 everywhere) + b2), a constant map for a known size
    add     U * (s x + t) = (U s) * (x + t / s): the pads are zeros on both sides, so the scale alone moves
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.branches import base_of, stencil
from onnxtune.convolution import add_conv
from onnxtune.costs import macs
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.linear import POINTWISE, argument, fits, makers, map_size, step
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.stencil import Stencil, applied, composed

RULE = "merge_linear_convs"
LONGEST = 8
"""Nodes before a Conv that are looked at."""

HOPELESS = 4.0
"""Growth (a depthwise layer beside a pointwise one) that nobody needs to be told of."""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for last in facts.nodes:
        if not last.is_op("Conv"):
            continue
        chain, seen = _before(facts, last)
        convs = [i for i, n in enumerate(chain) if n.is_op("Conv")]
        if not chain and seen:
            yield Decline(RULE, last.key, seen)
        for end in convs or ([len(chain) - 1] if chain and not _foldable(facts, chain[-1]) else []):
            for result in _merged(facts, chain[: end + 1], last, settings):
                yield Decline(RULE, last.key, str(result)) if isinstance(result, No) else result


def _before(facts: Facts, last: Node) -> tuple[list[Node], str]:
    """Linear nodes right before the Conv, the nearest first; and why a Conv there is none of them."""
    chain, reader = list[Node](), last
    while len(chain) < LONGEST:
        tensor = str(argument(facts, reader))
        node = facts.producer(tensor)
        if node is None or argument(facts, node) is None or not node.is_op("Conv", "BatchNormalization", *POINTWISE):
            break
        if reason := facts.why_not_private(tensor, {reader.key}):
            return chain, reason if node.is_op("Conv") else ""
        chain.append(node)
        reader = node
    return chain, ""


def _foldable(facts: Facts, first: Node) -> bool:
    """Does another layer come before, which takes the scale and shift without any care (fold_batchnorm)?"""
    node = facts.producer(str(argument(facts, first)))
    return node is not None and node.is_op("Conv", "ConvTranspose", "Gemm", "MatMul")


def _merged(facts: Facts, chain: Sequence[Node], last: Node, settings: Mapping[str, Any]) -> Iterator[Proposal | No]:
    base = base_of(facts, str(argument(facts, chain[-1])))
    if base is None:
        yield No("the channels before the first layer are not known")
        return
    first = stencil(facts, last.input(0), base)
    second = first if isinstance(first, str) else step(facts, last, first.out_channels, base.rank)
    if isinstance(first, str) or isinstance(second, str):
        yield No(str(second))
        return
    whole = composed(first, second)
    bare = composed(replace(first, bias=np.zeros_like(first.bias)), second) if isinstance(whole, str) else whole
    if isinstance(bare, str):
        yield No(bare)
    elif (more := _growth(facts, chain, last, bare)) > settings["growth"]:
        if more < HOPELESS:
            yield No(f"one Conv would multiply {more:.2g} times as much as the layers do")
    elif isinstance(whole, Stencil):
        yield _proposal(facts, chain, last, base.tensor, "one", whole)
    else:
        yield from _with_shift(facts, chain, last, base.tensor, (first, second, bare), settings["map_limit"], whole)


def _growth(facts: Facts, chain: Sequence[Node], last: Node, whole: Stencil) -> float:
    """Multiplications of one Conv relative to those of the layers; 1 where these are one Conv already."""
    before, out = sum(macs(facts, n) for n in (*chain, last)), facts.size(last.outputs[0])
    if not before or not out or not any(n.is_op("Conv") for n in chain):
        return 1.0
    return whole.weight.size * out[0] * math.prod(out[2:]) / before


def _with_shift(
    facts: Facts,
    chain: Sequence[Node],
    last: Node,
    x: str,
    stencils: tuple[Stencil, Stencil, Stencil],
    limit: int,
    reason: str,
) -> Iterator[Proposal | No]:
    """The two forms for a shift before pads; else the reason why there is none."""
    first, second, bare = stencils
    scale = first.weight.reshape(-1)
    pointwise = first.group == scale.size and not any(first.window.pads)
    if pointwise and len(chain) == 1 and np.all(scale == 1):
        return  # one Add before or after: nothing to gain
    size, out = (map_size(facts, t) for t in (last.input(0), last.outputs[0]))
    mapped = size and out and second.out_channels * math.prod(out) <= limit
    if size and out and mapped:
        everywhere = np.broadcast_to(first.bias.reshape(1, -1, *(1,) * len(size)), (1, first.out_channels, *size))
        added = applied(second, everywhere)
        yield _proposal(facts, chain, last, x, "map", replace(bare, bias=np.zeros_like(bare.bias)), after=added)
    if pointwise and scale.all():
        shift = (first.bias / scale).reshape(1, -1, *(1,) * len(second.window.kernel))
        yield _proposal(facts, chain, last, x, "add", bare, before=shift)
    elif not mapped:
        yield No(f"{reason}; the constant map would be large, or the map's size is not known")


def _proposal(
    facts: Facts,
    chain: Sequence[Node],
    last: Node,
    x: str,
    form: str,
    whole: Stencil,
    *,
    before: NDArray[np.float64] | None = None,
    after: NDArray[np.float64] | None = None,
) -> Proposal | No:
    dtype = facts.dtype(last.input(1)) or np.dtype(np.float32)
    if not fits(dtype, whole.weight, whole.bias, before, after):
        return No("the merged weights are not finite")
    nodes = [n for node in (*chain, last) for n in (node, *makers(facts, node))]
    new = Builder(f"{last.key}/{RULE}", facts.names, facts.opset)
    start = x if before is None else str(new.Add(x, before.astype(dtype)))
    bias = whole.bias if whole.biased else None
    y = add_conv(new, start, whole.weight, bias, whole.window, dtype, whole.group)
    y = y if after is None else str(new.Add(y, after.astype(dtype)))
    names = " + ".join(n.op_type for n in reversed((last, *chain)))
    made_of = {"one": "Conv", "map": "Conv + constant map", "add": "Add + Conv"}[form]
    title = f"{names} without activation -> {made_of}"
    removes = frozenset(n.key for n in nodes)
    return Proposal(RULE, title, removes, new.finish({last.outputs[0]: y}), settings={"form": form})
