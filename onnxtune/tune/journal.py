"""Every decision of a run, as the report will show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from onnxtune.compare import Comparison
from onnxtune.proposal import Decline, ModelProposal, Proposal
from onnxtune.report import Outcome, Rejected, Stage, describe


@dataclass(eq=False)
class Journal:
    """`outcomes` so far (what is kept is added in the end), and what need not be tried again."""

    outcomes: list[Outcome] = field(default_factory=list)
    _refused: set[tuple[str, str, str]] = field(default_factory=set)

    def decline(self, declines: Iterable[Decline]) -> None:
        """Note declines, each once."""
        known = {o for o in self.outcomes if isinstance(o, Decline)}
        self.outcomes += dict.fromkeys(d for d in declines if d not in known)

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
