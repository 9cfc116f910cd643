"""Nearest upsampling and a convolution as convolutions of the small map.

With u[j] = x[floor(j / s)] and a convolution of u with pads p (per axis; zeros outside of u are zeros
outside of x, since floor(j / s) leaves the small map exactly when j leaves the large one):

    y[s i + a] = sum over k of w[k] u[s i + a + d k - p] = sum over j of W_a[j] x[i + j]
    W_a[j] = sum of w[k] over all k with floor((a + d k - p) / s) = j                   a = 0 .. s - 1

Forms, all of the same function (see onnxtune/phases.py), of which measuring takes the best:

    phases       one Conv for each a, their outputs interleaved by Concat and DepthToSpace
    transposed   one ConvTranspose with stride s, whose taps are all W_a interleaved
    one          one Conv with all W_a as filters, filled up with zeros to one kernel, and DepthToSpace:
                 more products, but a filter bank of 3 channels becomes one of 12, which fills the registers

Activations between the two commute with repeating pixels and go before it; one that ONNX Runtime would fuse
with the Conv stays behind its phases. Whether a Resize repeats pixels evenly is judged by its index map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune.convolution import Convolution, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.phases import Transposed, add_enlarging, square, upsampled
from onnxtune.pointwise import before, fused_after, replay
from onnxtune.proposal import Decline, Proposal
from onnxtune.resizing import factors, resizing

RULE = "upsample_conv_to_phases"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if not node.is_op("Conv"):
            continue
        between, source = before(facts, node.inputs[0])
        resize = facts.producer(source)
        if resize is None or not resize.is_op("Resize", "Upsample"):
            continue
        if all(k == 1 for k in (facts.shape(node.input(1)) or ())[2:]):  # a matter of move_conv_before_resize
            continue
        found = _read(facts, resize, between, node)
        if isinstance(found, str):
            yield Decline(RULE, node.key, found)
        elif max(found[1]) > 1:
            yield from _forms(facts, [resize, *between, node], *found, settings["outputs"])


def _read(facts: Facts, resize: Node, between: Sequence[Node], node: Node) -> tuple[Convolution, tuple[int, ...]] | str:
    """The Conv and the factors of the upsampling, or in words why they cannot be joined."""
    inside = [resize, *between, node]
    for maker, reader in itertools.pairwise(inside):
        if seen := facts.why_not_private(maker.outputs[0], {reader.key}):
            return seen
    found = resizing(facts, resize)
    if isinstance(found, str):
        return found
    by = factors(found)
    conv = convolution(facts, node)
    if isinstance(by, str) or isinstance(conv, str):
        return by if isinstance(by, str) else str(conv)
    if any(s != 1 for s in conv.window.strides):
        return "the Conv has a stride"
    if conv.group > 1 and not square(by):
        return "a Conv with groups after unequal factors"
    return conv, by


def _forms(
    facts: Facts, inside: list[Node], conv: Convolution, by: tuple[int, ...], outputs: int
) -> Iterator[Proposal]:
    whole = upsampled(conv.weight, by, conv.window)
    if conv.group == 1:  # transposed convolutions in groups are slow everywhere
        yield _proposal(facts, inside, conv, whole, "transposed")
    if square(by):
        yield _proposal(facts, inside, conv, whole, "phases")
        if facts.opset >= 11 and conv.out_channels * by[0] ** 2 <= outputs:
            yield _proposal(facts, inside, conv, whole, "one")


def _proposal(facts: Facts, inside: list[Node], conv: Convolution, whole: Transposed, form: str) -> Proposal:
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    x = replay(new, inside[0].inputs[0], inside[1:-1])
    after = [] if form == "transposed" else [n for n in [fused_after(facts, conv.y)] if n is not None]
    y = add_enlarging(new, x, whole, conv, form, after)
    region = [*inside, *after]
    kernel = "x".join(map(str, conv.window.kernel))
    title = f"upsampling x{max(whole.strides)} + Conv {kernel} -> {TITLES[form].format(math.prod(whole.strides))}"
    outputs = {region[-1].outputs[0]: y}
    return Proposal(RULE, title, frozenset(n.key for n in region), new.finish(outputs), settings={"form": form})


TITLES = {
    "transposed": "ConvTranspose",
    "phases": "{} Conv + DepthToSpace",
    "one": "Conv of {} times the channels + DepthToSpace",
}
