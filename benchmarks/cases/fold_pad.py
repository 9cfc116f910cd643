"""Cases for `fold_pad`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    body = "p = Pad (x, k)  c = Conv (p, w)  y = Relu (c)"
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    weights: dict[str, NDArray[Any]] = {"w": weights_of(64, 64, 3, 3), "k": pads}
    yield CaseOf("Pad + Conv 3x3 (ORT folds it)", model("N, 64, 28, 28", body, weights))
