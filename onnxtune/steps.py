"""The rewrites taken so far, in order, and which of them stand on which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from onnxtune.comparison import Comparison
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.subgraph import Subgraph, before_and_after


@dataclass(frozen=True, eq=False)
class Step:
    """A proposal that was chosen, with its measured effect and the local check's error.

    `made` and `read` are the tensors that the removed nodes made and read; `drawn`: what was there and what came;
    `estimate`: where nothing is measured, the work that it saves (see `onnxtune.tune.estimate`).
    """

    proposal: Proposal
    comparison: Comparison | None
    made: frozenset[str]
    read: frozenset[str]
    error: float | None = None
    forced: bool = False
    estimate: float = 0.0
    drawn: tuple[Subgraph | None, Subgraph | None] = (None, None)

    @property
    def pays(self) -> bool:
        """Chosen for the time it saves (or because the user insists), not for what it enables."""
        measured = self.comparison is not None and self.comparison.verdict == "faster"
        return self.forced or measured or self.estimate > 0

    def settled(self, model: Model) -> Step:
        """With all new weights computed, and kept as this model keeps its own: the model that they were made from need
        not stay in memory."""
        fragment = self.proposal.fragment.settled(model.kept)
        return replace(self, proposal=replace(self.proposal, fragment=fragment))

    @property
    def saved(self) -> float:
        return self.comparison.saved if self.comparison else self.estimate


def step_of(facts: Facts, proposal: Proposal, comparison: Comparison | None, *, forced: bool = False) -> Step:
    """A step for a proposal that was made on these Facts."""
    nodes = [facts.by_key[key] for key in proposal.removes]
    made = frozenset(o for n in nodes for o in n.outputs if o)
    read = frozenset(i for n in nodes for i in (*n.inputs, *n.captured) if i)
    return Step(proposal, comparison, made, read, forced=forced, drawn=before_and_after(facts, proposal))


def dependants(steps: Sequence[Step], dropped: Collection[int]) -> set[int]:
    """Indices of the steps that cannot be applied without the dropped ones (those included)."""
    lost = set(dropped)
    for i, later in enumerate(steps):
        if any(_stands_on(later, steps[j]) for j in lost if j < i):
            lost.add(i)
    return lost


def _stands_on(later: Step, earlier: Step) -> bool:
    """It removes a node or reads a tensor that only the earlier one brought, or drops a tensor that
    others read before the earlier one. (A tensor that keeps its name is there in either case.)"""
    brought = earlier.proposal.fragment.tensors - earlier.made
    dropped = later.made - later.proposal.fragment.tensors
    return not (
        later.proposal.removes.isdisjoint(earlier.proposal.fragment.keys)
        and brought.isdisjoint(later.read | later.proposal.reads)
        and dropped.isdisjoint(earlier.read)
    )


def prune_enabling(steps: Sequence[Step]) -> set[int]:
    """Indices of enabling steps that save no time themselves and that nothing kept stands on."""
    dropped: set[int] = set()
    for i in reversed(range(len(steps))):
        step = steps[i]
        if step.pays or not step.proposal.enabling:
            continue
        if dependants(steps, {i}) - dropped == {i}:
            dropped.add(i)
    return dropped
