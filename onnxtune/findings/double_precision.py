"""Maps in double precision.

float64 costs twice the memory and at least twice the time, has no fast kernels on ONNX Runtime and next to none
on GPUs. It mostly slips in through a constant of the exporting framework.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK608",
    name="double-precision",
    summary="Maps in double precision",
    severity="warning",
    remedy="export",
    action="find the constant that brings float64 in (a Python or NumPy number) and export again",
    fires="a node other than Cast and Constant writes a float64 map",
    quiet="scalars and small vectors in float64, single-precision graphs",
    items=("A12",),
)
LEAST = 256
"""Values; smaller tensors do not matter."""


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    nodes = [n for n in facts.nodes if not n.is_op("Constant") and any(_double(scene, o) for o in n.outputs if o)]
    if nodes:
        share = sum(scene.tensor_bytes(o) for n in nodes for o in n.outputs) / max(scene.written_bytes, 1)
        yield Found(
            f"{several(len(nodes), 'node writes', 'nodes write')} float64 maps, {share:.0%} of what is written",
            tuple(nodes),
            {"share_of_writes": share},
        )


def _double(scene: Scene, tensor: str) -> bool:
    return str(scene.facts.dtype(tensor)) == "float64" and scene.tensor_bytes(tensor) >= 8 * LEAST
