"""The rewrites taken so far, in order, and which of them stand on which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnxtune.compare import Comparison
from onnxtune.proposal import Proposal


@dataclass(frozen=True, eq=False)
class Step:
    """A proposal that was chosen, with its measured effect and the local check's error."""

    proposal: Proposal
    comparison: Comparison | None
    error: float | None = None
    forced: bool = False

    @property
    def pays(self) -> bool:
        """Chosen for the time it saves (or because the user insists), not for what it enables."""
        return self.forced or (self.comparison is not None and self.comparison.verdict == "faster")

    @property
    def saved(self) -> float:
        return self.comparison.saved if self.comparison else 0.0


def dependants(steps: Sequence[Step], dropped: Collection[int]) -> set[int]:
    """Indices of the steps that cannot be applied without the dropped ones (those included).

    A step stands on an earlier one when it removes a node or reads a tensor that the earlier one made.
    """
    lost = set(dropped)
    made: dict[str, int] = {}
    for i, step in enumerate(steps):
        needs = {made[name] for name in step.proposal.removes | step.proposal.reads if name in made}
        if needs & lost:
            lost.add(i)
        made.update(dict.fromkeys(step.proposal.fragment.tensors, i))
    return lost


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
