"""Deep chains of convolutions without a skip connection.

Signals and gradients must pass through each layer; beyond some 15 spatial convolutions plain networks become
hard to train, and every further layer buys less accuracy than it would beside an identity. After training
nothing can be mended: a residual network of the same cost is more accurate when trained anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK501",
    name="plain-chain",
    summary="Deep chains of convolutions without a skip connection",
    severity="info",
    remedy="retrain",
    action="skip connections, when training anew, give more accuracy for the same cost",
    fires="at least 16 convolutions with kernels larger than 1x1 follow each other without any other way around"
    " one of them",
    quiet="residual, dense and branching networks; shorter chains",
    guidelines=(11,),
    references=("He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016, section 1",),
)
DEEP = 16


def find(scene: Scene) -> Iterator[Found]:
    best: tuple[Node, ...] = ()
    chains: dict[str, tuple[Node, ...]] = {}
    for node in scene.facts.nodes:
        fed = [i for i in node.inputs if i and not scene.facts.is_constant(i)]
        chain = chains.get(fed[0], ()) if len(fed) == 1 and len(scene.facts.consumers(fed[0])) == 1 else ()
        spatial = node.is_op("Conv") and max(node.attribute("kernel_shape", [0]), default=0) > 1
        chain = (*chain, node) if spatial else chain
        chains.update((o, chain) for o in node.outputs if o)
        best = max(best, chain, key=len)
    if len(best) >= DEEP:
        yield Found(f"{len(best)} convolutions follow each other without a skip connection", best, {"depth": len(best)})
