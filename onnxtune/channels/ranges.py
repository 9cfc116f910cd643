"""What values pad channels can take on their way from the producer (where they are 0) to the consumer.

The consumer multiplies them by zero columns, so any finite value is harmless and an infinite one or a
NaN is not: 0 * inf = NaN would reach every output. A Range is a hull of the values of all pad channels
of a tensor over all inputs; its ends are infinite where the value is finite but has no known bound.
Operators for which no finite bound can be given answer with a sentence instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from onnxtune.facts import Node

Range = tuple[float, float]
ZERO: Range = (0.0, 0.0)
ANY: Range = (-math.inf, math.inf)
LIMIT = 2.0**15
"""Larger values are refused: the half-precision range ends at 65504."""


def hull(ranges: Iterable[Range]) -> Range:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def bounded(r: Range) -> bool:
    return max(abs(r[0]), abs(r[1])) <= LIMIT


def add(a: Range, b: Range) -> Range:
    return a[0] + b[0], a[1] + b[1]


def negative(a: Range) -> Range:
    return -a[1], -a[0]


def product(a: Range, b: Range) -> Range | None:
    """None: it may overflow."""
    if ZERO in (a, b):
        return ZERO
    if not (bounded(a) and bounded(b)):
        return None
    return hull([(p, p) for p in (a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])])


def power(a: Range, b: Range) -> Range | None:
    """a to the b. None: it may overflow, or a base below 0 meets a broken exponent."""
    whole = b[0] == b[1] and b[0] == int(b[0]) and b[0] >= 0 if bounded(b) else False
    if not bounded(a) or not bounded(b) or not (whole or a[0] > 0 or (a[0] >= 0 and b[0] >= 0)):
        return None
    try:
        ends = [x**y for x in a for y in b] + ([0.0] if a[0] <= 0 <= a[1] and b[1] > 0 else [])
    except OverflowError:
        return None
    result = min(ends), max(ends)
    return result if bounded(result) else None


def reciprocal(a: Range) -> Range | None:
    """None: a zero may be inside."""
    if a[0] <= 0 <= a[1] or not bounded(a):
        return None
    return 1 / a[1], 1 / a[0]


def _between(low: float, high: float) -> Callable[[Node, Range], Range | None]:
    return lambda node, r: (low, high)


def _grows_at_most(zero: bool, factor: Callable[[Node], float]) -> Callable[[Node, Range], Range | None]:
    """|f(v)| <= factor * |v| + 1; f(0) = 0 when `zero`."""

    def apply(node: Node, r: Range) -> Range:
        if zero and r == ZERO:
            return ZERO
        most = max(abs(r[0]), abs(r[1])) * max(1.0, factor(node)) + 1.0
        return -most, most

    return apply


def _clip(node: Node, r: Range) -> Range:
    low, high = node.attribute("min", -math.inf), node.attribute("max", math.inf)
    return min(max(r[0], low), high), min(max(r[1], low), high)


def _absolute(_: Node, r: Range) -> Range:
    low = 0.0 if r[0] <= 0 <= r[1] else min(abs(r[0]), abs(r[1]))
    return low, max(abs(r[0]), abs(r[1]))


def _exponential(_: Node, r: Range) -> Range | None:
    return (math.exp(r[0]) if r[0] > -700 else 0.0, math.exp(r[1])) if r[1] < math.log(LIMIT) else None


def _logarithm(_: Node, r: Range) -> Range | None:
    return (math.log(r[0]), math.log(r[1])) if r[0] > 0 and bounded(r) else None


def _root(_: Node, r: Range) -> Range | None:
    return (math.sqrt(r[0]), math.sqrt(r[1])) if r[0] >= 0 else None


def _attributes(*names_and_defaults: tuple[str, float]) -> Callable[[Node], float]:
    return lambda node: math.prod(max(1.0, abs(node.attribute(name, default))) for name, default in names_and_defaults)


def _one(_: Node) -> float:
    return 1.0


UNARY: dict[str, Callable[[Node, Range], Range | None]] = {
    **dict.fromkeys(("Identity", "Dropout", "Cast"), lambda node, r: r),
    **dict.fromkeys(("Sigmoid", "HardSigmoid"), _between(0, 1)),
    "Neg": lambda node, r: negative(r),
    "Relu": lambda node, r: (max(r[0], 0.0), max(r[1], 0.0)),
    "Abs": _absolute,
    "Clip": _clip,  # with attributes; with inputs see pointwise.Clip
    **dict.fromkeys(("Tanh", "Softsign", "Erf", "Sign"), _grows_at_most(True, _one)),
    **dict.fromkeys(("Floor", "Ceil", "Round", "HardSwish", "Gelu", "Mish"), _grows_at_most(True, _one)),
    "Softplus": _grows_at_most(False, _one),
    "LeakyRelu": _grows_at_most(True, _attributes(("alpha", 0.01))),
    **dict.fromkeys(("Elu", "Celu"), _grows_at_most(True, _attributes(("alpha", 1.0)))),
    "Selu": _grows_at_most(True, _attributes(("alpha", 1.67326), ("gamma", 1.0507))),
    "Exp": _exponential,
    "Log": _logarithm,
    "Sqrt": _root,
    "Reciprocal": lambda node, r: reciprocal(r),
}
"""Operator on single values -> the range of its results; None when a result may not be finite."""
