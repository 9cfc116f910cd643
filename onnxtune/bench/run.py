"""Measuring models in the same rounds, at one or several sizes of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.bench import caveats
from onnxtune.bench.batch import batch_is_free, items, sized, with_free_batch
from onnxtune.bench.memory import Memory, memory
from onnxtune.bench.plan import STEADY_WITHIN
from onnxtune.bench.report import BenchmarkReport, Case, Failed, Measured, Row
from onnxtune.bench.room import lacks_memory, too_much
from onnxtune.bench.statistics import PERCENTILES
from onnxtune.comparison import Comparison, compare, self_noise
from onnxtune.errors import ModelError, UsageError
from onnxtune.facts import Facts
from onnxtune.feeds import Feeds, random_feeds
from onnxtune.library import plain
from onnxtune.measure import TWINS, Judge, Make, Plan, Samples, collect, enough
from onnxtune.memory import peak_bytes
from onnxtune.model import Model, file_bytes
from onnxtune.runtime import Session, Target
from onnxtune.shapes import describe
from onnxtune.sizes import Sizes, bind
from onnxtune.trial import fresh

Notify = Callable[[str, int, int], None]
Opener = Callable[[Model, Feeds], Make]
"""(model, feeds) -> what makes a fresh session of it, bound to these feeds."""


@dataclass(frozen=True)
class Wish:
    """One case that is asked for. `label` is empty where it is the only one."""

    label: str = ""
    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Setup:
    """How all cases are measured. `feeds`: the user's inputs; random ones where None. `open`: how sessions are made."""

    target: Target
    plan: Plan
    machine: Mapping[str, Any]
    percentiles: tuple[float, ...] = PERCENTILES
    memory: bool = True
    feeds: Feeds | None = None
    open: Opener | None = None
    notify: Notify = lambda stage, done, total: None

    def make(self, model: Model, feeds: Feeds) -> Make:
        return fresh(model, self.target, feeds) if self.open is None else self.open(model, feeds)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A model as it is measured in a case, with what was found before timing it."""

    name: str
    model: Model
    memory: Memory | None
    odd: float
    rewritten: str


def run(
    models: Sequence[Model], names: Sequence[str], wishes: Sequence[Wish], setup: Setup, settings: Mapping[str, Any]
) -> BenchmarkReport:
    """Measure all models in every case that is wished for.

    Raises UsageError when the models do not take the same inputs; ModelError when a model does not run. Where several
    cases are asked for, a model that does not run in one of them is a result, as long as any runs in any.
    """
    for other in models[1:]:
        check_same_inputs(models[0], other)
    freed: dict[int, Model | str] = {}
    full: dict[int, int] = {}
    found = []
    for done, wish in enumerate(wishes):
        setup.notify(f"measuring {wish.label}".strip(), done, len(wishes))
        found.append(_case(models, names, wish, setup, freed, full))
    failed = [row for case in found for row in case.rows if isinstance(row, Failed)]
    if not any(case.measured for case in found):
        raise ModelError(f"{failed[0].model}: {failed[0].reason}")
    assumed = bind(models[0], wishes[0].shapes).assumed if setup.feeds is None else ()
    return BenchmarkReport(setup.machine, settings, tuple(found), assumed)


def _case(
    models: Sequence[Model],
    names: Sequence[str],
    wish: Wish,
    setup: Setup,
    freed: dict[int, Model | str],
    full: dict[int, int],
) -> Case:
    """`freed`: models whose batch was made free, or why not; `full`: batches from which a model lacks memory."""
    rows: list[Row | None] = []
    live: list[Contestant] = []
    feeds: Feeds | None = setup.feeds
    shapes: Sizes = {}
    for i, (model, name) in enumerate(zip(models, names, strict=True)):
        try:
            ready, sizes, rewritten = _at(i, model, wish, freed)
            if wish.batch is not None and wish.batch >= full.get(i, wish.batch + 1):
                raise ModelError(f"{name}: not tried: batch {full[i]} did not fit into memory")
            if feeds is None:
                feeds = random_feeds(ready, sizes, setup.plan.seed)
            shapes = shapes or {n: a.shape for n, a in feeds.items()}
            live.append(_contestant(name, ready, rewritten, feeds, setup))
            rows.append(None)
        except ModelError as error:
            if not wish.label:
                raise
            reason = str(error).removeprefix(f"{model.name}: ").removeprefix(f"{name}: ")
            lacking = lacks_memory(reason) or "did not fit into memory" in reason
            if lacking and wish.batch is not None:
                full.setdefault(i, wish.batch)
            rows.append(Failed(name, reason, not lacking))
    if not live or feeds is None:
        return Case(wish.label, wish.batch, shapes, tuple(r for r in rows if r is not None), (None,) * (len(rows) - 1))
    try:
        samples = _timed([setup.make(c.model, feeds) for c in live], setup)
    except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
        if not wish.label or not lacks_memory(str(error)):
            raise _told(error, live) from None
        reason = f"out of memory with {TWINS * len(live)} sessions side by side ({plain(error)})"
        full.update({i: wish.batch for i, row in enumerate(rows) if row is None and wish.batch is not None})
        lost = tuple(row or Failed(name, reason, fits=False) for row, name in zip(rows, names, strict=True))
        return Case(wish.label, wish.batch, shapes, lost, (None,) * (len(rows) - 1))
    measured = iter([_measured(c, samples, i, shapes, setup) for i, c in enumerate(live)])
    together = tuple(next(measured) if row is None else row for row in rows)
    results: tuple[Comparison | None, ...] = (None,) * (len(rows) - 1)
    if rows[0] is None and len(live) > 1:
        judged = iter(comparisons([samples.of(i) for i in range(len(live))], setup.plan, samples.error))
        results = tuple(next(judged) if row is None else None for row in rows[1:])
    return Case(wish.label, wish.batch, shapes, together, results, tuple(_caveats(together, live, samples, setup)))


def _at(i: int, model: Model, wish: Wish, freed: dict[int, Model | str]) -> tuple[Model, Sizes, str]:
    """The model at the wished sizes, its inputs' sizes, and what had to be changed for it."""
    sizes = bind(model, wish.shapes).sizes
    if wish.batch is None or items(sizes) == wish.batch:
        return model, sizes, ""
    if batch_is_free(model):
        return model, sized(model, sizes, wish.batch), ""
    if i not in freed:
        freed[i] = with_free_batch(model, sizes)
    free = freed[i]
    if isinstance(free, str):
        raise ModelError(f"{model.name}: its batch is fixed at {items(sizes)}: {free}")
    return free, sized(free, sizes, wish.batch), f"batch of {items(sizes)} made free"


