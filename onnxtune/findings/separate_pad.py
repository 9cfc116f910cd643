"""Pad nodes that a convolution or pool could do by itself.

Conv(Pad(x, 0), pads p) = Conv(x, pads p + q): the kernel knows where its map ends, the Pad node copies it.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK104",
    name="separate-pad",
    summary="Zero padding as a node of its own",
    severity="advice",
    remedy="optimize",
    action="the Pad becomes the operator's own pads, exactly",
    fires="a Pad before a convolution or pool that the rule fold_pad can fold",
    quiet="pads of other values, dynamic pads, pads that other nodes see",
    guidelines=(3,),
    rules=("fold_pad",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    keys = {key for p in scene.proposals("fold_pad") for key in p.removes}
    nodes = tuple(n for n in facts.nodes if n.key in keys and n.is_op("Pad"))
    if nodes:
        copied = sum(scene.tensor_bytes(n.outputs[0]) for n in nodes)
        share = copied / max(scene.written_bytes, 1)
        yield Found(
            f"{several(len(nodes), 'Pad node copies', 'Pad nodes copy')} what layers could pad by themselves"
            f" ({share:.0%} of what is written)",
            nodes,
            {"copied_bytes": copied, "share_of_writes": share},
        )
