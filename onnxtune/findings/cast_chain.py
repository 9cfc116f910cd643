"""Values that are cast to another type and back.

Conversion tools for mixed precision leave pairs of Casts around every operator that they keep in float32. Each
writes the whole map once more, and splits what a runtime could fuse. A Cast of a Cast is one Cast at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK606",
    name="cast-chain",
    summary="Values that are cast to another type and back",
    severity="advice",
    remedy="optimize",
    action="adjacent Casts are removed where that is exact; convert whole stretches of the network to one type",
    fires="a Cast of a Cast, or four and more Casts between floating-point types on maps",
    quiet="a Cast at an input or output, casts of shapes and indices",
    items=("A12",),
    rules=("remove_noop", "simplify"),
)
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
MANY = 4


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    casts = [n for n in facts.nodes if n.is_op("Cast") and not facts.is_constant(n.input(0))]
    chained = [n for n in casts if (p := facts.producer(n.input(0))) is not None and p.is_op("Cast")]
    inner = [
        n
        for n in casts
        if n.attribute("to") in FLOATS
        and getattr(facts.dtype(n.input(0)), "kind", "") in ("f", "V")
        and n.input(0) not in facts.inputs
        and not facts.is_output(n.outputs[0])
        and len(facts.size(n.outputs[0]) or ()) >= 3
    ]
    nodes = chained if len(inner) < MANY else list(dict.fromkeys([*chained, *inner]))
    if nodes:
        copied = sum(scene.tensor_bytes(n.outputs[0]) for n in nodes)
        share = copied / max(scene.written_bytes, 1)
        yield Found(
            f"{several(len(nodes), 'Cast', 'Casts')} between types and back: {share:.0%} of what is written",
            tuple(nodes),
            {"copied_bytes": copied, "share_of_writes": share, "casts_of_casts": len(chained)},
            severity="info" if share < 0.01 else None,
        )
