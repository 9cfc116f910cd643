"""A few channels more than full blocks.

The CPU's fast kernels work on blocks of B = 8 or 16 channels (tensor cores on tiles) and fill the last one with
zeros: 68 channels cost what 80 do, in and out, so 64 are 1.7 times faster. Removing the few that matter least,
and refitting the layer after to make up for them, is mostly cheap in accuracy; so is training with the smaller
number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.channels.cost import Target
from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene, layer_cost

CHECK = Check(
    code="CK302",
    name="channels-above-block",
    summary="A few channels more than full blocks",
    severity="advice",
    remedy="calibrate",
    action="prune them down to the block and refit the next layer (with data), or train with the smaller number",
    fires="at least 32 input channels, at most 10 % above a multiple of the kernels' block, for which the cost"
    " model expects"
    " 1.15x or more of the smaller number, on 5 % of the cost",
    quiet="multiples of the block, counts in the middle between two, small layers",
    guidelines=(4,),
    items=("A5",),
    rules=("prune_channels",),
    references=("He, Zhang, Sun: Channel pruning for accelerating very deep networks, 2017",),
)
EXCESS, PAYS, LEAST_SHARE, LEAST_GAIN = 0.1, 1.15, 0.05, 1.02


def find(scene: Scene) -> Iterator[Found]:
    gains = {n: g for n in scene.convolutions if (g := _gain(scene, n)) >= PAYS}
    shares = {n: layer_cost(scene, n, *scene.widths(n)[:2]) / max(scene.cost, 1.0) for n in gains}
    if sum(shares.values()) < LEAST_SHARE:
        return
    nodes = tuple(sorted(gains, key=lambda n: -shares[n]))
    counts = sorted({scene.widths(n)[0] for n in nodes})
    left = 1 - sum(share * (1 - 1 / gains[n]) for n, share in shares.items())
    if 1 / left < LEAST_GAIN:
        return
    yield Found(
        f"{several(len(nodes), 'convolution', 'convolutions')} ({sum(shares.values()):.0%} of the estimated cost) with"
        f" {', '.join(map(str, counts[:6]))} channels, a few more than full blocks of {_block(scene)}",
        nodes,
        {"channels": counts, "block": _block(scene), "share_of_cost": sum(shares.values())},
        left,
    )


def _block(scene: Scene) -> int:
    """Channels of a block on the CPU, of a tile of the tensor cores on CUDA."""
    halves = any(scene.facts.dtype(n.input(0)) == np.float16 for n in scene.convolutions)
    return Target.of(scene.provider).larger(halves)


def _gain(scene: Scene, conv: Node) -> float:
    """Expected cost now over the cost with the channels in and out cut down to full blocks."""
    into, out, group = scene.widths(conv)
    block = _block(scene)
    lower = _below(into, block)
    if group > 1 or not scene.macs.get(conv.key) or into < 2 * block or lower == into:
        return 1.0
    return layer_cost(scene, conv, into, out) / layer_cost(scene, conv, lower, _below(out, block))


def _below(count: int, block: int) -> int:
    """The multiple of the block that the count is slightly above, else the count."""
    over = count % block
    return count - over if 0 < over <= EXCESS * count and count > block else count
