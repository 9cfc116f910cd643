"""Cases for `replace_fc_head`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.cases import CaseOf, model, weights_of

FORMS: dict[str, dict[str, Any]] = {
    "global average pooling": {"form": "gap"},
    "means over a few cells": {"form": "pyramid"},
    "learned maps": {"form": "maps"},
    "low rank, 15% of its weights": {"form": "low_rank", "ratios": [0.15]},
}
"""Settings of the levels: of each form the fastest is shown."""


def cases() -> Iterator[CaseOf]:
    constant = {"w": np.repeat(weights_of(1024, 256), 49, axis=1) / np.float32(49), "b": weights_of(1024)}
    head = "z = Relu (x)  f = Flatten (z)  y = Gemm <transB = 1> (f, w, b)"
    name = "spatially constant FC 256x7x7 -> 1024"
    yield CaseOf(name, model("N, 256, 7, 7", head, constant, "N, M"))
    for c, j, k in ((16, 120, 5), (256, 1024, 7)):
        body = "z = Relu (x)  c = Conv (z, w, b)  d = Relu (c)  y = Flatten (d)"
        built = model(f"N, {c}, {k}, {k}", body, {"w": weights_of(j, c, k, k), "b": weights_of(j)}, "N, M")
        yield CaseOf(f"Conv {k}x{k} over the whole map, {c} -> {j}", built)
    for c, size, j in ((64, 5, 120), (50, 4, 500), (256, 6, 4096)):
        weights = {"w": weights_of(j, c * size * size), "b": weights_of(j)}
        built = model(f"N, {c}, {size}, {size}", head, weights, "N, M")
        for form in FORMS:
            yield CaseOf(f"FC {c}x{size}x{size} -> {j}: {form}", built, {**FORMS[form], "min_share": 0.0})
