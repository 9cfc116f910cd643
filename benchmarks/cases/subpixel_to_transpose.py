"""Cases for `subpixel_to_transpose`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, model, weights_of


def _net(c_in: int, c_out: int, size: int, k: int, block: int, *, biases: str = "") -> onnx.ModelProto:
    """`biases`: none, equal or different within a block."""
    weights = {"w": weights_of(c_out * block**2, c_in, k, k)}
    if biases:
        weights["b"] = weights_of(c_out * block**2) if biases == "different" else np.ones(c_out * block**2, np.float32)
    conv = f"Conv <pads = {[k // 2] * 4}> (a, w{', b' if biases else ''})"
    body = f'a = Relu (x)  c = {conv}  y = DepthToSpace <blocksize = {block}, mode = "CRD"> (c)'
    return model(f"N, {c_in}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for c_in, c_out, size, block in (
        (64, 64, 28, 2),
        (256, 64, 14, 2),
        (64, 3, 56, 2),
        (56, 1, 56, 3),
        (64, 64, 14, 4),
    ):
        name = f"Conv 1x1 + DepthToSpace {block}, {c_in} -> {c_out}, {size}x{size}"
        yield CaseOf(name, _net(c_in, c_out, size, 1, block))
    for c_in, c_out, size, block in ((64, 64, 28, 2), (64, 3, 56, 2), (32, 1, 56, 3), (46, 3, 56, 4)):
        for biases in ("equal", "different"):
            name = f"Conv 3x3 + DepthToSpace {block}, {c_in} -> {c_out}, {size}x{size}, {biases} biases"
            yield CaseOf(name, _net(c_in, c_out, size, 3, block, biases=biases))
    yield CaseOf(
        "Conv 1x1 + DepthToSpace 2, 64 -> 64, 28x28, different biases", _net(64, 64, 28, 1, 2, biases="different")
    )
