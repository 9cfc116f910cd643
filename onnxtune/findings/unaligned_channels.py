"""Channel counts that the fast kernels cannot use.

ONNX Runtime's fast CPU convolutions take float32 maps whose number of input channels is a multiple of 4 (or
below a block of 8 or 16), depthwise ones if the number of channels is; all others fall back to slower code.
Tensor cores want multiples of 8 (float16) or 4. Powers of two are multiples of all of these, but nothing is won
beyond the multiple.

Estimate: T(C_in, C_out) = unit ceil_B(C_in) ceil_B(C_out) with blocks, rho unit C_in C_out without, rho about
1.3 for 3x3 and 1.1 for 1x1 kernels; depthwise kernels are several times slower without.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.channels.cost import Target, rounded
from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene, layer_cost

CHECK = Check(
    code="CK301",
    name="unaligned-channels",
    summary="Channel counts that the fast kernels cannot use",
    severity="warning",
    remedy="optimize",
    action="zero channels are added up to the multiple, exactly, where that is faster here",
    fires="convolutions with at least a block of input channels (depthwise: any) whose number is no multiple of"
    " 4 (CUDA: 8"
    " in float16), for which the cost model expects something of alignment",
    quiet="multiples of 4, fewer channels than a block (such as the image's 3), output channels",
    guidelines=(4,),
    items=("A5",),
    rules=("pad_channels",),
    references=(
        "ONNX Runtime issue 14392; nchwc_transformer.cc",
        "NVIDIA, Deep Learning Performance: Convolutional Layers User's Guide",
    ),
)
PAYS, WORTH_A_WARNING = 1.1, 1.05
"""Least expected gain of a layer, and of the model for more than a hint."""


def find(scene: Scene) -> Iterator[Found]:
    gains = {n: g for n in scene.convolutions if (g := _gain(scene, n)) >= PAYS}
    if not gains:
        return
    shares = {n: layer_cost(scene, n, *scene.widths(n)[:2]) / max(scene.cost, 1.0) for n in gains}
    left = 1 - sum(share * (1 - 1 / gains[n]) for n, share in shares.items())
    nodes = tuple(sorted(gains, key=lambda n: -shares[n]))
    counts = sorted({scene.widths(n)[0] for n in nodes})
    shown = ", ".join(map(str, counts[:6])) + (", ..." if len(counts) > 6 else "")
    padded = any(not p.removes.isdisjoint({n.key for n in nodes}) for p in scene.proposals("pad_channels"))
    yield Found(
        f"{several(len(nodes), 'convolution', 'convolutions')} ({sum(shares.values()):.0%} of the estimated cost) with"
        f" {shown} channels, which the fast kernels cannot use",
        nodes,
        {"channels": counts, "share_of_cost": sum(shares.values()), "largest_layer_gain": max(gains.values())},
        left,
        severity="warning" if 1 / left >= WORTH_A_WARNING else "info",
        remedy="optimize" if padded else "retrain",
        action=None
        if padded
        else "choose multiples of 4 (8 on GPUs) when training; here the channels end where they cannot be padded",
        rules=None if padded else (),
    )


def _gain(scene: Scene, conv: Node) -> float:
    """Expected cost now over the cost with the next multiple."""
    into, out, group = scene.widths(conv)
    target = Target.of(scene.provider)
    step = target.multiple(str(scene.facts.dtype(conv.input(0))) == "float16")
    depthwise = group == into == out and group > 1
    if not scene.macs.get(conv.key) or (group > 1 and not depthwise) or into % step == 0:
        return 1.0
    if not depthwise and into < max(target.block, step):
        return 1.0
    after = (rounded(into, step), rounded(out, step))
    return layer_cost(scene, conv, into, out) / layer_cost(scene, conv, *after)
