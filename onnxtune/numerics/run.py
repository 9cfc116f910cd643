"""Running two models on the same feeds, unoptimised and as deployed, and comparing every output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.calibrate.dataset import Dataset
from onnxtune.errors import ModelError, UsageError
from onnxtune.facts import Facts
from onnxtune.feeds import Case, Feeds
from onnxtune.model import Model
from onnxtune.numerics.difference import DATA, Difference, Tally
from onnxtune.numerics.origin import Origin, find_origin
from onnxtune.runtime import CPU, Level, Outputs, Session, Target
from onnxtune.shapes import Shape, describe
from onnxtune.sizes import Sizes, unfed
from onnxtune.verify import LEVELS, Tolerance, check, movement, sum_terms

BATCH_VALUES = 2**22
"""Input values of one batch of samples, at most (but one sample at least)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Feeds that belong to a case; the first `count` rows of the outputs count (None: all). `labels`: (count,)"""

    case: Case
    count: int | None = None
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Compared:
    """Differences and failures, and where the first one begins (`notes`: or why that cannot be said)."""

    differences: tuple[Difference, ...]
    failures: tuple[str, ...]
    skipped: tuple[str, ...]
    origin: Origin | None
    notes: tuple[str, ...] = ()


def batches_of(data: Dataset, samples: int | None) -> Iterator[Batch]:
    """The first `samples` samples (None: all) in batches; raises DataError for samples that cannot be fed."""
    chosen = np.arange(data.count if samples is None else min(samples, data.count))
    labels = data.labels if data.labels is not None and data.labels.ndim == 1 else None
    one = sum(v.size for v in data.feeds([0]).values())
    for indices, feeds, count in data.batches(chosen, max(1, min(64, BATCH_VALUES // max(one, 1)))):
        name = f"samples {indices[0]} to {indices[-1]}" if len(indices) > 1 else f"sample {indices[0]}"
        yield Batch(Case(name, feeds), count, None if labels is None else labels[indices])


def run_both(
    a: Model,
    b: Model,
    batches: Iterable[Batch],
    sizes: Sizes,
    target: Target,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    min_agreement: float | None = None,
    seed: int = 0,
) -> Compared:
    """Every output of `b` against `a` at both levels, like with like: unoptimised on the CPU, and on the target.

    Raises ModelError when a model cannot be loaded, when `a` runs on none of the batches, or `b` on none.
    """
    cpu = Target(CPU, {}, target.threads)
    first = {level: Session(a, cpu if level == "disable" else target, level) for level in LEVELS}
    second = {level: Session(b, cpu if level == "disable" else target, level) for level in LEVELS}
    tolerance = Tolerance(sum_terms(Facts(a, sizes)), rtol, atol)
    tallies: dict[tuple[str, str, Level], Tally] = {}
    failures, skipped = dict[str, None](), dict[str, None]()
    beyond: dict[str, tuple[Case, Level]] = {}
    ran = False
    for batch in batches:
        case, feeds = batch.case, batch.case.feeds
        try:
            want = {level: session.run(feeds) for level, session in first.items()}
            moved = movement(first["disable"], feeds, want["disable"], want["all"], seed)
        except ModelError as error:
            skipped[f"{case.name}: {error}"] = None
            continue
        for level in LEVELS:
            try:
                have = second[level].run(feeds)
            except ModelError as error:
                failures[f"{error} ({case.name}, ONNX Runtime level {level})"] = None
                continue
            ran = True
            for output in _tally(tallies, batch, level, want[level], have, moved, tolerance):
                beyond.setdefault(output, (case, level))
    if not ran:
        raise ModelError(next(iter({**skipped, **failures}), f"{a.name}: there was nothing to feed it"))
    origin, notes = None, tuple[str, ...]()
    rows = tuple(t.result(min_agreement) for t in tallies.values())
    guilty = next((d.output for d in rows if d.reason and d.output in beyond), None)
    if guilty is not None:
        try:
            origin = find_origin(a, b, guilty, *beyond[guilty], target, tolerance, seed)
        except ModelError as error:  # the verdict stands without it
            notes = (f"the first diverging tensor cannot be found: {error}",)
    return Compared(rows, tuple(failures), tuple(skipped), origin, notes)


def _tally(
    tallies: dict[tuple[str, str, Level], Tally],
    batch: Batch,
    level: Level,
    want: Outputs,
    have: Outputs,
    moved: Outputs,
    tolerance: Tolerance,
) -> list[str]:
    """Add one batch; the outputs that lie beyond the tolerance."""
    beyond = []
    name = batch.case.name
    short = DATA if batch.count is not None else name
    for output, expected in want.items():
        actual = have[output]
        count = batch.count if batch.count is not None else len(expected) if expected.ndim else 1
        first, second, own = _counted((expected, actual, moved[output]), count)
        _, reason = check(output, first, second, own, tolerance)
        tally = tallies.setdefault((output, short, level), Tally(output, level, short))
        said = f"{reason}, {name}" if reason and short != name else reason
        tally.add(expected, actual, count, said, batch.labels)
        if reason:
            beyond.append(output)
    return beyond


def _counted(arrays: Sequence[NDArray[Any]], count: int) -> list[NDArray[Any]]:
    """Without rows that only fill up a batch."""
    whole = all(a.ndim and len(a) > count for a in arrays)
    return [a[:count] if whole else a for a in arrays]


def check_same_interface(a: Model, b: Model) -> None:
    """The same names and element types of inputs and outputs, and no sizes that contradict each other.

    Raises UsageError with one line that says what differs; ModelError when inputs or outputs are no tensors.
    """
    for model in (a, b):
        if (reason := unfed(model)) is not None:
            raise ModelError(f"{model.name}: {reason}")
    for what, ours, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        mine, other = {v.name: v for v in ours}, {v.name: v for v in theirs}
        if mine.keys() != other.keys():
            names = [", ".join(f"'{n}'" for n in m) for m in (mine, other)]
            raise UsageError(
                f"{b.name}: has the {what}s {names[1]}, {a.name} has {names[0]}; only models with the same ones compare"
            )
        for name, value in mine.items():
            _check_same(a, b, f"{what} '{name}'", value, other[name])


def _check_same(a: Model, b: Model, what: str, ours: onnx.ValueInfoProto, theirs: onnx.ValueInfoProto) -> None:
    first, second = describe(ours), describe(theirs)
    if first is None or second is None:
        raise ModelError(f"{(a if first is None else b).name}: {what} is not a tensor; only tensors are compared")
    if first.elem_type != second.elem_type:
        kinds = [onnx.TensorProto.DataType.Name(i.elem_type).lower() for i in (first, second)]
        raise UsageError(f"{b.name}: {what} is {kinds[1]}, in {a.name} {kinds[0]}; only equal types compare")
    if first.shape is not None and second.shape is not None and not _fit(first.shape, second.shape):
        shapes = ["x".join(str(d or "?") for d in s) for s in (first.shape, second.shape)]
        raise UsageError(f"{b.name}: {what} is {shapes[1]}, in {a.name} {shapes[0]}; the sizes contradict each other")


def _fit(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(
        p == q or not (isinstance(p, int) and isinstance(q, int)) for p, q in zip(one, other, strict=True)
    )


def common_sizes(sizes: Sizes, b: Model) -> dict[str, tuple[int, ...]]:
    """A's sizes, with those that B fixes where A leaves them open."""
    fixed = {v.name: (describe(v) or (0, None))[1] for v in b.inputs}
    return {
        name: tuple(
            d if isinstance(d, int) else s for s, d in zip(shape, fixed[name] or (None,) * len(shape), strict=True)
        )
        for name, shape in sizes.items()
    }


def user_cases(inputs: Sequence[Feeds]) -> list[Batch]:
    """Feeds that a caller brings, each a case of its own."""
    return [Batch(Case(f"user input {i + 1}", dict(f))) for i, f in enumerate(inputs)]
