"""Cases for `bottleneck_conv`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, conv_cases

SHAPES = ((3, 1, 64, 64, 28), (3, 1, 256, 256, 14), (5, 1, 64, 64, 28), (5, 1, 128, 128, 14), (7, 2, 3, 64, 112))
"""Kernel, stride, C_in, C_out, size of the output map."""


def cases() -> Iterator[CaseOf]:
    yield from conv_cases(SHAPES)
