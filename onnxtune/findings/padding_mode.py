"""Borders that are mirrored, repeated or filled with a number other than zero.

A convolution pads with zeros for nothing: the kernel knows where its map ends. Any other border must be written
out by a Pad node, which copies the whole map. No rewrite can fold it, for the numbers differ.

Cost: H W C values read and written once more for each Pad.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK102",
    name="padding-mode",
    summary="Pad nodes whose borders are not zero",
    severity="info",
    remedy="retrain",
    action="where the border matters little, train with zero padding; else leave it",
    fires="a Pad in mode reflect, edge or wrap, or with a constant other than 0, before a convolution or pool",
    quiet="zero padding, and Pads of -infinity before a max pool",
    guidelines=(3,),
    items=("A8",),
    references=("ONNX operator Pad",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    modes: dict[str, int] = {}
    nodes = []
    for node in facts.nodes:
        if not node.is_op("Pad") or facts.is_constant(node.input(0)):
            continue
        if not any(
            n.is_op("Conv", "ConvTranspose", "MaxPool", "AveragePool") for n in facts.consumers(node.outputs[0])
        ):
            continue
        mode = str(node.attribute("mode", "constant"))
        if mode == "constant":
            stored = facts.constant(node.input(2)) if node.input(2) else None
            value = float(np.ravel(stored)[0]) if stored is not None else float(node.attribute("value", 0.0))
            if value == 0 or value == -np.inf:
                continue
            mode = f"constant {value:g}"
        modes[mode] = modes.get(mode, 0) + 1
        nodes.append(node)
    if nodes:
        copied = sum(scene.tensor_bytes(n.outputs[0]) for n in nodes)
        said = ", ".join(f"{mode} x{count}" for mode, count in sorted(modes.items()))
        share = copied / max(scene.written_bytes, 1)
        yield Found(
            f"{len(nodes)} borders are written out ({said}): {_size(copied)} copied, {share:.0%} of what the model"
            " writes",
            tuple(nodes),
            {"modes": modes, "copied_bytes": copied, "share_of_writes": share},
        )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
