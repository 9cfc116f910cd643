"""Is the rewritten model still the same function? Whole-model comparison in ONNX Runtime.

Rounding differs between two ways of computing one function, so equality is judged against a tolerance
made of two parts: what the data type and the length of the sums allow (a random walk of roundings
grows with the square root of the number of terms: Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019),
and how much the *original's own* outputs move when its inputs change in the last bit or ONNX Runtime
optimises it differently. Bugs are larger than both; what is smaller than the tolerance is caught by
the local float64 check of each region (`localcheck`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.costs import reduction_length
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import Case, Feeds
from onnxtune.memory import check_fits
from onnxtune.model import Model
from onnxtune.runtime import CPU, EndlessError, Level, Outputs, Session, Target

LEVELS: tuple[Level, ...] = ("disable", "all")
PLAIN_LEVELS: tuple[Level, ...] = ("disable", "basic", "all")
"""Levels at which the original is run plainly, the first at which it runs. (Of some ONNX Runtime needs its first
optimisations to find the shapes in a Scan's body.)"""
ROUNDING_MARGIN = 16.0
"""How many standard steps of the rounding walk are allowed (measured errors stay within about 4)."""
SENSITIVITY_MARGIN = 8.0
PERTURBED = 3
"""Runs of the original with inputs moved in the last bit. (ONNX Runtime's own LRN, a running sum, loses
two digits on inputs of 1000: one run may not show it.)"""
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Verdict:
    """`ok`, or where it broke: output, case, index, values. `error` is the largest difference seen
    relative to the largest magnitude of that output; `cases` how many inputs were compared."""

    ok: bool
    error: float
    cases: int
    reason: str = ""


@dataclass(frozen=True)
class Tolerance:
    """How far two ways of computing one function may lie apart. `terms`: length of all its sums together.

    `rtol` (of the tensor's largest magnitude) and `atol` take the place of what follows from these and from the
    original's own sensitivity.
    """

    terms: float
    rtol: float | None = None
    atol: float | None = None

    def allowed(self, dtype: np.dtype[Any], scale: float, moved: NDArray[Any]) -> float:
        """Largest difference of a floating-point tensor of this largest magnitude.

        `moved`: how far its elements move by themselves (`movement`).
        """
        relative = ROUNDING_MARGIN * UNIT_ROUNDOFF[dtype.name] * math.sqrt(self.terms)
        if self.rtol is not None:
            relative = self.rtol
        absolute = self.atol if self.atol is not None else SENSITIVITY_MARGIN * float(np.max(moved, initial=0.0))
        return relative * scale + absolute


def sum_terms(facts: Facts) -> float:
    """Length of all sums of a model together, one at least."""
    return float(sum(reduction_length(facts, n) for n in facts.nodes)) + 1.0


@dataclass(frozen=True, eq=False)
class _Reference:
    """What the original gives on a case, plainly and as it is deployed."""

    case: Case
    outputs: Outputs
    deployed: Outputs


class Verifier:
    """Holds the original's outputs; `verify(candidate)` compares a model with them.

    How far these move by themselves takes several runs on every case. It is looked at when a candidate first lies
    beyond what rounding alone allows, which most never do.

    Runs on the CPU provider without graph optimisations and on the target as it will be used.
    Raises ModelError when the original itself runs on none of the cases.
    """

    def __init__(
        self,
        original: Model,
        facts: Facts,
        cases: Iterable[Case],
        target: Target,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        seed: int = 0,
    ) -> None:
        self._original, self._target, self._seed = original, target, seed
        self._tolerance = Tolerance(sum_terms(facts), rtol, atol)
        check_fits(facts)
        self._references: list[_Reference] = []
        tests, problems = list(cases), list[str]()
        for level in PLAIN_LEVELS:
            self.skipped: list[str] = []
            self.levels: tuple[Level, Level] = (level, "all")
            try:
                self._refer(original, tests)
            except EndlessError:
                raise
            except ModelError as error:
                problems.append(str(error))
            problems += [s.partition(": ")[2] for s in self.skipped]
            if self._references:
                return
        raise ModelError(problems[0])

    def _refer(self, original: Model, tests: Sequence[Case]) -> None:
        """Keep the original's outputs on the tests that it runs."""
        plain = self._plain()
        tuned = Session(original, self._target, self.levels[1])
        for case in tests:
            try:
                self._references.append(_Reference(case, plain.run(case.feeds), tuned.run(case.feeds)))
            except EndlessError:
                raise
            except ModelError as error:
                self.skipped.append(f"{case.name}: {error}")

    def _plain(self) -> Session:
        return Session(self._original, Target(CPU, {}, self._target.threads), self.levels[0])

    @cached_property
    def _moved(self) -> list[Outputs]:
        """Per reference, how far the original's outputs move by themselves."""
        plain = self._plain()
        return [movement(plain, r.case.feeds, r.outputs, r.deployed, self._seed) for r in self._references]

    @property
    def cases(self) -> Sequence[str]:
        return [r.case.name for r in self._references]

    def unlike(self, other: Verifier) -> str:
        """Where another model's outputs are of another kind than the original's ("" nowhere): a case that it does not
        run, another shape or type, values that are not finite where they were. Values themselves may differ."""
        theirs = {r.case.name: r.outputs for r in other._references}
        for reference in self._references:
            if reference.case.name not in theirs:
                return f"it does not run ({reference.case.name})"
            for name, want in reference.outputs.items():
                have = theirs[reference.case.name].get(name)
                if have is None or have.shape != want.shape or have.dtype != want.dtype:
                    return f"output '{name}' has another shape or type ({reference.case.name})"
                if want.dtype.kind == "f" and bool((np.isfinite(want) & ~np.isfinite(have)).any()):
                    return f"output '{name}' is not finite where it was ({reference.case.name})"
        return ""

    def verify(self, candidate: Model) -> Verdict:
        """Compare the candidate with the original on all cases at both optimisation levels."""
        worst = 0.0
        targets = (Target(CPU, {}, self._target.threads), self._target)
        for level, target in zip(self.levels, targets, strict=True):
            error, reason = self._compare_at(candidate, level, target)
            worst = max(worst, error)
            if reason:
                return Verdict(False, worst, len(self._references), reason)
        return Verdict(True, worst, len(self._references))

    def _compare_at(self, candidate: Model, level: Level, target: Target) -> tuple[float, str]:
        """(largest relative difference, what broke) in one session, which is gone afterwards."""
        worst = 0.0
        try:
            session = Session(candidate, target, level)
            for number, reference in enumerate(self._references):
                error, reason = self._compare(number, session.run(reference.case.feeds))
                worst = max(worst, error)
                if reason:
                    return worst, f"{reason} ({reference.case.name}, ONNX Runtime level {level})"
        except ModelError as broken:
            return worst, str(broken)
        return worst, ""

    def _compare(self, number: int, got: Outputs) -> tuple[float, str]:
        worst = 0.0
        for name, expected in self._references[number].outputs.items():
            if name not in got:
                return np.inf, f"output '{name}' is missing"
            still = np.zeros(expected.shape)
            error, reason = check(name, expected, got[name], still, self._tolerance)
            if reason and got[name].shape == expected.shape:
                moved = self._moved[number][name]
                error, reason = check(name, expected, got[name], moved, self._tolerance)
            worst = max(worst, error)
            if reason:
                return worst, reason
        return worst, ""


def check(
    name: str, expected: NDArray[Any], actual: NDArray[Any], moved: NDArray[Any], tolerance: Tolerance
) -> tuple[float, str]:
    """(largest difference relative to the largest magnitude, where it is beyond the tolerance or "") of an output."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        was = f"{expected.dtype}{list(expected.shape)}"
        return np.inf, f"output '{name}' is {actual.dtype}{list(actual.shape)}, was {was}"
    if expected.size == 0:
        return 0.0, ""
    if expected.dtype.name not in UNIT_ROUNDOFF:
        allowed = int(np.count_nonzero(moved))
        wrong = int(np.count_nonzero(expected != actual))
        if wrong > allowed:
            return wrong / expected.size, f"output '{name}': {wrong} of {expected.size} values differ"
        return 0.0, ""
    want, have = expected.astype(np.float64), actual.astype(np.float64)
    usable = np.isfinite(want)
    if np.any(usable & ~np.isfinite(have)):
        return np.inf, f"output '{name}' is not finite where it was"
    difference = np.where(usable, np.abs(want - np.where(usable, have, 0.0)), 0.0)
    scale = float(np.max(np.abs(want), where=usable, initial=0.0))
    allowed_error = tolerance.allowed(expected.dtype, scale, moved)
    index = np.unravel_index(int(np.argmax(difference)), difference.shape)
    largest = float(difference[index])
    error = largest / scale if scale else largest
    if not largest <= allowed_error:
        place = ", ".join(str(int(i)) for i in index)
        return error, (
            f"output '{name}'[{place}] is {have[index]:.6g}, was {want[index]:.6g}"
            f" (difference {largest:.3g}, tolerance {allowed_error:.3g})"
        )
    return error, ""


def movement(plain: Session, feeds: Feeds, outputs: Outputs, deployed: Outputs, seed: int) -> Outputs:
    """How far each output element of the original moves by itself: under last-bit changes of its inputs, and from
    `outputs` (without optimisations, of `plain`) to `deployed` (as ONNX Runtime optimises it)."""
    others = [deployed, *(plain.run(_last_bit(feeds, seed + i)) for i in range(PERTURBED))]
    return {name: _moved(value, [o[name] for o in others]) for name, value in outputs.items()}


def _moved(value: NDArray[Any], others: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if any(o.shape != value.shape for o in others):
        return np.zeros(value.shape)  # a data-dependent size moved: equality is asked for
    if value.dtype.name not in UNIT_ROUNDOFF:
        return np.asarray(np.any([o != value for o in others], axis=0))
    with np.errstate(invalid="ignore"):
        change = np.max([np.abs(o.astype(np.float64) - value.astype(np.float64)) for o in others], axis=0)
    return np.where(np.isfinite(change), change, 0.0)


def _last_bit(feeds: Feeds, seed: int) -> Feeds:
    """The feeds with every float moved by up to one unit in the last place."""
    rng = np.random.default_rng(seed)
    return {n: _nudge(a, rng) for n, a in feeds.items()}


def _nudge(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    roundoff = UNIT_ROUNDOFF.get(array.dtype.name)
    if roundoff is None:
        return array
    wide = array.astype(np.float64) * (1 + 2 * roundoff * rng.choice([-1.0, 1.0], array.shape))
    return np.asarray(wide, array.dtype)  # of no axes it is a number
