"""Weights that are graph inputs, too.

Models of IR version 3, and exports with keep_initializers_as_inputs, list every weight among the inputs: a
caller may feed another value, so nothing is constant. ONNX Runtime then folds and fuses nothing and takes no
blocked kernels; a face detector became 4.3 times faster when its weights were frozen. They stay as they are
only if somebody really feeds them.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK601",
    name="weights-as-inputs",
    summary="Weights that are graph inputs, too: nothing is constant",
    severity="warning",
    remedy="optimize",
    action="they become constants; or export again without keep_initializers_as_inputs",
    fires="an initializer that a layer uses is also listed as a graph input",
    quiet="inputs without a stored value",
    items=("A1",),
    rules=("freeze_initializers",),
    as_stored=True,
    references=("ONNX IR specification, section Graphs", "ONNX Runtime issue 6148"),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    stored = [i.name for i in facts.model.proto.graph.initializer if i.name in facts.inputs and facts.consumers(i.name)]
    if stored:
        yield Found(
            f"{len(stored)} weights are graph inputs, too: ONNX Runtime can neither fold nor fuse nor use its"
            f" fast kernels",
            (),
            {"weights": len(stored)},
            names=tuple(stored),
        )
