"""Every decision of a run, as the report will show it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from onnxtune.compare import Comparison
from onnxtune.proposal import Decline, ModelProposal, Proposal
from onnxtune.propose import TIME_UP
from onnxtune.report import Outcome, Rejected, Stage, describe

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Journal:
    """`outcomes` so far (what is kept is added in the end), and what need not be tried again."""

    outcomes: list[Outcome] = field(default_factory=list)
    barred: set[str] = field(default_factory=set)
    """Rules that did not end in time: they are not asked again."""
    _refused: set[tuple[str, str, str]] = field(default_factory=set)

    def decline(self, declines: Iterable[Decline]) -> None:
        """Note declines, each once."""
        known = {o for o in self.outcomes if isinstance(o, Decline)}
        new = dict.fromkeys(d for d in declines if d not in known)
        self.outcomes += new
        for decline in new:
            failed = TIME_UP in decline.reason or " failed (" in decline.reason
            LOG.log(
                logging.WARNING if failed else logging.DEBUG,
                "%s at '%s': %s",
                decline.rule,
                decline.node,
                decline.reason,
            )
        self.barred |= {d.rule for d in new if TIME_UP in d.reason}

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
        self.outcomes = [o for o in self.outcomes if not (isinstance(o, Rejected) and o.rewrite == outcome.rewrite)]
        self.outcomes.append(outcome)

    def refused(self, proposal: Proposal) -> bool:
        return _identity(proposal) in self._refused


def _identity(proposal: Proposal) -> tuple[str, str, str]:
    return proposal.rule, repr(sorted(proposal.removes)), repr(sorted(proposal.settings.items()))
