"""Cases for `fuse_prelu`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model, weights_of

SPELLED = "p = Relu (c)  n = Neg (c)  q = Relu (n)  m = Mul (q, a)  z = Sub (p, m)"


def cases() -> Iterator[CaseOf]:
    """Each between two convolutions."""
    slopes = np.linspace(0.1, 0.4, 32, dtype=np.float32)[:, None, None]
    for name, body, a in (
        ("spelled out, one slope", SPELLED, np.float32(0.1)),
        ("spelled out, a slope per channel", SPELLED, slopes),
        ("PRelu, one slope", "z = PRelu (c, a)", np.full(1, 0.1, np.float32)),
        ("PRelu, a slope per channel", "z = PRelu (c, a)", slopes),
    ):
        body = f"c = Conv <pads = [1, 1, 1, 1]> (x, w)  {body}  y = Conv (z, v)"
        weights = {"w": weights_of(32, 16, 3, 3), "v": weights_of(32, 32, 1, 1), "a": np.asarray(a)}
        yield CaseOf(f"{name}, 32x56x56", model("N, 16, 56, 56", body, weights))
