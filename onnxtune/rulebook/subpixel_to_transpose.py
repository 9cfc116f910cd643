"""Sub-pixel convolution as a transposed convolution.

DepthToSpace with block s takes output pixel s i + a from channel (o, a) at pixel i, so that behind a
convolution with K taps and pads p (per axis)

    y[o, s i + a] = sum over c, k of w[(o, a), c, k] x[c, i + k - p] + b[o, a]

which is a transposed convolution with stride s and s K taps t[a + s (K - 1 - k)] = w[a, k], of which
s (K - 1 - p) are cut off at the start (see onnxtune/phases.py). Products, their number and the zeros beyond
the border are the same.

A transposed convolution has one bias for each o. Where b[o, a] differs between the a, a channel of ones
carries them, over the tap k = p: the one that meets pixel i itself, which is in the map for all outputs if
0 <= p < K and the convolution does not enlarge its map.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.phases import add_transposed, shuffled
from onnxtune.pointwise import before, is_pointwise, replay
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.windows import Window

RULE = "subpixel_to_transpose"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if not node.is_op("DepthToSpace"):
            continue
        between, source = before(facts, node.inputs[0])
        first = facts.producer(source)
        if first is not None and first.is_op("Conv"):
            answer = _answer(facts, first, between, node)
            yield Decline(RULE, node.key, str(answer)) if isinstance(answer, No) else answer


def _answer(facts: Facts, first: Node, between: Sequence[Node], node: Node) -> Proposal | No:
    conv = convolution(facts, first)
    if isinstance(conv, str):
        return No(conv)
    for maker, reader in itertools.pairwise([first, *between, node]):
        if seen := facts.why_not_private(maker.outputs[0], {reader.key}):
            return No(seen)
    fixed = [n for n in between if not is_pointwise(facts, n, channelwise=False)]
    if fixed:
        return No(f"{fixed[0].op_type} has parameters per channel")
    frame, block = conv.window, node.attribute("blocksize")
    if conv.group > 1 or any(v != 1 for v in (*frame.strides, *frame.dilations)):
        return No("the Conv has a stride, dilations or groups")
    weight, bias = (_by_phase(a, block, node.attribute("mode", "DCR")) for a in (conv.weight, conv.shift))
    if np.ptp(bias, axis=(1, 2)).any():
        if facts.opset < 11 or not _meets_itself(frame):
            return No("the biases differ within a block, and a channel of ones could not carry them")
        return _proposal(facts, conv, [first, *between, node], _with_ones(weight, bias, frame), None)
    shift = None if conv.bias is None else bias[:, 0, 0]
    return _proposal(facts, conv, [first, *between, node], weight, shift)


def _by_phase(channels: NDArray[np.float64], block: int, mode: str) -> NDArray[np.float64]:
    """(C_out s s, ...) as (C_out, s, s, ...)."""
    rest = channels.shape[1:]
    if mode == "CRD":
        return channels.reshape(-1, block, block, *rest)
    return np.moveaxis(channels.reshape(block, block, -1, *rest), 2, 0)


def _meets_itself(frame: Window) -> bool:
    axes = zip(frame.kernel, frame.begin, frame.end, strict=True)
    return all(b + e < k for k, b, e in axes)


def _with_ones(weight: NDArray[np.float64], bias: NDArray[np.float64], frame: Window) -> NDArray[np.float64]:
    """Weights for one more input channel, of ones, that adds the biases."""
    more = np.zeros_like(weight[:, :, :, :1])
    more[:, :, :, 0, frame.begin[0], frame.begin[1]] = bias
    return np.concatenate([weight, more], axis=3)


def _proposal(
    facts: Facts, conv: Convolution, inside: list[Node], weight: NDArray[np.float64], bias: NDArray[np.float64] | None
) -> Proposal:
    new = Builder(f"{inside[-1].key}/{RULE}", facts.names, facts.opset)
    x, block, ones = conv.x, weight.shape[1], weight.shape[3] - conv.in_channels
    if ones:
        x = new.Pad(x, np.array([0, 0, 0, 0, 0, ones, 0, 0]), np.array(1, conv.dtype))
    y = add_transposed(new, x, shuffled(weight, block, conv.window), bias, conv.dtype)
    y = replay(new, y, inside[1:-1])
    kernel = "x".join(map(str, conv.window.kernel))
    title = f"Conv {kernel} + DepthToSpace {block} -> {'Pad + ' if ones else ''}ConvTranspose"
    return Proposal(RULE, title, frozenset(n.key for n in inside), new.finish({inside[-1].outputs[0]: y}))
