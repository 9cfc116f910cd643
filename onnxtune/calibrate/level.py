"""One way to approximate a layer, more or less radical: what a calibrated rule offers.

A level is built *unfitted* first, with the right shapes and random weights, so that its latency is known before
anything is fitted; levels that are not faster never are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.layer import Layer
from onnxtune.proposal import Fragment, Proposal


@dataclass(frozen=True, eq=False)
class Fitted:
    """A level with its weights. `error`: relative root mean square error of the layer's output on the fit's data."""

    proposal: Proposal
    error: float


Look = Callable[[Layer, Proposal | None], Evidence]
"""What is seen of a layer, in the network as it is or with one more rewrite in it."""


@dataclass(frozen=True, eq=False)
class Level:
    """`fit(evidence, rough)` computes the weights from what was seen of the layer; it must not change any argument.
    `rough`: a first answer will do, to tell good levels from bad ones.

    Where several layers get new weights, `layer` is the first of them and `joint(look, rough)` takes the place of
    `fit`: it looks at each of them as often as it needs to.

    `settings` tells the levels of one rule apart (form, mid channels, rank...) and is what reports show.
    """

    rule: str
    layer: Layer
    title: str
    unfitted: Proposal
    fit: Callable[[Evidence, bool], Fitted]
    settings: Mapping[str, Any] = field(default_factory=dict)
    macs: int = 0
    """Multiply-accumulates per inference of what the level computes."""
    full_macs: int = 0
    """Those of the layer itself."""
    joint: Callable[[Look, bool], Fitted] | None = None
    parts: tuple[Any, ...] = ()
    together: Callable[[Sequence[Any]], Level] | None = None
    """Of the parts of several levels of its rule whose regions overlap it makes one level; None: it cannot."""
    kind: str = ""
    """Levels of one layer are told by their errors within one kind only: what low rank leaves out of a head matters
    less to the classes than as large an error of pooling, for instance."""
    again: Callable[[Evidence, Fragment], Fitted] | None = None
    """A thorough fit that goes on from what one to similar data has come to; None: each starts afresh."""

    def fitted(self, look: Look, rough: bool, near: Fragment | None = None) -> Fitted:
        """The level with its weights, by what `look` shows. `near`: from a fit to similar data, if the level can go on
        from one."""
        if near is not None and self.again is not None:
            return self.again(look(self.layer, None), near)
        return self.fit(look(self.layer, None), rough) if self.joint is None else self.joint(look, rough)

    @property
    def family(self) -> str:
        """Levels that differ in size only: the rule's, of one form where it has several."""
        return f"{self.rule} {self.settings.get('form', '')}"

    @property
    def share(self) -> float:
        return self.macs / max(self.full_macs, 1)

    @property
    def identity(self) -> str:
        return f"{self.rule}|{self.layer.key}|{sorted(self.settings.items())!r}"


def combinable(first: Level, second: Level) -> bool:
    """Can the two be in one set though their regions overlap?"""
    return first.rule == second.rule and first.layer.key != second.layer.key and first.together is not None
