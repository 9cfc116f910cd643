"""Which late rewrites are taken: the fastest on their regions, unless lighter ones are faster in the whole model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from outcomes import saving

from onnxtune import optimize
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.propose import propose
from onnxtune.sizes import bind
from onnxtune.steps import Step, step_of
from onnxtune.testing import model_of
from onnxtune.trial import Timer, Trial
from onnxtune.tune.rounds import best_of

LATE = [r for r in catalog(plugins=False) if r.name == "winograd_conv"]
TEXT = """g (float[N, 32, 12, 12] x) => (float[N, 32, 12, 12] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  y = Conv <pads = [1, 1, 1, 1]> (a, v)
}"""


def network() -> Model:
    rng = np.random.default_rng(0)
    return Model(model_of(TEXT, {n: rng.standard_normal((32, 32, 3, 3)).astype(np.float32) for n in "wv"}))


def saves(proposal: Proposal) -> float:
    """Along both axes the most, for twice the weights."""
    return 0.3 if proposal.title.count("along") == 2 else 0.25


def steps() -> list[Step]:
    model = network()
    facts = Facts(model, bind(model).sizes)
    proposals = [p for p in propose(facts, LATE, {}) if isinstance(p, Proposal)]
    assert len(proposals) == 4
    return [step_of(facts, p, saving(saves(p))) for p in proposals]


def axes(chosen: list[int], good: list[Step]) -> list[int]:
    return [good[i].proposal.title.count("along") for i in chosen]


def test_weights_that_cost_time_are_weighed_against_what_is_saved() -> None:
    good = steps()
    light, heavy = (min(x, key=lambda s: s.proposal.fragment.nbytes) for x in (good[::2], good[1::2]))
    more = heavy.proposal.fragment.nbytes - light.proposal.fragment.nbytes
    assert axes(best_of(good), good) == [2, 2]
    assert axes(best_of(good, 0.04 / more), good) == [2, 2]
    assert axes(best_of(good, 0.06 / more), good) == [1, 1]
    assert best_of(good, 1.0) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("ratio", "wanted"), [(1.1, 1), (0.9, 2)])
def test_the_whole_model_has_the_last_word(monkeypatch: pytest.MonkeyPatch, ratio: float, wanted: int) -> None:
    """`ratio`: how much faster the lighter set is in the whole model."""

    class Clock(Timer):
        def region(self, facts: Facts, proposal: Proposal) -> Trial:
            return Trial(saving(saves(proposal)))

        def models(self, *arguments: Any) -> Trial:
            return Trial(saving(1 - 1 / ratio))

        def against(self, *arguments: Any) -> Trial:
            return Trial(saving(0.5))

        def latency(self, *arguments: Any) -> float:
            return 1.0

    light = [s for s in steps() if s.proposal.title.count("along") == 1]
    heavy = [s for s in steps() if s.proposal.title.count("along") == 2]
    more = heavy[0].proposal.fragment.nbytes - light[0].proposal.fragment.nbytes
    monkeypatch.setattr("onnxtune.tune.run.Timer", Clock)
    monkeypatch.setattr("onnxtune.tune.late_rules.PRICES", (0.06 / more,))
    heard: list[Any] = []
    result = optimize(
        network().proto, only=("winograd_conv",), threads=1, providers="cpu", cache=False, plugins=False,
        decide=heard.append,
    )  # fmt: skip
    titles = [k.rewrite.title for k in result.report.kept]
    assert [t.count("along") for t in titles] == [wanted, wanted]
    assert any("weigh less" in str(h) for h in heard)
