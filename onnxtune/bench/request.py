"""What the user asks for on the command line, as values. Every function raises UsageError naming the flag."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from onnxtune.errors import UsageError
from onnxtune.sizes import parse_shapes

T = TypeVar("T", int, float)
MOST_CASES = 100


def numbers(text: str | None, flag: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """ "1,2,4" -> (1, 2, 4). "1,2,4,...,256" goes on as it began: by doubling, or in steps."""
    if not text:
        return ()
    words = [w.strip() for w in text.split(",")]
    try:
        if "..." not in words:
            return tuple(kind(w) for w in words)
        dots = words.index("...")
        start: list[T] = [kind(w) for w in words[:dots]]
        end: list[T] = [kind(w) for w in words[dots + 1 :]]
    except ValueError:
        raise UsageError(f"{flag} {text}: expected numbers such as 1,2,4") from None
    if len(start) < 2 or len(end) != 1:
        raise UsageError(f"{flag} {text}: expected two numbers or more before ... and one after it")
    start.extend(_between(start, end[0], f"{flag} {text}"))
    return tuple(start)


def _between(start: list[T], end: T, named: str) -> list[T]:
    """The numbers after `start` up to `end`, by the ratio of the last two or by their difference."""
    before, last = start[-2:]
    ratio, step = (last / before if before else math.nan), last - before
    doubling = len(start) > 2 and start[-2] / start[-3] == ratio if start[-3:-2] != [0] else False
    multiply = doubling or (len(start) == 2 and ratio == 2)
    found: list[T] = []
    while (found[-1] if found else last) < end and len(found) < MOST_CASES:
        now = found[-1] if found else last
        found.append(type(end)(now * ratio if multiply else now + step))
        if found[-1] <= now:
            break
    if not found or found[-1] != end:
        raise UsageError(f"{named}: going on like this does not lead to {end:g}")
    return found


def share(text: str, flag: str) -> float:
    """ "5%" -> 0.05, "0.05" -> 0.05."""
    word = text.strip()
    try:
        value = float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"{flag} {text}: expected a share such as 5% or 0.05")
    return value


def shape_cases(texts: tuple[str, ...]) -> list[dict[str, tuple[int, ...]]]:
    """`--input-shapes` values as cases: an input that is named several times has one shape in each; one that is
    named once has it in all."""
    by_name: dict[str, list[tuple[int, ...]]] = {}
    for text in texts:
        for name, shape in parse_shapes((text,)).items():
            by_name.setdefault(name, []).append(shape)
    counts = {len(shapes) for shapes in by_name.values()} - {1}
    if len(counts) > 1:
        raise UsageError(f"--input-shapes: inputs are given {' and '.join(map(str, sorted(counts)))} shapes; give each"
                         " one, or all as many")  # fmt: skip
    count = max(counts, default=1) if by_name else 0
    return [{n: s[i] if len(s) > 1 else s[0] for n, s in by_name.items()} for i in range(count)]
