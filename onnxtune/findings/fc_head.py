"""Fully connected layers that hold most of a model.

A layer on a flattened C x H x W map has C H W J weights, each used once for an image: at batch 1 its time is
that of reading them. Global average pooling leaves C J of them, a pyramid of 1x1 and 2x2 cells 5 C J, rank r r
(C H W + J). Low rank keeps most accuracy (rank 16 to 32 of a layer is mostly enough), pooling is smallest; both
are refitted to data. Training with global average pooling from the start needs no refit.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.fully_connected import FullyConnected, fully_connected
from onnxtune.scene import Scene

CHECK = Check(
    code="CK401",
    name="fc-head",
    summary="Fully connected layers that hold most of the model",
    severity="warning",
    remedy="calibrate",
    action="low rank or pooling refitted to data; with training, Global Average Pooling before one last layer",
    fires="layers on a flattened map larger than 1x1, or between others of the head, hold more than half of the"
    " weights",
    quiet="one last layer after global pooling, small heads",
    guidelines=(6,),
    items=("A10",),
    rules=("replace_fc_head", "merge_linear_layers"),
    only_speed=False,
    references=("Lin, Chen, Yan: Network in network, 2014", "Girshick: Fast R-CNN, 2015, section 3.1"),
)
MOST = 0.5
LEAST_BYTES = 16_384
RANK, PAYS = 32, 0.8


def find(scene: Scene) -> Iterator[Found]:
    layers = [(n, f) for n in scene.facts.nodes if (f := _layer(scene, n)) is not None]
    heavy = [(n, f) for n, f in layers if _replaceable(f, len(layers))]
    stored = sum(f.weight.nbytes for _, f in heavy)
    if not heavy or stored < LEAST_BYTES or stored / max(scene.weight_bytes, 1) <= MOST:
        return
    heavy.sort(key=lambda pair: -pair[1].weight.nbytes)
    first = heavy[0][1]
    share, arithmetic = stored / scene.weight_bytes, scene.share(n for n, _ in heavy)
    rank = sum(min(RANK * sum(f.weight.shape) * f.weight.itemsize, f.weight.nbytes) for _, f in heavy)
    numbers = {
        "share_of_weights": share,
        "bytes": stored,
        "share_of_macs": arithmetic,
        f"bytes_at_rank_{RANK}": rank,
    }
    smaller = f"rank {RANK} would be {rank / 1e6:.2g} MB" if rank < stored * PAYS else ""
    if first.size is not None and first.size[1] * first.size[2] > 1:
        area = first.size[1] * first.size[2]
        numbers["bytes_pooled"] = stored - first.weight.nbytes + first.weight.nbytes // area
        pooled = f"{numbers['bytes_pooled'] / 1e6:.2g} MB with global average pooling"
        smaller = f"{smaller}, {pooled}" if smaller else f"they would be {pooled}"
    what = several(len(heavy), "fully connected layer holds", "fully connected layers hold")
    yield Found(
        f"{what} {share:.0%} of the weights ({stored / 1e6:.3g} MB) for {arithmetic:.0%} of the arithmetic"
        + (f"; {smaller}" if smaller else ""),
        tuple(n for n, _ in heavy),
        numbers,
    )


def _layer(scene: Scene, node: Node) -> FullyConnected | None:
    if not node.is_op("Gemm", "MatMul", "Conv") or scene.weight(node) is None:
        return None
    if node.is_op("Conv") and (scene.map_size(node.outputs[0]) != (1, 1) or max(scene.kernel(node), default=1) == 1):
        return None
    found = fully_connected(scene.facts, node)
    return found if isinstance(found, FullyConnected) else None


def _replaceable(layer: FullyConnected, layers: int) -> bool:
    """On a map, or one of several; a single classifier on pooled features is as it should be."""
    return (layer.size is not None and layer.size[1] * layer.size[2] > 1) or layers > 1
