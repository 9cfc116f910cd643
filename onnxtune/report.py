"""What happened, as frozen values that can be written as JSON. Rendering is elsewhere."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxtune.comparison import Comparison
from onnxtune.profile import Profile
from onnxtune.proposal import Decline, ModelProposal, Proposal
from onnxtune.subgraph import Subgraph

SCHEMA = 1
Stage = Literal["measure", "select", "verify", "confirm"]
Status = Literal["faster", "nothing to gain", "already tuned", "forced", "smaller", "over budget", "unmeasured"]


@dataclass(frozen=True)
class Rewrite:
    """One rewrite in words: which rule, what changed, where."""

    rule: str
    title: str
    node: str
    nodes: int
    safety: str
    enabling: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for equal rewrites alone."""
        plain = (self.rule, self.title, self.node, self.nodes, self.safety, self.enabling)
        return json.dumps([*plain, self.settings, self.details])


@dataclass(frozen=True)
class Kept:
    """A rewrite in the result, with its measured effect on its region and the local check's error.

    `before` and `after`: the nodes that it took away and brought; None for a rewrite of the whole model.
    """

    rewrite: Rewrite
    comparison: Comparison | None
    error: float | None
    reason: str
    before: Subgraph | None = None
    after: Subgraph | None = None


@dataclass(frozen=True)
class Rejected:
    """A rewrite that was proposed and not kept: at which stage, and why."""

    rewrite: Rewrite
    stage: Stage
    reason: str
    comparison: Comparison | None = None


Outcome = Kept | Rejected | Decline


@dataclass(frozen=True)
class ModelSummary:
    """Size of a model: stored weight bytes, nodes, multiply-accumulates per inference, and the memory that one
    needs (`peak_bytes`: weights and the tensors alive at once)."""

    nodes: int
    weight_bytes: int
    macs: int
    operators: Mapping[str, int]
    peak_bytes: int = 0


@dataclass(frozen=True)
class Report:
    """Everything that `optimize` found and did.

    `profile_before` and `profile_after`: where the time of one inference goes, None where nothing was measured;
    only the first where the original came back. `reproduce`: the command or call that gives this report again, for
    the model whose graph has the hash `source_sha256`.
    """

    model: str
    status: Status
    before: ModelSummary
    after: ModelSummary
    comparison: Comparison | None
    outcomes: tuple[Outcome, ...]
    verification: Mapping[str, Any]
    notes: tuple[str, ...]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    calibration: Mapping[str, Any] | None = None
    profile_before: Profile | None = None
    profile_after: Profile | None = None
    reproduce: str = ""
    source_sha256: str = ""
    schema: int = SCHEMA

    @property
    def kept(self) -> tuple[Kept, ...]:
        return tuple(o for o in self.outcomes if isinstance(o, Kept))

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        return tuple(o for o in self.outcomes if isinstance(o, Rejected))

    @property
    def declined(self) -> tuple[Decline, ...]:
        return tuple(o for o in self.outcomes if isinstance(o, Decline))

    @property
    def speedup(self) -> float | None:
        """Ratio of median latencies, original over result, on the whole model.

        None when nothing was timed or the original came back (`comparison` is then that of the last
        attempt, which was not good enough).
        """
        return (
            self.comparison.speedup
            if self.comparison and self.status not in ("nothing to gain", "over budget")
            else None
        )

    def counts(self) -> Counter[str]:
        """How many rewrites each rule contributed."""
        return Counter(k.rewrite.rule for k in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: raw samples included, every outcome with its kind."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        plain["outcomes"] = [{"kind": type(o).__name__.lower(), **_plain(o)} for o in self.outcomes]
        plain["speedup"] = self.speedup
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `to_json`, as it ships with the package."""
    path = Path(__file__).with_name("schemas") / f"report-{SCHEMA}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def describe(proposal: Proposal | ModelProposal) -> Rewrite:
    """The report's words for a proposal."""
    where: tuple[str, int] = ("", 0)
    if isinstance(proposal, Proposal):
        where = (proposal.node, len(proposal.removes))
    return Rewrite(
        proposal.rule,
        proposal.title,
        *where,
        safety=proposal.safety,
        enabling=proposal.enabling,
        settings=dict(proposal.settings),
        details=dict(proposal.details),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Comparison):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**fields, "verdict": value.verdict}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value))
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
