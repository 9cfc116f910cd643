"""Models of an old operator set or IR version.

ONNX Runtime still runs them, but operators that came later (and rules that write them) cannot be used: Resize
with exact coordinates since 11, per-channel quantization and axes as inputs since 13.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK609",
    name="old-opset",
    summary="An operator set before 13, or IR version 3",
    severity="info",
    remedy="optimize",
    action="the model is converted where that lets other rules fire; or export again at opset 17",
    fires="the default operator set is older than 13, or the IR version older than 4",
    quiet="opset 13 and later",
    items=("A15",),
    rules=("upgrade_opset",),
)
OPSET, IR = 13, 4


def find(scene: Scene) -> Iterator[Found]:
    opset, ir = scene.facts.opset, scene.facts.model.proto.ir_version
    if 0 < opset < OPSET or 0 < ir < IR:
        yield Found(f"opset {opset}, IR version {ir}: some rules cannot fire", (), {"opset": opset, "ir_version": ir})
