"""Cases for `remove_noop`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, model


def cases() -> Iterator[CaseOf]:
    body = "a = Identity (x)  b = Dropout (a)  c = Relu (b)  d = Identity (c)  y = Neg (d)"
    yield CaseOf("Identity and Dropout (ORT removes them)", model("N, 64, 28, 28", body))
