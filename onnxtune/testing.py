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
from onnxtune.exactness import dyadic, impulses, integer_feeds, integer_model, reference
from onnxtune.facts import Facts
from onnxtune.feeds import Feeds, cases, random_feeds
from onnxtune.localcheck import SINGLE_MARGIN, WEIGHT_ROUNDING, LocalVerdict, check_region, relative
from onnxtune.model import Model
from onnxtune.proposal import Decline, Proposal
from onnxtune.propose import Said, propose
from onnxtune.ranges import Ranges
from onnxtune.region import extract
from onnxtune.rule import Rule
from onnxtune.runtime import CPU, Session, Target
from onnxtune.sizes import bind
from onnxtune.verify import UNIT_ROUNDOFF, Verifier

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
    proposals = _proposals(rule, proto, settings, sizes, ranges)
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


def assert_exact_on_integers(
    rule: str | Rule,
    proto: onnx.ModelProto,
    *,
    settings: Mapping[str, Any] | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Every proposal is right to the last bit where arithmetic has no rounding.

    The model's weights and inputs become small integers and powers of two (`exactness.integer_model`); the
    rule must still fire. Equal bits are asked for in ONNX Runtime at ORT_DISABLE_ALL, at the declared
    sizes, batch 3 and others where dynamic, and in onnx's float64 reference where that is right. Fails,
    too, when the model itself is not free of rounding (averages over 9, a Sigmoid): then it proves nothing.
    """
    whole = integer_model(proto)
    proposals = _proposals(rule, whole, settings, sizes)
    model, rng = Model(whole), np.random.default_rng(0)
    shapes = {tuple(a.shape for a in c.feeds.values()): c.feeds for c in cases(model, bind(model, sizes).sizes)}
    feeds = [integer_feeds(f, rng) for f in shapes.values()]
    want = _run(model, feeds)
    assert all(dyadic(y) for outputs in want for y in outputs), (
        "the model itself rounds: use weights, averages and operators that integers allow"
    )
    wide = reference(whole, feeds[0])  # knows BatchNormalization of opsets 7 to 13 in training mode only
    known = wide is not None and _same(want[0], wide)
    for proposal in proposals:
        after, named = apply(model, [proposal]), f"{proposal.title} {dict(proposal.settings)}"
        for given, expected, got in zip(feeds, want, _run(after, feeds), strict=True):
            shown = {n: list(a.shape) for n, a in given.items()}
            assert _same(expected, got), f"{named}: not equal on integers, inputs {shown}: {_where(expected, got)}"
        double = reference(after.proto, feeds[0]) if known else want[0]
        assert double is not None, f"{named}: onnx's reference cannot run the rewrite"
        assert _same(want[0], double), f"{named}: not equal on integers in float64: {_where(want[0], double)}"


def assert_affine_equal(
    rule: str | Rule,
    proto: onnx.ModelProto,
    *,
    settings: Mapping[str, Any] | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Every proposal is the same affine function of each floating-point input (N, C, positions...).

    Compared at 0 and at impulses of random channel vectors at all positions, which is a complete test of
    the size at hand: choose one with H != W that holds all classes of borders and the inside, H and W at
    least 2 (K - 1) + stride + 1. Other inputs are random and fixed. Fails, too, when the model is not affine.
    """
    proposals = _proposals(rule, proto, settings, sizes)
    model, rng = Model(proto), np.random.default_rng(0)
    plain = random_feeds(model, bind(model, sizes).sizes)
    names = [n for n, a in plain.items() if a.dtype.kind == "f" and a.ndim > 2]
    assert names, "the model has no input with a map"
    assert all(len(set(plain[n].shape[2:])) == plain[n].ndim - 2 for n in names), "choose sizes with H != W"
    afters = [apply(model, [p]) for p in proposals]
    for name in names:
        feeds = list(impulses(plain, name, rng))
        want = _run(model, feeds)
        allowed = SINGLE_MARGIN * WEIGHT_ROUNDING * UNIT_ROUNDOFF[plain[name].dtype.name]
        for i, rows in enumerate(zip(*want, strict=True)):
            zero, *single, every = (np.asarray(r, np.float64) for r in rows)
            total = zero - 2 * sum(s - zero for s in single)
            assert relative(every, total) <= allowed, f"output {i} is not affine in '{name}'"
        for proposal, after in zip(proposals, afters, strict=True):
            for before, got in zip(zip(*want, strict=True), zip(*_run(after, feeds), strict=True), strict=True):
                stacked = (np.stack(v, min(2, v[0].ndim)).astype(np.float64) for v in (before, got))
                error = relative(*stacked)
                named = f"{proposal.title} {dict(proposal.settings)}"
                assert error <= allowed, f"{named}: another affine function of '{name}' (error {error:.2g})"


def _proposals(
    rule: str | Rule,
    proto: onnx.ModelProto,
    settings: Mapping[str, Any] | None,
    sizes: Mapping[str, tuple[int, ...]] | None,
    ranges: Ranges | None = None,
) -> list[Proposal]:
    said = said_by(rule, proto, settings, sizes, ranges)
    proposals = [s for s in said if isinstance(s, Proposal)]
    assert proposals, f"nothing was proposed; declines: {[s.reason for s in said if isinstance(s, Decline)]}"
    return proposals


def _run(model: Model, feeds: Sequence[Feeds]) -> list[list[NDArray[Any]]]:
    """Outputs for each of the feeds, ONNX Runtime without optimisations."""
    session = Session(model, Target(CPU, {}, 1), "disable")
    return [list(session.run(f).values()) for f in feeds]


def _same(want: Sequence[NDArray[Any]], have: Sequence[NDArray[Any]]) -> bool:
    return all(np.array_equal(w, h) for w, h in zip(want, have, strict=True))


def _where(want: Sequence[NDArray[Any]], have: Sequence[NDArray[Any]]) -> str:
    """The first difference, in words."""
    for i, (w, h) in enumerate(zip(want, have, strict=True)):
        if w.shape != h.shape:
            return f"output {i} has shape {h.shape}, was {w.shape}"
        if not np.array_equal(w, h):
            place = tuple(int(a[0]) for a in np.nonzero(w != h))
            return f"output {i}{list(place)} is {h[place]:g}, was {w[place]:g} ({np.count_nonzero(w != h)} differ)"
    return "nowhere"


def _local(facts: Facts, proposal: Proposal) -> LocalVerdict:
    before = extract(facts, proposal.removes, proposal.reads)
    if before is None:
        return LocalVerdict(None, reason="the region cannot be cut out")
    return check_region(before, apply(before, [proposal]), ranges=facts.ranges)
