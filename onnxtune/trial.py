"""Timing a proposal: its region before and after, or two whole models, with the cache in between."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from onnxtune.alike import signature
from onnxtune.apply import ApplyError, apply
from onnxtune.cache import Cache, measurement_key
from onnxtune.comparison import Comparison
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import Feeds, random_feeds
from onnxtune.mapped import mapped_bytes
from onnxtune.measure import Make, Plan, measure, warm
from onnxtune.model import Model, tensor_bytes
from onnxtune.proposal import Proposal
from onnxtune.region import extract, input_sizes, neighbourhood
from onnxtune.runtime import CPU, Session, Target, fused

LOG = logging.getLogger(__name__)
REGION_PLAN = Plan(warmup=0.02, rounds=5, duration=0.6, precision=0.02, patience=4, fewest=2)
ENABLING_PLAN = Plan(warmup=0.01, rounds=4, duration=0.15, precision=0.03)
"""For rewrites that ONNX Runtime mostly does itself: there are many, and they stay where others need them."""
LARGE = 2**28
"""Bytes of weights of which a second copy in memory is too much."""
MODEL_PLAN = Plan(warmup=0.1, rounds=6, duration=1.5, precision=0.02, fewest=2)
"""For a rewrite of the whole model, on its way."""
WIDE_PLAN = Plan(warmup=0.1, rounds=6, duration=5.0, precision=0.005, patience=2, fewest=2)
"""For a rewrite all over the model: it may save a small share of a long time."""
WIDE, WIDE_SHARE = 16, 0.125
"""Nodes that such a rewrite removes at least, and their share of all. It is timed on the whole model: what is around
its places, cut a node further on, would miss what ONNX Runtime makes of longer chains."""
CONFIRM_PLANS = (
    Plan(warmup=0.2, rounds=8, duration=4.0, precision=0.01, fewest=2),
    Plan(warmup=0.2, rounds=15, duration=8.0, precision=0.01, patience=2, fewest=3),
)
"""For the last word; the second where other work on the machine has blurred the first."""


class Trial(NamedTuple):
    """A comparison, or why there is none."""

    comparison: Comparison | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is timed, with what it is fed. `sizes`: of its inputs."""

    model: Model
    sizes: Mapping[str, tuple[int, ...]]
    feeds: Feeds
    target: Target

    @cached_property
    def make(self) -> Make:
        """Raises ModelError where it does not run."""
        return tried(self.model, self.target, self.feeds)

    def rival(self, model: Model) -> Subject:
        """Another model that is fed the same."""
        return replace(self, model=model)


Cut = dict[frozenset[str] | None, Subject | None]
"""Regions that were cut out of a model, by their nodes; None: the whole model, or that it cannot be cut."""


