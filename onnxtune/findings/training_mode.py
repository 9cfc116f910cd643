"""Normalization or Dropout in training mode.

A BatchNormalization in training mode normalizes with the mean and variance of the batch that it is fed: the
answer for an image depends on its neighbours, and for a batch of one on itself alone. It is NOT the function
that was evaluated when the network was trained. A Dropout in training mode throws activations away at random.
Nothing is rewritten here, for the right function is not the one in the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found
from onnxtune.findings.training_nodes import trains
from onnxtune.scene import Scene

CHECK = Check(
    code="CK603",
    name="training-mode",
    summary="Normalization or Dropout in training mode",
    severity="error",
    remedy="export",
    action="call model.eval() and export again: this model does not compute what was evaluated in training",
    fires="BatchNormalization with training_mode = 1 (before opset 14: with outputs for the running"
    " statistics), Dropout whose"
    " training_mode is not constantly false",
    quiet="inference mode",
    guidelines=(13,),
    items=("A2",),
    references=("ONNX operators BatchNormalization, Dropout",),
)


def find(scene: Scene) -> Iterator[Found]:
    nodes = tuple(n for n in scene.facts.nodes if trains(scene.facts, n))
    if nodes:
        kinds = {op: sum(n.op_type == op for n in nodes) for op in ("BatchNormalization", "Dropout")}
        said = " and ".join(f"{count} {op}" for op, count in kinds.items() if count)
        yield Found(
            f"{said} in training mode: outputs depend on the other images of the batch, or on chance", nodes, kinds
        )
