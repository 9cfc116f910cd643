"""1x1 convolutions with a stride, whose input is computed for nothing.

A 1x1 kernel with stride s reads one pixel of s^2. Where nobody else reads the others, all that was done to
compute them is lost: 1 - 1/s^2 of the layers before, up to the last that mixes pixels. Moving the stride up to
there is exact. In a residual network whose shortcut has a strided 1x1 kernel beside a strided 3x3 path, every
pixel is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK203",
    name="strided-pointwise",
    summary="1x1 convolutions with a stride, whose input is computed for nothing",
    severity="advice",
    remedy="optimize",
    action="the stride moves up to the layers that make the map, exactly",
    fires="every reader of a map is a 1x1 convolution of the same stride, and the stride can move up",
    quiet="another reader needs the pixels, the map comes from an input, or the layers before do not let a stride pass",
    guidelines=(10,),
    items=("A7",),
    rules=("push_stride_up",),
    references=("OpenVINO, StrideOptimization",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    maps = {n.input(0) for n in scene.convolutions if _skips(scene, n)} - facts.inputs
    wasted = {t for t in maps if all(_skips(scene, n) for n in facts.consumers(t)) and not facts.is_output(t)}
    readers = [n for n in scene.convolutions if n.input(0) in wasted]
    moved = {key for p in scene.proposals("push_stride_up") for key in p.removes}
    moving = tuple(n for n in readers if n.key in moved)
    if moving:
        before = [facts.by_key[key] for key in moved - {n.key for n in moving}]
        lost, stride = scene.share(before), _stride(scene, moving)
        yield Found(
            f"{several(len(moving), '1x1 convolution reads', '1x1 convolutions read')} one of {stride**2}"
            f" pixels; nobody"
            f" reads the others, which {lost:.0%} of the arithmetic goes to make",
            moving,
            {"stride": stride, "share_of_macs_before": lost},
            1 - lost * (1 - 1 / stride**2),
        )
    staying = tuple(n for n in readers if n.key not in moved)
    if staying:
        stride = _stride(scene, staying)
        yield Found(
            f"{several(len(staying), '1x1 convolution reads', '1x1 convolutions read')} one of {stride**2} pixels, and"
            " what makes the map lets no stride pass",
            staying,
            {"stride": stride},
            severity="info",
            remedy="retrain",
            action="move the stride to the 3x3 kernel beside it when training anew (as in ResNet v1.5)",
            rules=(),
        )


def _stride(scene: Scene, nodes: Iterable[Node]) -> int:
    return max(max(scene.strides(n)) for n in nodes)


def _skips(scene: Scene, node: Node) -> bool:
    if not node.is_op("Conv") or len(scene.facts.size(node.input(1)) or ()) != 4:
        return False
    return scene.kernel(node) == (1, 1) and max(scene.strides(node)) > 1
