"""For authors of rules: one call that proves a rewrite, one that proves a refusal.

def test_fires():
    assert_rewrites("fold_pad", model_of('''
        g (float[N, 3, 9, 7] x) => (float[N, 4, H, W] y) <float[4, 3, 3, 3] w = random> {...}'''))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnxtune.apply import apply
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.feeds import cases
from onnxtune.localcheck import LocalVerdict, check_region
from onnxtune.model import Model
from onnxtune.proposal import Decline, Proposal
from onnxtune.propose import Said, propose
from onnxtune.ranges import Ranges
from onnxtune.region import extract
from onnxtune.rule import Rule
from onnxtune.runtime import Target
from onnxtune.sizes import bind
from onnxtune.verify import Verifier

Weights = Mapping[str, NDArray[Any]]


def model_of(text: str, weights: Weights | None = None, *, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A model from ONNX text (`name (inputs) => (outputs) { nodes }`) and its initializers by name.

    Raises onnx.checker.ValidationError when the result is not a valid model.
    """
    proto = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> {text}')
    stored = (numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items())
    proto.graph.initializer.extend(stored)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def rule_named(name: str, folders: Sequence[Path] = ()) -> Rule:
    return next(r for r in catalog(folders) if r.name == name)


def said_by(
    rule: str | Rule,
    proto: onnx.ModelProto,
    settings: Mapping[str, Any] | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    ranges: Ranges | None = None,
) -> list[Said]:
    """Everything that the rule proposes and declines on the model."""
    model = Model(proto)
    found = rule_named(rule) if isinstance(rule, str) else rule
    return propose(Facts(model, bind(model, sizes).sizes, ranges), [found], {found.name: dict(settings or {})})


def assert_rewrites(
    rule: str | Rule,
    proto: onnx.ModelProto,
    *,
    settings: Mapping[str, Any] | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    count: int | None = None,
    contains: Mapping[str, int] | None = None,
    local: bool = True,
    ranges: Ranges | None = None,
) -> list[onnx.ModelProto]:
    """The rule fires, and every proposal (all of them, one at a time) keeps the function.

    Checked: onnx.checker with full shape inference; ONNX Runtime at ORT_DISABLE_ALL and
    ORT_ENABLE_ALL on plain and extreme inputs (within declared `ranges`), batch 3 and other sizes where
    dynamic; the region in float64 (`local=False` where it cannot be evaluated). `count`: expected number of proposals;
    `contains`: operator -> how many the rewritten models must hold. Returns the rewritten models.
    """
    said = said_by(rule, proto, settings, sizes, ranges)
    proposals = [s for s in said if isinstance(s, Proposal)]
    assert proposals, f"nothing was proposed; declines: {[s.reason for s in said if isinstance(s, Decline)]}"
    assert count is None or len(proposals) == count, f"{len(proposals)} proposals, expected {count}"
    model = Model(proto)
    bound = bind(model, sizes).sizes
    facts = Facts(model, bound, ranges)
    verifier = Verifier(model, facts, cases(model, bound, ranges=ranges), Target(threads=1))
    assert not verifier.skipped, f"the original fails on: {verifier.skipped}"
    results = []
    for proposal in proposals:
        after = apply(model, [proposal])
        onnx.checker.check_model(after.proto, full_check=True)
        verdict = verifier.verify(after)
        assert verdict.ok, f"{proposal.title} {dict(proposal.settings)}: {verdict.reason}"
        found = _local(facts, proposal)
        assert found.ok is not False, f"{proposal.title} {dict(proposal.settings)}: {found.reason}"
        assert not local or found.ok, f"{proposal.title}: no local check ({found.reason}); pass local=False if so be it"
        for op_type, number in (contains or {}).items():
            have = sum(n.op_type == op_type for n in after.proto.graph.node)
            assert have == number, f"{proposal.title}: {have} {op_type}, expected {number}"
        results.append(after.proto)
    return results


def assert_declines(
    rule: str | Rule,
    proto: onnx.ModelProto,
    reason: str | None,
    *,
    settings: Mapping[str, Any] | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    ranges: Ranges | None = None,
) -> None:
    """The rule proposes nothing, and one of its reasons contains `reason` (None: it need not say one)."""
    said = said_by(rule, proto, settings, sizes, ranges)
    proposals = [s.title for s in said if isinstance(s, Proposal)]
    assert not proposals, f"it was rewritten: {proposals}"
    reasons = [s.reason for s in said if isinstance(s, Decline)]
    assert reason is None or any(reason in r for r in reasons), f"no reason contains '{reason}': {reasons}"


def _local(facts: Facts, proposal: Proposal) -> LocalVerdict:
    before = extract(facts, proposal.removes, proposal.reads)
    if before is None:
        return LocalVerdict(None, reason="the region cannot be cut out")
    return check_region(before, apply(before, [proposal]), ranges=facts.ranges)
