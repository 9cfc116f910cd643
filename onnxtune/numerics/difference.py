"""How far one output of two models lies apart, over one or several batches. Pure computing on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.accuracy import leading
from onnxtune.runtime import Level
from onnxtune.verify import UNIT_ROUNDOFF

FIVE = 5
DATA = "data"
"""Name of the case that the user's samples make up together."""


@dataclass(frozen=True)
class Difference:
    """One output of B against A at one optimisation level, on one case.

    `maximum`, `mean`: absolute difference of the values; `relative`: the maximum relative to the largest magnitude of
    A's output; `snr`: 10 log10(sum of squares of A / of the difference), dB, None where there is no difference (or
    nothing but zeros in A). `differing`: share of values that are not equal. `top1`: share of samples whose largest
    class is the same; `top5`: whose largest class of A is among the five largest of B; None where the output does not
    rank classes (top5: more than five of them). `accuracy_a`, `accuracy_b`: share of samples whose largest class is the
    label; None without labels. `reason`: where it lies beyond the tolerance, "" where it does not.
    """

    output: str
    level: Level
    case: str
    dtype: str
    shape: tuple[int, ...]
    samples: int
    maximum: float
    mean: float
    relative: float
    snr: float | None
    differing: float
    top1: float | None = None
    top5: float | None = None
    accuracy_a: float | None = None
    accuracy_b: float | None = None
    reason: str = ""

    @property
    def within(self) -> bool:
        return not self.reason


@dataclass
class Tally:
    """Sums over the batches of one output, level and case."""

    output: str
    level: Level
    case: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    samples: int = 0
    values: int = 0
    maximum: float = 0.0
    absolute: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    scale: float = 0.0
    unequal: int = 0
    ranked: bool = True
    classes: int = 0
    same_top1: int = 0
    same_top5: int = 0
    labelled: int = 0
    right_a: int = 0
    right_b: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(
        self,
        want: NDArray[Any],
        have: NDArray[Any],
        count: int,
        reason: str,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        """A batch of which the first `count` rows count. `reason`: "" when within the tolerance. `labels`: (count,)."""
        if reason:
            self.reasons.append(reason)
        self.dtype, self.shape = want.dtype.name, want.shape
        self.samples += count
        if want.shape != have.shape or want.dtype != have.dtype:
            self.maximum, self.unequal, self.values = math.inf, self.unequal + want.size, self.values + want.size
            self.ranked = False
            return
        if want.ndim and count < len(want):
            want, have = want[:count], have[:count]
        self.values += want.size
        same = want == have
        if want.dtype.name in UNIT_ROUNDOFF:
            same |= np.isnan(want) & np.isnan(have)
            self._add_numbers(want.astype(np.float64), have.astype(np.float64))
        self.unequal += int(np.count_nonzero(~same))
        self._add_ranks(want, have, labels)

    def _add_numbers(self, want: NDArray[np.float64], have: NDArray[np.float64]) -> None:
        finite = np.isfinite(want)
        if bool((finite & ~np.isfinite(have)).any()):
            self.maximum = math.inf
            finite &= np.isfinite(have)
        difference = np.where(finite, np.abs(np.subtract(want, have, where=finite, out=np.zeros_like(want))), 0.0)
        kept = np.where(finite, want, 0.0)
        self.maximum = max(self.maximum, float(difference.max(initial=0.0)))
        self.absolute += float(difference.sum())
        self.noise += float(np.square(difference).sum())
        self.signal += float(np.square(kept).sum())
        self.scale = max(self.scale, float(np.abs(kept).max(initial=0.0)))

    def _add_ranks(self, want: NDArray[Any], have: NDArray[Any], labels: NDArray[np.int64] | None) -> None:
        self.ranked = self.ranked and is_ranked(want)
        if self.ranked and len(want):
            self.classes = want.shape[1]
            first, second = (a.reshape(len(a), -1).astype(np.float64) for a in (want, have))
            best, other = leading(first, 1), leading(second, 1)
            self.same_top1 += int((best == other).sum())
            if labels is not None:
                self.labelled += len(labels)
                self.right_a += int((best[:, 0] == labels).sum())
                self.right_b += int((other[:, 0] == labels).sum())
            if self.classes > FIVE:
                self.same_top5 += int((best == leading(second, FIVE)).any(axis=1).sum())

    def result(self, min_agreement: float | None = None) -> Difference:
        """`min_agreement`: the least share of samples whose first class must be the same, for an output that ranks
        classes; it takes the tolerance's place."""
        ranked = self.ranked and self.samples > 0 and self.classes > 0
        top1 = self.same_top1 / self.samples if ranked else None
        reason = self.reasons[0] if self.reasons else ""
        if min_agreement is not None and top1 is not None:
            short = top1 < min_agreement
            reason = f"output '{self.output}': {top1:.2%} of the first classes agree, not {min_agreement:.2%}" * short
        return Difference(
            output=self.output,
            level=self.level,
            case=self.case,
            dtype=self.dtype,
            shape=self.shape,
            samples=self.samples,
            maximum=self.maximum,
            mean=self.absolute / self.values if self.values else 0.0,
            relative=self.maximum / self.scale if self.scale else self.maximum,
            snr=10 * math.log10(self.signal / self.noise) if self.signal > 0 and self.noise > 0 else None,
            differing=self.unequal / self.values if self.values else 0.0,
            top1=top1,
            top5=self.same_top5 / self.samples if ranked and self.classes > FIVE else None,
            accuracy_a=self.right_a / self.labelled if ranked and self.labelled else None,
            accuracy_b=self.right_b / self.labelled if ranked and self.labelled else None,
            reason=reason,
        )


def is_ranked(value: NDArray[Any]) -> bool:
    """Does it hold one number for each class: (n, classes), or with axes of size 1 behind?"""
    return (
        value.dtype.name in UNIT_ROUNDOFF
        and value.ndim >= 2
        and value.shape[1] > 1
        and value.size == value.shape[0] * value.shape[1]
    )
