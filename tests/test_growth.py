"""Work grows with the nodes of a network, not with their square: counted, not timed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxtune.draft
import onnxtune.runtime
import onnxtune.select
import onnxtune.shapes
import onnxtune.trial
import onnxtune.tune.rounds
from benchmarks.growth_models import MODELS, deep
from onnxtune import Result, optimize
from onnxtune.alike import signature
from onnxtune.apply import apply
from onnxtune.cache import Cache
from onnxtune.comparison import Comparison
from onnxtune.facts import Facts
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.proposal import Fragment, Proposal
from onnxtune.propose import _breach
from onnxtune.runtime import Target
from onnxtune.select import select
from onnxtune.sizes import bind
from onnxtune.steps import Step, dependants, prune_enabling
from onnxtune.testing import model_of, said_by
from onnxtune.trial import CONFIRM_PLANS, Timer
from onnxtune.verify import Verifier

FEW, MANY = 300, 900
SLACK = 1.15
"""How much faster than the nodes counted work may grow: ends of the network, and where the last period is cut."""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is done in a test: nodes that pass through shape inference, sessions, indices and splicing, and how many
    sessions are made of models of more than 100 nodes."""
    done: Counter[str] = Counter()

    def spy(owner: Any, name: str, count: Callable[..., Mapping[str, int]]) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            done.update(count(*arguments))
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    spy(onnxtune.shapes, "_run", lambda bare: {"inferred": len(bare.graph.node)})
    spy(Facts, "__init__", lambda self, model, *rest: {"indexed": len(model.proto.graph.node)})
    spy(onnxtune.draft.Draft, "_put", lambda *rest: {"put": 1})
    size = lambda self, model, *rest: len(model.proto.graph.node)  # noqa: E731
    spy(
        onnxtune.runtime.Session,
        "__init__",
        lambda *a: {"loaded": size(*a), "sessions": 1, "large sessions": int(size(*a) > 100)},
    )
    return done


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every comparison says that the rewrite is faster; the plans of those that were asked for."""
    asked: list[Plan] = []

    def measure(before: Any, after: Any, plan: Plan) -> Comparison:
        asked.append(plan)
        one = np.full(4, 1e-3)
        return Comparison(one * 1.5, one, 1.5, 1.49, 1.51, 0.0, 0.99)

    monkeypatch.setattr(onnxtune.trial, "measure", measure)
    monkeypatch.setattr("onnxtune.profile.SECONDS", 0.0)
    return asked


def tuned(proto: onnx.ModelProto, **options: Any) -> Result:
    return optimize(proto, providers="cpu", threads=1, plugins=False, cache=False, **options)


def grown(done: Counter[str], first: Mapping[str, int], what: str) -> float:
    return (done[what] - first[what]) / first[what]


@pytest.mark.parametrize("kind", ["deep", "crowded"])
def test_a_whole_run_without_measuring(kind: str, work: Counter[str]) -> None:
    few = tuned(MODELS[kind](FEW), measure=False)
    first = dict(work)
    many = tuned(MODELS[kind](MANY), measure=False)
    more = many.report.before.nodes / few.report.before.nodes
    assert len(many.report.kept) > 2 * len(few.report.kept) > 100
    for what in ("inferred", "indexed", "put", "loaded"):
        assert grown(work, first, what) < SLACK * more, f"{what} grow faster than the nodes: {first} then {work}"
    assert work["large sessions"] == 2 * first["large sessions"], "whole models are loaded as often"


def test_alike_places_are_measured_once(work: Counter[str], measured: list[Plan]) -> None:
    few = tuned(deep(FEW), exact_only=True)
    first, comparisons = dict(work), len(measured)
    many = tuned(deep(MANY), exact_only=True)
    more = many.report.before.nodes / few.report.before.nodes
    assert len(many.report.kept) > 2 * len(few.report.kept)
    assert len(measured) - comparisons < 1.2 * comparisons
    for what in ("inferred", "indexed", "put"):
        assert grown(work, first, what) < SLACK * more, f"{what} grow faster than the nodes: {first} then {work}"


REGION_GAIN = 1.5
"""What every region is said to gain in the tests of the last gate, whose whole models gain nothing."""


def confirmed(monkeypatch: pytest.MonkeyPatch, budget: float, seconds: float, latency: float) -> tuple[int, Result]:
    """How many whole models are compared where none gets faster and each comparison takes so many seconds."""
    compared: list[float] = [0.0]
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(compared))

    def measure(before: Any, after: Any, plan: Plan) -> Comparison:
        one = np.full(4, 1e-3)
        if plan not in CONFIRM_PLANS:
            return Comparison(one * REGION_GAIN, one, REGION_GAIN, 1.49, 1.51, 0.0, 0.99)
        compared.append(seconds)
        return Comparison(one, one, 1.0, 0.999, 1.001, 0.0, 0.99)

    monkeypatch.setattr(onnxtune.trial, "measure", measure)
    monkeypatch.setattr(Timer, "latency", lambda *rest: latency)
    result = tuned(deep(FEW), exact_only=True, time_budget=budget)
    return len(compared) - 1, result


def test_smaller_sets_are_confirmed_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`deep` with 300 nodes has some 80 rewrites: halved to one, these are seven sets."""
    tried, result = confirmed(monkeypatch, 500.0, 1.0, 1e-9)
    assert 6 <= tried <= 9
    assert result.report.status == "nothing to gain"
    assert not result.report.kept