@dataclass(frozen=True, eq=False)
class Timer:
    """Measures on one target. After `deadline` (time.monotonic seconds) it declines to start.

    `failed`: what did not run, by measurement, and why; `wholes`: what was tried on the whole model, by `signature`.
    """

    target: Target
    cache: Cache
    seed: int = 0
    deadline: float = float("inf")
    failed: dict[str, str] = field(default_factory=dict)
    wholes: dict[str, Trial] = field(default_factory=dict)

    def region(self, facts: Facts, proposal: Proposal) -> Trial:
        """The proposal's effect on its region and nearest neighbours.

        Where these do not run on random inputs (a Reshape whose target comes from outside), it is timed
        on the region alone; where that cannot be cut out or run either, and where it changes nodes all over the model,
        on the whole model.
        """
        return next(self.regions(facts, [proposal]))

    def regions(self, facts: Facts, proposals: Iterable[Proposal]) -> Iterator[Trial]:
        """`region` of each; for those in a row that change the same nodes, these are cut out and loaded once."""
        for _, group in groupby(proposals, key=lambda p: (p.removes, p.reads)):
            cut: Cut = {}
            for proposal in group:
                yield self._region(facts, proposal, cut)

    def _region(self, facts: Facts, proposal: Proposal, cut: Cut) -> Trial:
        if len(proposal.removes) >= max(WIDE, WIDE_SHARE * len(facts.nodes)):
            return self._on_whole(facts, proposal, ENABLING_PLAN if proposal.enabling else WIDE_PLAN, cut)
        plan = ENABLING_PLAN if proposal.enabling else REGION_PLAN
        trial = Trial(None)
        for keys in (neighbourhood(facts, proposal.removes), proposal.removes):
            if keys not in cut:
                cut[keys] = self._baseline(facts, keys, proposal)
            baseline = cut[keys]
            if baseline is None:
                continue
            try:
                trial = self.against(baseline, baseline.rival(apply(baseline.model, [proposal])), plan)
            except ApplyError as error:
                return Trial(None, str(error))
            if trial.comparison is not None or time.monotonic() > self.deadline:
                return trial
        return self._on_whole(facts, proposal, plan, cut)

    def _on_whole(self, facts: Facts, proposal: Proposal, plan: Plan, cut: Cut) -> Trial:
        """On the whole model; of places that are alike, one is tried."""
        key = f"{signature(facts, proposal)} {plan.key} {time.monotonic() > self.deadline}"
        if key not in self.wholes:
            baseline = cut.get(None) or self._baseline(facts, None, proposal)
            assert baseline is not None, "a whole model needs no cutting"
            cut[None] = baseline
            try:
                self.wholes[key] = self.against(baseline, baseline.rival(apply(baseline.model, [proposal])), plan)
            except ApplyError as error:
                self.wholes[key] = Trial(None, str(error))
        return self.wholes[key]

    def _baseline(self, facts: Facts, keys: frozenset[str] | None, proposal: Proposal) -> Subject | None:
        model = facts.model if keys is None else extract(facts, keys, proposal.reads)
        if model is None:
            return None
        sizes = facts.sizes if keys is None else input_sizes(model)
        return Subject(model, sizes, random_feeds(model, sizes, self.seed), self.target)

    def latency(self, model: Model, sizes: Mapping[str, tuple[int, ...]]) -> float:
        """Seconds of the model's fastest inference out of a few. Raises ModelError when it does not run."""
        session, feeds = Session(model, self.target), random_feeds(model, sizes, self.seed)
        session.run(feeds)
        return warm(session.runner(feeds), MODEL_PLAN.warmup)

    def models(self, before: Model, after: Model, sizes: Mapping[str, tuple[int, ...]], plan: Plan) -> Trial:
        """A/B of two models with the same inputs, with an A/A control."""
        subject = self.subject(before, sizes)
        return self.against(subject, subject.rival(after), plan)

    def subject(self, model: Model, sizes: Mapping[str, tuple[int, ...]]) -> Subject:
        """The model with random inputs of these sizes."""
        return Subject(model, sizes, random_feeds(model, sizes, self.seed), self.target)

    def against(self, before: Subject, after: Subject, plan: Plan) -> Trial:
        """A/B of two models. Once measured, both stay loaded as far as they are LARGE, for another plan."""
        plan = replace(plan, seed=self.seed)
        key = measurement_key(before.model, after.model, before.sizes, self.target, plan)
        known = self.cache.get(key, plan)
        if known is not None:
            return Trial(known)
        if key in self.failed:
            return Trial(None, self.failed[key])
        if time.monotonic() > self.deadline:
            return Trial(None, "the time budget ran out before it was measured")
        try:
            result = measure(before.make, after.make, plan)
        except ModelError as error:
            self.failed[key] = str(error)
            return Trial(None, str(error))
        self.cache.put(key, result)
        return Trial(result)


def tried(model: Model, target: Target, feeds: Feeds) -> Make:
    """`fresh`, after one run has shown that the model works. One with LARGE weights is loaded once only, and in two
    steps: there is no room for copies, and all its sessions are one. Raises ModelError where it does not run."""
    large = tensor_bytes(model) > LARGE
    in_steps = large and target.provider == CPU and mapped_bytes(model.proto) > 0
    with fused(model, target) if in_steps else contextlib.nullcontext(model) as loaded:
        session = Session(loaded, target)
    session.run(feeds)
    if not large:
        return fresh(model, target, feeds)
    runner = session.runner(feeds)
    return lambda: runner


def fresh(model: Model, target: Target, feeds: Feeds) -> Make:
    """Makes a new session of the model, bound to the feeds, at every call."""
    return lambda: Session(model, target).runner(feeds)
