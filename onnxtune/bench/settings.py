"""Which settings of ONNX Runtime suit a model best here: measured against the defaults, the model unchanged.

Every setting is first tried alone, all in the same interleaved rounds. Those that are measurably faster are put
together, and this set is measured anew against the defaults: what was picked as the best of many is never reported
with the samples that it was picked by. Settings that change the numbers (TF32) are not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxtune.bench.plan import DEFAULT
from onnxtune.bench.report import comparison_as_json
from onnxtune.bench.run import comparisons
from onnxtune.comparison import Comparison
from onnxtune.devices import physical_cores, usable_cores
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import Feeds
from onnxtune.measure import Make, Plan, Samples, collect, enough, warm
from onnxtune.model import Model
from onnxtune.runtime import CPU, CUDA, Session, Settings, Target

Notify = Callable[[str, int, int], None]
SEARCH = replace(DEFAULT, duration=8.0, precision=0.02, blocks=6, most=14)
LOOK = 0.1
"""Seconds of a first look at each setting."""
HOPELESS = 0.7
"""Speed relative to the defaults, at the first look, below which a setting is not measured further."""
FEW_CORES = 8
"""Up to this many cores every number of threads is tried, above it every doubling."""


@dataclass(frozen=True)
class Choice:
    """A way to run a model. `kind`: the setting that differs from the defaults, `label`: how, in words."""

    kind: str
    label: str
    target: Target
    settings: Settings


@dataclass(frozen=True)
class Tried:
    """A choice with its comparison against the defaults, or why it cannot be used here."""

    choice: Choice
    comparison: Comparison | None
    problem: str = ""


@dataclass(frozen=True)
class Tuning:
    """What was tried on the model, and what is best: `best` None: nothing is measurably faster than the defaults.

    `confirmed`: the best against the defaults, on samples of its own.
    """

    model: str
    tried: tuple[Tried, ...]
    best: Choice | None
    confirmed: Comparison | None

    @property
    def code(self) -> str:
        """Python code that makes a session with the best settings; "" when these are the defaults."""
        return "" if self.best is None else code(self.model, self.best)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "tried": [
                {
                    **described(t.choice),
                    "comparison": None if t.comparison is None else comparison_as_json(t.comparison),
                    "problem": t.problem,
                }
                for t in self.tried
            ],
            "best": None if self.best is None else described(self.best),
            "confirmed": None if self.confirmed is None else comparison_as_json(self.confirmed),
            "code": self.code,
        }


def described(choice: Choice) -> dict[str, Any]:
    return {
        "kind": choice.kind,
        "label": choice.label,
        "threads": choice.target.threads,
        "provider": choice.target.provider,
        "provider_options": dict(choice.target.options),
        "level": choice.settings.level,
        "parallel": choice.settings.parallel,
        "arena": choice.settings.arena,
        "spinning": choice.settings.spinning,
    }


def tune_runtime(
    model: Model,
    feeds: Feeds,
    target: Target,
    *,
    plan: Plan = SEARCH,
    notify: Notify = lambda stage, done, total: None,
) -> Tuning:
    """Try settings of ONNX Runtime on the model. Raises ModelError when it does not run with the defaults."""
    default = Choice("", "defaults", target, Settings())
    usual = _quick(model, default, feeds)
    usable, left_out = [], []
    for choice in choices(Facts(model), target):
        try:
            ratio = usual / _quick(model, choice, feeds)
        except ModelError as error:
            left_out.append(Tried(choice, None, f"cannot be used: {error}"))
            continue
        if ratio < HOPELESS:
            left_out.append(Tried(choice, None, f"about {ratio:.2g}x at a first look: not measured further"))
        else:
            usable.append(choice)
    notify("trying settings", 1, 2)
    results = _measured(model, [default, *usable], feeds, plan) if usable else ()
    tried = [Tried(choice, result) for choice, result in zip(usable, results, strict=True)]
    picked = _picked(default, tried)
    best, confirmed = None, None
    if picked:
        notify("confirming settings", 2, 2)
        again = _measured(model, [default, *picked], feeds, replace(plan, seed=plan.seed + 1))
        best, confirmed = picked[0], again[0]
        if len(picked) > 1 and again[1].speedup > confirmed.speedup * (1 + max(r.noise for r in again)):
            best, confirmed = picked[1], again[1]
        if confirmed.verdict != "faster":
            best = None
    return Tuning(model.name, (*tried, *left_out), best, confirmed)


def _quick(model: Model, choice: Choice, feeds: Feeds) -> float:
    """Seconds of the fastest inference out of a few. Raises ModelError when it does not run like this."""
    session = Session(model, choice.target, settings=choice.settings)
    session.run(feeds)
    return warm(session.runner(feeds), LOOK)


def choices(facts: Facts, target: Target) -> Iterator[Choice]:
    """Every setting that may matter here, each alone, all others as they are."""
    plain = Settings()
    if target.provider == CPU:
        for threads in thread_counts(physical_cores() or usable_cores(), usable_cores()):
            if threads != target.threads and not (target.threads == 0 and threads == physical_cores()):
                words = f"{threads} thread{'s' * (threads > 1)}"
                yield Choice("threads", words, replace(target, threads=threads), plain)
        if target.threads != 1:
            yield Choice("spinning", "idle threads sleep", target, replace(plain, spinning=False))
        if _branches(facts):
            yield Choice("parallel", "branches in parallel", target, replace(plain, parallel=True))
    yield Choice("level", "optimisation level basic", target, replace(plain, level="basic"))
    yield Choice("level", "optimisation level extended", target, replace(plain, level="extended"))
    if not target.on_gpu:
        yield Choice("arena", "no memory arena", target, replace(plain, arena=False))
    if target.provider == CUDA:
        yield from _of_cuda(target)


def _of_cuda(target: Target) -> Iterator[Choice]:
    def option(kind: str, label: str, name: str, value: str) -> Iterator[Choice]:
        if name not in target.options:
            yield Choice(kind, label, replace(target, options={**target.options, name: value}), Settings())

    yield from option("layout", "channels last", "prefer_nhwc", "1")
    yield from option("search", "heuristic algorithm search", "cudnn_conv_algo_search", "HEURISTIC")
    yield from option("search", "default algorithms", "cudnn_conv_algo_search", "DEFAULT")
    yield from option("graph", "CUDA graph", "enable_cuda_graph", "1")


def thread_counts(physical: int, logical: int) -> list[int]:
    """1 to the number of physical cores, or of many every doubling; and all logical ones."""
    most = min(physical, logical)
    if most <= FEW_CORES:
        counts = list(range(1, most + 1))
    else:
        counts = [*(2**i for i in range(most.bit_length()) if 2**i < most), most]
    return counts if logical <= most else [*counts, logical]


def _branches(facts: Facts) -> bool:
    """Is there a tensor that several nodes read? Otherwise nothing can run in parallel."""
    return any(len(facts.consumers(o)) > 1 for n in facts.nodes for o in n.outputs if o)


def _picked(default: Choice, tried: Sequence[Tried]) -> list[Choice]:
    """The fastest that is measurably faster than the defaults; and the fastest of every kind at once, if there are
    several kinds that go together."""
    faster: dict[str, tuple[float, Choice]] = {}
    for t in tried:
        if t.comparison is not None and t.comparison.verdict == "faster":
            entry = (t.comparison.speedup, t.choice)
            faster[t.choice.kind] = max(faster.get(t.choice.kind, entry), entry, key=lambda e: e[0])
    if "threads" in faster and faster["threads"][1].target.threads == 1:
        faster.pop("spinning", None)  # one thread has none beside it to wait for
    if not faster:
        return []
    ranked = [choice for _, choice in sorted(faster.values(), key=lambda e: -e[0])]
    return ranked if len(ranked) == 1 else [ranked[0], together(default, ranked)]


def together(default: Choice, choices: Sequence[Choice]) -> Choice:
    """All of these settings at once."""
    target, settings = default.target, default.settings
    for picked in choices:
        if picked.target.threads != default.target.threads:
            target = replace(target, threads=picked.target.threads)
        target = replace(target, options={**target.options, **picked.target.options})
        settings = replace(settings, **_changed(picked.settings, default.settings))
    return Choice("together", ", ".join(c.label for c in choices), target, settings)


def _changed(settings: Settings, default: Settings) -> Mapping[str, Any]:
    names = ("level", "parallel", "arena", "spinning")
    return {n: getattr(settings, n) for n in names if getattr(settings, n) != getattr(default, n)}


def make(model: Model, choice: Choice, feeds: Feeds) -> Make:
    """Makes a fresh session of this choice, bound to the feeds."""
    return lambda: Session(model, choice.target, settings=choice.settings).runner(feeds)


def _measured(model: Model, contestants: Sequence[Choice], feeds: Feeds, plan: Plan) -> tuple[Comparison, ...]:
    """Each after the first against the first, in the same rounds."""

    def results(times: Any, error: float) -> tuple[Comparison, ...]:
        return comparisons([times[:, :, i] for i in range(times.shape[2])], plan, error)

    def judge(times: Any, error: float) -> tuple[bool, float]:
        found = results(times, error)
        return all(enough(r, plan) for r in found), max(r.width for r in found)

    samples: Samples = collect([make(model, c, feeds) for c in contestants], plan, judge)
    return results(samples.times, samples.error)


def code(model: str, choice: Choice) -> str:
    """Python lines that make this session of a model file."""
    settings, target = choice.settings, choice.target
    lines = ["import onnxruntime as ort", "", "options = ort.SessionOptions()"]
    if target.threads:
        lines.append(f"options.intra_op_num_threads = {target.threads}")
    if settings.level != "all":
        lines.append(
            f"options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_{settings.level.upper()}"
        )
    if settings.parallel:
        lines.append("options.execution_mode = ort.ExecutionMode.ORT_PARALLEL")
    if not settings.arena:
        lines.append("options.enable_cpu_mem_arena = False")
    if not settings.spinning:
        lines += [
            f'options.add_session_config_entry("session.{which}_op.allow_spinning", "0")'
            for which in ("intra", "inter")
        ]
    provider = repr(target.provider) if not target.options else repr((target.provider, dict(target.options)))
    providers = [provider] if target.provider == CPU else [provider, repr(CPU)]
    lines.append(f"session = ort.InferenceSession({model!r}, options, providers=[{', '.join(providers)}])")
    if target.cuda_graph:
        lines.append("# CUDA graph: bind inputs and outputs once with session.io_binding(), at fixed addresses")
    return "\n".join(lines)
