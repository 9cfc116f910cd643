"""Every decision of a run, as the report will show it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from onnxtune.comparison import Comparison
from onnxtune.proposal import Decline, ModelProposal, Proposal
from onnxtune.propose import TIME_UP
from onnxtune.report import Kept, Rejected, Stage, describe
from onnxtune.steps import Step
from onnxtune.tune.options import DecideFunction
from onnxtune.tune.wording import why_kept

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Journal:
    """What was said and refused so far (what is kept is added in the end), and what need not be tried again. `decide`
    hears of each decision when it falls."""

    barred: set[str] = field(default_factory=set)
    """Rules that did not end in time: they are not asked again."""
    decide: DecideFunction = lambda decision: None
    _refused: set[tuple[str, str, str]] = field(default_factory=set)
    _outcomes: dict[Hashable, Rejected | Decline] = field(default_factory=dict)

    @property
    def outcomes(self) -> list[Rejected | Decline]:
        """In the order in which the last word on each fell."""
        return list(self._outcomes.values())

    def decline(self, declines: Iterable[Decline]) -> None:
        """Note declines, each once."""
        fresh = dict.fromkeys(d for d in declines if d not in self._outcomes)
        self._outcomes.update((d, d) for d in fresh)
        self.barred |= {d.rule for d in fresh if TIME_UP in d.reason}
        for decline in fresh:
            failed = TIME_UP in decline.reason or " failed (" in decline.reason
            level = logging.WARNING if failed else logging.DEBUG
            LOG.log(level, "%s at '%s': %s", decline.rule, decline.node, decline.reason)
            self.decide(decline)

    def reject(
        self,
        proposal: Proposal | ModelProposal,
        stage: Stage,
        reason: str,
        comparison: Comparison | None = None,
        *,
        last: bool = True,
    ) -> None:
        """Note a rewrite as not kept; `last`: do not try it again in later rounds."""
        LOG.info("%s: %s is not kept (%s: %s)", proposal.rule, proposal.title, stage, reason)
        self.add(Rejected(describe(proposal), stage, reason, comparison))
        if last and isinstance(proposal, Proposal):
            self._refused.add(_identity(proposal))

    def add(self, outcome: Rejected) -> None:
        """Note a rewrite as not kept, in place of what was said of it before."""
        key = outcome.rewrite.key
        self._outcomes.pop(key, None)
        self._outcomes[key] = outcome
        self.decide(outcome)

    def take(self, steps: Iterable[Step]) -> None:
        """Tell of rewrites that are kept for the time being."""
        for step in steps:
            self.decide(Kept(describe(step.proposal), step.comparison, step.error, why_kept(step)))

    def refused(self, proposal: Proposal) -> bool:
        return _identity(proposal) in self._refused


def _identity(proposal: Proposal) -> tuple[str, str, str]:
    return proposal.rule, repr(sorted(proposal.removes)), repr(sorted(proposal.settings.items()))
