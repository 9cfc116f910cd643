"""The rewrites taken so far, in order, and which of them stand on which."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
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
    above = _standing_on(steps)
    lost, wave = set(dropped), list(dropped)
    while wave:
        fresh = above[wave.pop()] - lost
        lost |= fresh
        wave += fresh
    return lost


def _standing_on(steps: Sequence[Step]) -> list[set[int]]:
    """For each step the later ones that stand on it.

    These remove a node or read a tensor that only the earlier one brought, or drop a tensor that
    others read before the earlier one. (A tensor that keeps its name is there in either case.)
    """
    removes, reads, drops = _Index(), _Index(), _Index()
    for i, step in enumerate(steps):
        removes.add(i, step.proposal.removes)
        reads.add(i, step.read | step.proposal.reads)
        drops.add(i, step.made - step.proposal.fragment.tensors)
    return [
        removes.after(i, step.proposal.fragment.keys)
        | reads.after(i, step.proposal.fragment.tensors - step.made)
        | drops.after(i, step.read)
        for i, step in enumerate(steps)
    ]


class _Index:
    """Which steps, in order, have a name."""

    def __init__(self) -> None:
        self._found: dict[str, list[int]] = {}

    def add(self, step: int, names: Iterable[str]) -> None:
        for name in names:
            self._found.setdefault(name, []).append(step)

    def after(self, step: int, names: Iterable[str]) -> set[int]:
        """Steps after this one that have one of the names."""
        lists = (self._found.get(name, []) for name in names)
        return {i for found in lists for i in found[bisect_right(found, step) :]}


def prune_enabling(steps: Sequence[Step]) -> set[int]:
    """Indices of enabling steps that save no time themselves and that nothing kept stands on."""
    above = _standing_on(steps)
    dropped: set[int] = set()
    for i in reversed(range(len(steps))):
        step = steps[i]
        if not step.pays and step.proposal.enabling and above[i] <= dropped:
            dropped.add(i)
    return dropped
