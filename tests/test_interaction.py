"""Rewrites that overlap, open or undo each other: measured time decides, not the order of the rules.

The clock is a table: seconds that a rule's rewrite saves. Rules put a double negation between two
operators, so that what was rewritten does not match again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from outcomes import saving

import onnxtune.tune.run
import onnxtune.tune.wording
from onnxtune import Result, optimize
from onnxtune.facts import Facts
from onnxtune.proposal import Proposal
from onnxtune.testing import model_of
from onnxtune.trial import Timer, Trial

TWICE = "def twice(new, x):\n    return new.Neg(new.Neg(x))\n\n"
CHAIN = """g (float[N, 3] x) => (float[N, 3] y) {
    a = Abs (x)  b = Sigmoid (a)  c = Tanh (b)  y = Softsign (c)
}"""


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, float]], list[str]]:
    """`saves({rule: seconds})` sets the table; gives the list of what was measured, in turn."""

    def use(table: Mapping[str, float]) -> list[str]:
        measured: list[str] = []

        class Table(Timer):
            def region(self, facts: Facts, proposal: Proposal) -> Trial:
                measured.append(proposal.rule)
                return Trial(saving(table[proposal.rule], 10.0))

            def against(self, *arguments: Any) -> Trial:
                return Trial(saving(2.0, 10.0))

            def latency(self, *arguments: Any) -> float:
                return 10.0

        monkeypatch.setattr(onnxtune.tune.run, "Timer", Table)
        return measured

    return use


def rule(folder: Path, name: str, graph: str, code: str, order: int, extra: str = "") -> None:
    head = f'name = "{name}"\ncode = "U-{name}"\nsummary = "s"\nwhy = "w"\norder = {order}\n{extra}\n'
    (folder / f"{name}.toml").write_text(f'{head}[pattern]\ngraph = "{graph}"\n')
    (folder / f"{name}.py").write_text(f"{TWICE}def rewrite(match, new, settings):\n    return {code}\n")


def pair(folder: Path, name: str, first: str, second: str, order: int) -> None:
    graph = f"p (x) => (z) {{ t = {first} (x)  z = {second} (t) }}"
    rule(folder, name, graph, f'twice(new, new.{second}(twice(new, new.{first}(twice(new, match["x"])))))', order)


def tuned(folder: Path, text: str, *names: str) -> Result:
    return optimize(model_of(text), only=names, rules=(folder,), threads=1, providers="cpu", cache=False, plugins=False)


def kept(result: Result) -> list[str]:
    onnx.checker.check_model(result.model, full_check=True)
    return sorted(k.rewrite.rule for k in result.report.kept)


def test_of_two_that_overlap_the_one_that_saves_more(tmp_path: Path, saves: Any) -> None:
    """Taken in the order of rules, `early` would come first and leave nothing to `late`."""
    pair(tmp_path, "early", "Abs", "Sigmoid", 1)
    pair(tmp_path, "late", "Sigmoid", "Tanh", 2)
    saves({"early": 1.0, "late": 3.0})
    result = tuned(tmp_path, CHAIN, "early", "late")
    assert kept(result) == ["late"]
    assert [(r.rewrite.rule, r.stage, r.reason) for r in result.report.rejected] == [
        ("early", "select", "an overlapping rewrite saves more time")
    ]


@pytest.mark.parametrize(("sides", "chosen"), [(2.0, ["left", "right"]), (1.0, ["middle"])])
def test_two_together_against_one_that_saves_most_alone(
    tmp_path: Path, saves: Any, sides: float, chosen: list[str]
) -> None:
    """Taken by saved time, `middle` would shut out both; together they save more, or less."""
    pair(tmp_path, "middle", "Sigmoid", "Tanh", 1)
    pair(tmp_path, "left", "Abs", "Sigmoid", 2)
    pair(tmp_path, "right", "Tanh", "Softsign", 3)
    saves({"middle": 3.0, "left": sides, "right": sides})
    assert kept(tuned(tmp_path, CHAIN, "middle", "left", "right")) == chosen


def test_a_rewrite_opens_another_in_the_next_round(tmp_path: Path, saves: Any) -> None:
    rule(tmp_path, "first", "p (x) => (z) { z = Abs (x) }", 'new.Max(match["x"], new.Neg(match["x"]))', 1)
    rule(
        tmp_path,
        "second",
        "p (x) => (z) { n = Neg (x)  m = Max (x, n)  z = Relu (m) }",
        'new.Max(match["x"], new.Neg(match["x"]))',
        2,
    )
    measured = saves({"first": 1.0, "second": 1.0})
    source = "g (float[N, 3] x) => (float[N, 3] y) { a = Abs (x)  y = Relu (a) }"
    result = tuned(tmp_path, source, "first", "second")
    assert kept(result) == ["first", "second"]
    assert measured == ["first", "second"]
    assert [n.op_type for n in result.model.graph.node] == ["Neg", "Max"]


def test_rules_that_undo_each_other_come_to_an_end(tmp_path: Path, saves: Any) -> None:
    """A clock that calls both ways faster: the way back is refused, and said so."""
    rule(tmp_path, "there", "p (x) => (z) { z = Abs (x) }", 'new.Max(match["x"], new.Neg(match["x"]))', 1)
    rule(tmp_path, "back", "p (x) => (z) { n = Neg (x)  z = Max (x, n) }", 'new.Abs(match["x"])', 2)
    measured = saves({"there": 1.0, "back": 1.0})
    source = "g (float[N, 3] x) => (float[N, 3] y) { y = Abs (x) }"
    result = tuned(tmp_path, source, "there", "back")
    assert kept(result) == ["there"]
    assert [(r.rewrite.rule, r.reason) for r in result.report.rejected] == [("back", onnxtune.tune.wording.UNDONE)]
    assert measured == ["there", "back"]


@pytest.mark.parametrize(("alone", "chosen"), [(0.0, ["open", "profit"]), (-1.0, [])])
def test_what_only_opens_may_not_cost_time(tmp_path: Path, saves: Any, alone: float, chosen: list[str]) -> None:
    """An enabling rewrite that is slower alone is refused; a rule that needs one offers both as one rewrite."""
    rule(
        tmp_path,
        "open",
        "p (x) => (z) { z = Abs (x) }",
        'new.Max(match["x"], new.Neg(match["x"]))',
        1,
        "enabling = true",
    )
    rule(
        tmp_path,
        "profit",
        "p (x) => (z) { n = Neg (x)  m = Max (x, n)  z = Relu (m) }",
        'new.Max(match["x"], new.Neg(match["x"]))',
        2,
    )
    saves({"open": alone, "profit": 5.0})
    source = "g (float[N, 3] x) => (float[N, 3] y) { a = Abs (x)  y = Relu (a) }"
    assert kept(tuned(tmp_path, source, "open", "profit")) == chosen


def test_what_does_most_work_is_measured_first(tmp_path: Path, saves: Any) -> None:
    """Where the time budget ends early, it went to what matters."""
    rule(tmp_path, "small", "p (x) => (z) { z = Abs (x) }", 'new.Max(match["x"], new.Neg(match["x"]))', 1)
    rule(
        tmp_path,
        "large",
        "p (x, w) => (z) { z = Conv (x, w) }",
        'new.Neg(new.Neg(new.Conv(match["x"], match["w"])))',
        2,
    )
    measured = saves({"small": 1.0, "large": -1.0})
    text = """g (float[1, 3, 9, 9] x) => (float[1, 4, 7, 7] y) <float[4, 3, 3, 3] w> { a = Abs (x)  y = Conv (a, w) }"""
    weights = {"w": np.ones((4, 3, 3, 3), np.float32)}
    proto = model_of(text.replace(" <float[4, 3, 3, 3] w>", ""), weights)
    optimize(proto, only=("small", "large"), rules=(tmp_path,), threads=1, providers="cpu", cache=False, plugins=False)
    assert measured[:2] == ["large", "small"]
