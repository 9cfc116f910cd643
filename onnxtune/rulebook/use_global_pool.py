"""The mean over a whole map, where it is cheapest. x: (N, C, H, W), m(x) its mean over the map.

pool    AveragePool or ReduceMean over the whole map = GlobalAveragePool; over one pixel = nothing.
        A window that holds the whole map also equals m where it does not count its padding.
conv    m(W * x + b) = W * m(x) + b for a 1x1 convolution: H W times fewer products. The mean is
        linear, and at stride 1 without padding every pixel meets the same W and b.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.heads import SpatialMean, global_mean, spatial_mean
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No

RULE = "use_global_pool"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        mean = spatial_mean(facts, node)
        found = [_pool(facts, mean), _conv(facts, mean)] if isinstance(mean, SpatialMean) else [mean]
        for answer in found:
            if answer is not None:
                yield Decline(RULE, node.key, str(answer)) if isinstance(answer, No) else answer


def _pool(facts: Facts, mean: SpatialMean) -> Proposal | None:
    last = mean.nodes[-1]
    one_pixel = _map(facts, mean.x) == (1, 1)
    no_op = last.op_type == "AveragePool" and last.attribute("kernel_shape") == [1, 1]  # remove_noop's
    if no_op or (last.op_type == "GlobalAveragePool" and not one_pixel):
        return None
    new = _builder(facts, mean)
    if one_pixel:
        y = str(new.Flatten(mean.x, axis=1)) if mean.flat else mean.x
    else:
        y = global_mean(facts, new, mean.x, flat=mean.flat)
    keys = frozenset(n.key for n in mean.nodes)
    fragment = new.finish({last.outputs[0]: y})
    before, after = [n.op_type for n in mean.nodes], [n.op_type for n in fragment.nodes]
    where = "of one pixel" if one_pixel else "over the whole map"
    title = f"{' + '.join(before)} {where} -> {' + '.join(after) or 'nothing'}"
    return None if before == after else Proposal(RULE, title, keys, fragment)


def _conv(facts: Facts, mean: SpatialMean) -> Proposal | No | None:
    conv, last = facts.producer(mean.x), mean.nodes[-1]
    if conv is None or not conv.is_op("Conv"):
        return None
    x, w = conv.input(0), facts.shape(conv.input(1)) or ()
    unit = w[2:] == (1, 1) and all(s == 1 for s in conv.attribute("strides", [1]))
    if not unit or any(conv.attribute("pads", [0])) or _map(facts, x) == (1, 1):
        return None
    if reason := facts.why_not_private(mean.x, {mean.nodes[0].key}):
        return No(f"the 1x1 Conv cannot move behind the pool: {reason}")
    new = _builder(facts, mean)
    y = new.copy(conv.proto, [global_mean(facts, new, x), *conv.inputs[1:]])[0]
    if mean.flat:
        y = str(new.Flatten(y, axis=1))
    size = "x".join(str(d or "?") for d in _map(facts, x))
    title = f"1x1 Conv on a {size} map + {last.op_type} -> GlobalAveragePool + 1x1 Conv on one pixel"
    keys = frozenset(n.key for n in (conv, *mean.nodes))
    return Proposal(RULE, title, keys, new.finish({last.outputs[0]: y}))


def _map(facts: Facts, x: str) -> tuple[int | str | None, ...]:
    return (facts.shape(x) or ())[2:]


def _builder(facts: Facts, mean: SpatialMean) -> Builder:
    return Builder(f"{mean.nodes[-1].key}/{RULE}", facts.names, facts.opset)