def test_slow_comparisons_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, result = confirmed(monkeypatch, 500.0, 200.0, 1e-9)
    assert tried == 3, "the third ends after the 500 s"
    assert result.report.status == "nothing to gain"
    said = [r.reason for r in result.report.rejected if r.stage == "confirm"]
    assert any("smaller sets were not tried, the time budget is over" in r for r in said)
    assert any("smaller sets" not in r for r in said), "the worse halves were tried"


def test_sets_that_can_save_too_little_are_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each region saves 0.5 ms: of a model of 2 s forty are 1 %, half of what --min-speedup asks for."""
    tried, result = confirmed(monkeypatch, 500.0, 1.0, 2.0)
    assert 1 <= tried <= 3
    assert any("too little to tell" in r.reason for r in result.report.rejected)


WRONG = """
name = "{name}"
code = "T001"
summary = "s"
why = "w"
[pattern]
graph = "p (x) => (z) {{ z = {op} (x) }}"
"""
CODE = """
import numpy as np

def rewrite(match, new, settings):
    return {made}
"""
RULES = (
    ("wrong", "Tanh", 'new.Erf(match["x"])'),
    ("right", "Sigmoid", 'new.Reciprocal(new.Add(new.Exp(new.Neg(match["x"])), np.float32(1)))'),
)


def verifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: int) -> tuple[int, Result]:
    """How many times a network was verified in which a rule is wrong at so many places, and another is right."""
    monkeypatch.setattr(onnxtune.tune.rounds, "_local", lambda facts, proposal, seed: (None, ""))
    for name, op, made in RULES:
        (tmp_path / f"{name}.toml").write_text(WRONG.format(name=name, op=op))
        (tmp_path / f"{name}.py").write_text(CODE.format(made=made))
    branches = [f"a{i} = Tanh (x) b{i} = Sigmoid (x)" for i in range(places)]
    joined = ", ".join(f"a{i}, b{i}" for i in range(places))
    proto = model_of(
        f"g (float[2, 3] x) => (float[2, {6 * places}] y) {{ {' '.join(branches)} y = Concat <axis = 1> ({joined}) }}"
    )
    calls: list[Model] = []
    original = Verifier.verify

    def verify(self: Verifier, candidate: Model) -> Any:
        calls.append(candidate)
        return original(self, candidate)

    monkeypatch.setattr(Verifier, "verify", verify)
    names = ("wrong", "right")
    result = tuned(proto, only=names, force_rules=names, rules=(tmp_path,), time_budget=0)
    monkeypatch.setattr(Verifier, "verify", original)
    return len(calls), result


def test_a_rule_that_is_wrong_everywhere_costs_few_verifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, _ = verifications(tmp_path, monkeypatch, 8)
    many, result = verifications(tmp_path, monkeypatch, 64)
    assert many <= few + 5 * 3, "three more halvings for each of the few that are looked for"
    assert result.report.counts() == {"right": 64}
    reasons = Counter("other places" in r.reason for r in result.report.rejected)
    assert reasons[True] + reasons[False] == 64
    assert 1 <= reasons[False] <= 5, "those that were found one by one"


# --- the parts --------------------------------------------------------------------------------------------


def chain(places: int) -> tuple[Model, list[Proposal]]:
    lines = " ".join(f"a{i} = Identity (b{i - 1}) b{i} = Relu (a{i})" for i in range(1, places + 1))
    model = Model(model_of(f"g (float[4] b0) => (float[4] y) {{ {lines} y = Exp (b{places}) }}"))
    found = [
        Proposal("rule", "", frozenset((f"a{i}",)), Fragment((), aliases={f"a{i}": f"b{i - 1}"}))
        for i in range(1, places + 1)
    ]
    return model, found


def test_splicing_costs_what_the_rewrite_is_large(work: Counter[str]) -> None:
    for places in (50, 150):
        model, found = chain(places)
        work.clear()
        after = apply(model, found)
        assert [n.op_type for n in after.proto.graph.node] == ["Relu"] * places + ["Exp"]
        assert work["put"] == len(model.proto.graph.node) + places, "each reader of an alias is written once more"


def test_places_apart_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []
    monkeypatch.setattr(onnxtune.select, "overlap", lambda a, b: compared.append(a))
    _, found = chain(50)
    assert select(found, [1.0] * 50) == list(range(50))
    assert not compared


def test_many_places_in_each_others_way() -> None:
    """Beyond the exact limit: a chain of pairs, of which every second one fits."""
    found = [Proposal("rule", "", frozenset((f"a{i}", f"a{i + 1}")), Fragment(())) for i in range(60)]
    assert select(found, [1.0 + (i % 2 == 0) for i in range(60)]) == list(range(0, 60, 2))


def stands_on(later: Step, earlier: Step) -> bool:
    """As `dependants` says it."""
    brought = earlier.proposal.fragment.tensors - earlier.made
    dropped = later.made - later.proposal.fragment.tensors
    return bool(
        later.proposal.removes & earlier.proposal.fragment.keys
        or brought & (later.read | later.proposal.reads)
        or dropped & earlier.read
    )


def naive_dependants(steps: list[Step], dropped: set[int]) -> set[int]:
    lost = set(dropped)
    for i, later in enumerate(steps):
        if any(stands_on(later, steps[j]) for j in lost if j < i):
            lost.add(i)
    return lost


names = st.frozensets(st.sampled_from("abcdefgh"), min_size=1, max_size=3)


@st.composite
def step(draw: st.DrawFn) -> Step:
    made = sorted(draw(names))
    nodes = tuple(onnx.helper.make_node("Relu", [draw(st.sampled_from("abcdefgh"))], [o]) for o in made)
    enabling = draw(st.booleans())
    proposal = Proposal("rule", "", draw(names), Fragment(nodes), enabling=enabling)
    return Step(proposal, None, draw(names), draw(names), forced=not enabling)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(steps=st.lists(step(), max_size=8), data=st.data())
def test_dependence_is_as_when_all_pairs_are_compared(steps: list[Step], data: st.DataObject) -> None:
    for i in range(len(steps)):
        assert dependants(steps, {i}) == naive_dependants(steps, {i})
    dropped: set[int] = set()
    for i in reversed(range(len(steps))):
        if steps[i].proposal.enabling and naive_dependants(steps, {i}) - dropped == {i}:
            dropped.add(i)
    assert prune_enabling(steps) == dropped


# --- places that are alike ---------------------------------------------------------------------------------

TWO = """g (float[N, 3, 2, 2] x) => (float[N, 5] y, float[N, 5] z) {
  f = Flatten (x)  m = MatMul (f, w)  y = Add (m, b)  n = MatMul (f, v)  z = Add (n, c) }"""


def folds(text: str, **weights: Any) -> tuple[Facts, list[Proposal]]:
    proto = model_of(text, {k: np.asarray(v, np.float32) for k, v in weights.items()})
    model = Model(proto)
    return Facts(model, bind(model).sizes), [p for p in said_by("fold_batchnorm", proto) if isinstance(p, Proposal)]


def test_signature_looks_at_operators_and_shapes() -> None:
    random = np.random.default_rng(0).standard_normal
    facts, found = folds(TWO, w=random((12, 5)), b=random(5), v=random((12, 5)), c=random(5))
    assert len({signature(facts, p) for p in found}) == 1 < len(found), "names and weights do not matter"
    facts, (first, second) = folds(TWO.replace("float[N, 5] z", "float[N, 7] z"), w=np.ones((12, 5)), b=np.ones(5),
                         v=np.ones((12, 7)), c=np.ones(7))  # fmt: skip
    assert signature(facts, first) != signature(facts, second), "shapes do"
    nothing = Proposal("", "", first.removes, Fragment((), aliases={"y": "f"}))
    assert signature(facts, first) != signature(facts, nothing), "and what comes"


def test_signature_looks_at_attributes() -> None:
    layers = "a = LeakyRelu <alpha = 0.1> (x) b = LeakyRelu <alpha = %s> (a) y = Exp (b)"
    text = f"g (float[2, 3] x) => (float[2, 3] y) {{ {layers} }}"
    for alpha, count in (("0.1", 1), ("0.2", 2)):
        model = Model(model_of(text % alpha))
        facts = Facts(model)
        found = [Proposal("", "", frozenset(o), Fragment((), aliases={o: i})) for o, i in (("a", "x"), ("b", "a"))]
        assert len({signature(facts, p) for p in found}) == count


def test_what_can_be_timed_on_the_whole_model_only_is_tried_once_for_all_alike(
    monkeypatch: pytest.MonkeyPatch, measured: list[Plan]
) -> None:
    """As where their regions cannot be cut out."""
    monkeypatch.setattr(onnxtune.trial, "extract", lambda *rest: None)
    facts, found = folds(TWO, w=np.ones((12, 5)), b=np.ones(5), v=np.ones((12, 5)), c=np.ones(5))
    applied: list[object] = []
    monkeypatch.setattr(onnxtune.trial, "apply", lambda model, made: applied.append(made) or apply(model, made))
    timer = Timer(Target(threads=1), Cache(None))
    trials = [timer.region(facts, p) for p in found]
    assert len(found) == 2
    assert all(t.comparison is not None for t in trials), [t.problem for t in trials]
    assert (len(applied), len(measured)) == (1, 1)


def test_what_does_not_run_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, work: Counter[str]) -> None:
    facts, found = folds(TWO, w=np.ones((12, 5)), b=np.ones(5), v=np.ones((12, 5)), c=np.ones(5))

    def measure(*rest: Any) -> Comparison:
        raise onnxtune.ModelError("it does not run")

    monkeypatch.setattr(onnxtune.trial, "measure", measure)
    timer = Timer(Target(threads=1), Cache(None))
    assert timer.region(facts, found[0]).problem == "it does not run"
    first = work["sessions"]
    assert first > 0
    assert timer.region(facts, found[1]).problem == "it does not run"
    assert work["sessions"] == first


class Keyed(dict[str, Any]):
    """Nodes by key that must be asked for one by one."""

    def keys(self) -> Any:
        raise AssertionError("all nodes are gone through for one proposal")

    __iter__ = keys
    items = keys
    values = keys


def test_a_proposal_is_checked_without_going_through_all_nodes() -> None:
    model, found = chain(5)
    facts = Facts(model)
    facts.by_key = Keyed(facts.by_key)
    assert _breach(facts, found[2]) is None
    strange = Proposal("rule", "", frozenset(("nowhere",)), Fragment(()))
    assert _breach(facts, strange) == "it removes 'nowhere', which no node makes"
