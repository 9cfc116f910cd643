"""What late rewrites would save on top of a calibrated level: on the nodes that it brings, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from outcomes import saving

from onnxtune.calibrate.level import Level
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.propose import propose_levels
from onnxtune.sizes import bind
from onnxtune.testing import model_of
from onnxtune.trial import Trial
from onnxtune.tune.on_top import on_top

RULES = {r.name: r for r in catalog(plugins=False)}
LATE = [RULES["winograd_conv"]]
TEXT = """g (float[N, 16, 15, 13] x) => (float[N, 32, 15, 13] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = Relu (a)
  c = Conv <pads = [2, 2, 2, 2]> (b, v)
  y = Conv <pads = [1, 1, 1, 1]> (c, u)
}"""


class Clock:
    """In place of a timer: every rewrite saves so many seconds, or is slower."""

    def __init__(self, saved: float) -> None:
        self.saved = saved
        self.titles: list[str] = []

    def regions(self, facts: Facts, proposals: Sequence[Proposal]) -> Iterator[Trial]:
        for proposal in proposals:
            self.titles.append(proposal.title)
            yield Trial(saving(self.saved))


def levels(rule: str, **settings: Any) -> tuple[Facts, list[Level]]:
    rng = np.random.default_rng(0)
    shapes = {"w": (32, 16, 3, 3), "v": (32, 32, 5, 5), "u": (32, 32, 3, 3)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = Model(model_of(TEXT, weights))
    facts = Facts(model, bind(model).sizes)
    said = propose_levels(facts, [RULES[rule]], {rule: {"ratios": [0.5], **settings}})
    return facts, [s for s in said if isinstance(s, Level)]


def test_the_layers_of_a_stack_are_timed_with_late_rewrites_and_their_neighbours_are_not() -> None:
    facts, found = levels("stack_3x3")
    level = next(s for s in found if "5x5" in s.title)
    clock: Any = Clock(0.25)
    saved = on_top(clock, facts, level, LATE, {})
    assert len(clock.titles) == 4  # two layers, each along one axis or both
    assert all("Conv 3x3" in t for t in clock.titles)
    assert saved == 0.5  # one of each layer


def test_what_does_not_pay_counts_nothing() -> None:
    facts, found = levels("stack_3x3")
    for saved in (0.0, -0.5):
        clock: Any = Clock(saved)
        assert on_top(clock, facts, found[0], LATE, {}) == 0
        assert clock.titles


def test_layers_that_no_late_rule_takes_are_not_timed() -> None:
    facts, found = levels("cp_conv")
    clock: Any = Clock(0.25)
    assert found
    assert all(on_top(clock, facts, level, LATE, {}) == 0 for level in found)
    assert not clock.titles
    assert on_top(clock, facts, found[0], [], {}) == 0