def _contestant(name: str, model: Model, rewritten: str, feeds: Feeds, setup: Setup) -> Contestant:
    """Try it before anything is timed: does it fit, does it run, what does it give?"""
    on_host = not setup.target.on_gpu
    if on_host:
        _check_room(name, peak_bytes(Facts(model, {n: a.shape for n, a in feeds.items()})))
    found = memory(model, feeds, setup.target) if setup.memory else None
    if found is not None and found.needed and on_host:
        _check_room(name, found.needed)
    outputs = Session(model, setup.target).run(feeds)
    return Contestant(name, model, found, caveats.odd_share(outputs), rewritten)


def _check_room(name: str, needed: int) -> None:
    problem = too_much(needed, TWINS)
    if problem:
        raise ModelError(f"{name}: {problem}")


def _timed(makes: Sequence[Make], setup: Setup) -> Samples:
    return collect(makes, setup.plan, _judge(setup.plan), steady_within=STEADY_WITHIN)


def _judge(plan: Plan) -> Judge:
    """Enough when every model's comparison with the first is; of one model alone, when equal sessions agree."""

    def judge(times: NDArray[np.float64], error: float) -> tuple[bool, float]:
        if times.shape[2] == 1:
            noise = self_noise(times[:, :, 0], plan.seed)
            return noise < plan.precision, 2 * noise
        results = comparisons([times[:, :, i] for i in range(times.shape[2])], plan, error)
        return all(enough(r, plan) for r in results), max(r.width for r in results)

    return judge


def comparisons(samples: Sequence[NDArray[np.float64]], plan: Plan, error: float) -> tuple[Comparison, ...]:
    """Each model after the first against the first; together they err with a chance of `error`."""
    share = error / max(len(samples) - 1, 1)
    return tuple(
        compare(samples[0], other, seed=plan.seed, confidence=plan.confidence, error=share) for other in samples[1:]
    )


def _told(error: Exception, live: Sequence[Contestant]) -> Exception:
    """An error of ONNX Runtime itself in our words; ours as they are."""
    if isinstance(error, (ModelError, UsageError)) or "onnxruntime" not in type(error).__module__:
        return error
    return ModelError(f"{', '.join(c.name for c in live)}: ONNX Runtime cannot run it ({plain(error)})")


def _measured(c: Contestant, samples: Samples, i: int, shapes: Sizes, setup: Setup) -> Measured:
    taken, warmup = samples.of(i), samples.warmups[i]
    return Measured(
        model=c.name,
        items=items(shapes),
        samples=taken,
        repeats=samples.repeats[i],
        session=float(np.median(samples.created[:, i])),
        first=float(warmup.times[0]),
        steady=warmup.steady,
        noise=self_noise(taken, setup.plan.seed),
        cut=samples.cut[i],
        model_bytes=file_bytes(c.model) if c.memory is None else c.memory.model_bytes,
        memory=c.memory,
        percentiles=setup.percentiles,
        rewritten=c.rewritten,
    )


def _caveats(
    rows: Sequence[Row], live: Sequence[Contestant], samples: Samples, setup: Setup
) -> Iterator[caveats.Caveat]:
    """Of the machine first, then of each model."""
    measured = [r for r in rows if isinstance(r, Measured)]
    cpu = setup.machine.get("cpu", {})
    load = (cpu.get("load_average") or [None])[0]
    noise = max(r.noise for r in measured)
    cut = max(r.cut for r in measured)
    if noise > caveats.NOISE or cut > caveats.CUT:
        yield caveats.NoisyMachine(noise, cut, load)
    slowing = caveats.throttling(samples.times)
    if slowing:
        yield slowing
    cores = cpu.get("usable_cores")
    if cores and not setup.target.on_gpu:
        crowded = caveats.oversubscribed(setup.target.threads or cpu.get("physical_cores") or cores, load, cores)
        if crowded:
            yield crowded
    for row, contestant, warmup in zip(measured, live, samples.warmups, strict=True):
        yield from caveats.of_model(row.model, row.kept, row.repeats, row.first, contestant.odd)
        if not row.steady:
            yield caveats.Unsteady(row.model, float(warmup.times.sum()))


def check_same_inputs(before: Model, after: Model) -> None:
    """The same names and element types; whether the sizes fit is for ONNX Runtime to say."""
    ours, theirs = (_types(before), _types(after))
    if ours != theirs:
        raise UsageError(
            f"{after.name}: takes other inputs ({', '.join(theirs)}) than {before.name} ({', '.join(ours)});"
            " compare models with the same input names and types"
        )


def _types(model: Model) -> dict[str, int | None]:
    infos = {v.name: describe(v) for v in model.inputs}
    return {name: None if info is None else info.elem_type for name, info in infos.items()}
