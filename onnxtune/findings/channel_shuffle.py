"""Channel shuffles as Reshape, Transpose, Reshape.

The shuffle only renames channels, but the Transpose copies the map with long jumps. An order of channels is an
order of the rows of the layer before, or of the columns of the layer after.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK504",
    name="channel-shuffle",
    summary="Channel shuffles that copy the map",
    severity="advice",
    remedy="optimize",
    action="the order moves into the weights of a layer beside it, exactly, where that pays",
    fires="Transposes of five axes that swap groups and channels",
    quiet="Transposes of attention, of layouts and of DepthToSpace",
    guidelines=(12,),
    rules=("fold_shuffle",),
    references=("Zhang, Zhou, Lin, Sun: ShuffleNet, 2017",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    nodes = []
    for node in facts.nodes:
        if not node.is_op("Transpose") or list(node.attribute("perm", [])) != [0, 2, 1, 3, 4]:
            continue
        maker = facts.producer(node.input(0))
        if maker is not None and maker.is_op("Reshape"):
            nodes.append(node)
    if nodes:
        folds = {key for p in scene.proposals("fold_shuffle") for key in p.removes}
        copied = sum(scene.tensor_bytes(n.outputs[0]) for n in nodes)
        share = copied / max(scene.written_bytes, 1)
        can = any(n.key in folds for n in nodes)
        yield Found(
            f"{several(len(nodes), 'channel shuffle copies', 'channel shuffles copy')} {share:.0%} of what is written",
            tuple(nodes),
            {"copied_bytes": copied, "share_of_writes": share},
            severity=None if can else "info",
            remedy=None if can else "retrain",
            action=None if can else "a shuffle of whole blocks of 16 channels, or none, when training anew",
            rules=None if can else (),
        )
