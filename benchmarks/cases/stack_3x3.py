"""Cases for `stack_3x3`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, conv_cases

SHAPES = (
    (5, 1, 64, 64, 28),
    (5, 1, 128, 128, 7),
    (7, 1, 32, 32, 28),
    (7, 2, 3, 64, 112),
    (9, 1, 16, 64, 48),
    (11, 1, 16, 32, 28),
)
"""Kernel, stride, C_in, C_out, size of the output map."""


def cases() -> Iterator[CaseOf]:
    yield from conv_cases(SHAPES)
