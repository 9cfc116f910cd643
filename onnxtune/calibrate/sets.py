"""What sets of levels can be made: the one that gains most within a harm."""

from __future__ import annotations

from collections.abc import Sequence

from onnxtune.calibrate.level import combinable
from onnxtune.calibrate.points import Option
from onnxtune.choose import choose
from onnxtune.proposal import overlap


class Sets:
    """What sets can be made of: gains, harms, which options exclude each other."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.options = options
        self.gain, self.harm = [o.timed.gain for o in options], [o.harm for o in options]
        count = range(len(options))
        self.conflicts = [{j for j in count if j != i and _conflict(options[i], options[j])} for i in count]

    def within(self, harm: float) -> frozenset[int]:
        return choose(self.gain, self.harm, self.conflicts, harm)

    def identity(self, chosen: frozenset[int]) -> frozenset[str]:
        return frozenset(self.options[i].timed.level.identity for i in chosen)


def _conflict(first: Option, second: Option) -> bool:
    one, other = first.timed.level, second.timed.level
    if one.layer.key == other.layer.key:
        return True
    return overlap(one.unfitted, other.unfitted) and not combinable(one, other)
