"""Cases for `cancel_concat_slice`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model


def cases() -> Iterator[CaseOf]:
    body = """a = Relu (x)  b = Sigmoid (x)  c = Concat <axis = 2> (a, b)  d = Slice (c, zero, two, axis)
              e = Slice (c, two, four, axis)  y = Sub (d, e)"""
    weights = {k: np.array([v], np.int64) for k, v in (("zero", 0), ("two", 2), ("four", 4), ("axis", 2))}
    yield CaseOf("boxes joined and cut, 4420x4", model("N, 4420, 2", body, weights, "N, A, B"))
