"""Finding rules: strict cards, a user's folder, plug-ins of three kinds, all through the same gates."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

import onnxtune
from onnxtune import Result, optimize
from onnxtune.catalog import GROUP, cards, catalog, choose, plugin_rule, rules_folder
from onnxtune.errors import RuleError, UsageError
from onnxtune.proposal import Decline
from onnxtune.report import Rejected
from onnxtune.rule import make_rule, read_card
from onnxtune.testing import model_of

pytestmark = pytest.mark.usefixtures("quick")
ROOT = Path(__file__).parents[1]
CARD = """
name = "twice_relu"
code = "U1"
summary = "Relu after Relu"
why = "The second one does nothing."
"""
PATTERN = """
[pattern]
graph = "p (x) => (z) { y = Relu (x)  z = Relu (y) }"
"""
CODE = """
def rewrite(match, new, settings):
    return new.Relu(match["x"])
"""


def write(folder: Path, card: str = CARD + PATTERN, code: str | None = CODE, name: str = "twice_relu") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(card, encoding="utf-8")
    if code is not None:
        path.with_suffix(".py").write_text(code, encoding="utf-8")
    return path


# --- every rule of ours ----------------------------------------------------------------------------------


def names(folder: Path, pattern: str) -> set[str]:
    return {p.stem for p in folder.glob(pattern) if not p.stem.startswith("_")}


def test_every_rule_has_its_three_files() -> None:
    described = names(ROOT / "rules", "*.toml")
    assert described
    assert described == names(ROOT / "onnxtune" / "rulebook", "*.py")
    assert described <= {n.removeprefix("test_") for n in names(ROOT / "tests" / "rules", "test_*.py")}


def test_our_cards_are_complete_and_distinct() -> None:
    ours = cards(plugins=False)
    assert len({c.code for c in ours}) == len(ours)
    assert [(c.order, c.name) for c in ours] == sorted((c.order, c.name) for c in ours)
    for card in ours:
        assert card.summary, card.name
        assert not card.summary.endswith("."), f"{card.name}: the summary is a title"
        assert card.why, card.name
        assert card.fires, f"{card.name}: say when it fires"
        assert card.declines, f"{card.name}: say when it declines"
        assert card.references, f"{card.name}: say where it comes from"
        assert card.history, f"{card.name}: say since when"
        assert card.drawing, f"{card.name}: draw what it changes"
        assert card.drawing.before != card.drawing.after
        assert all(len(line) <= 100 for text in (card.drawing.before, card.drawing.after) for line in text.splitlines())
        assert set(card.help) == set(card.settings), f"{card.name}: every setting is explained"
        assert all(1 <= g <= 14 for g in card.guidelines), card.name


def test_catalogue_and_cards_agree() -> None:
    rules = catalog(plugins=False)
    assert [r.card for r in rules] == cards(plugins=False)
    assert all(r.algebra for r in rules), "the module's docstring carries the algebra"


def test_the_rules_folder_is_that_of_the_checkout_or_the_package() -> None:
    package = Path(onnxtune.__file__).parent
    assert rules_folder() in (package.parent / "rules", package / "_rules")
    ours = {p.name: p.read_text() for p in (ROOT / "rules").glob("*.toml")}
    assert {p.name: p.read_text() for p in rules_folder().glob("*.toml")} == ours


# --- strict cards ----------------------------------------------------------------------------------------


def test_a_good_card(tmp_path: Path) -> None:
    more = 'min_opset = 9\nguidelines = [1, 2]\n[settings]\nlimit = 0.5\n[help]\nlimit = "how much"\n'
    card = read_card(write(tmp_path, CARD + more + PATTERN))
    assert (card.name, card.min_opset, card.guidelines, card.safety) == ("twice_relu", 9, (1, 2), "exact")
    assert card.pattern is not None
    with pytest.raises(TypeError):
        card.settings["limit"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "colour = 1\n" + t, "unknown key 'colour'"),
        (lambda t: t.replace('code = "U1"\n', ""), "key 'code' is missing"),
        (lambda t: t.replace('"U1"', "1"), "key 'code' must be a str"),
        (lambda t: t.replace("twice_relu", "other"), "name 'other' must equal the file's name 'twice_relu'"),
        (lambda t: "enabling = 1\n" + t, "key 'enabling' must be a bool"),
        (lambda t: "order = true\n" + t, "key 'order' must be a int"),
        (lambda t: "order = 1.5\n" + t, "key 'order' must be a int"),
        (lambda t: 'safety = "maybe"\n' + t, "safety must be one of exact, calibrated, advice"),
        (lambda t: 'fires = "always"\n' + t, "key 'fires' must be a list"),
        (lambda t: "fires = [1]\n" + t, "key 'fires' must be a list of str"),
        (lambda t: "guidelines = [true]\n" + t, "key 'guidelines' must be a list of int"),
        (lambda t: "settings = 3\n" + t, "key 'settings' must be a dict"),
        (lambda t: t + '[help]\nlimit = "x"\n', "unknown key 'help.limit'"),
        (lambda t: t + "[settings]\nlimit = 1\n[help]\nlimit = 3\n", "key 'help.limit' must be a str"),
        (lambda t: t + "constant = []\n", "unknown key 'pattern.constant'"),
        (lambda t: t.replace("graph", "#"), "key 'pattern.graph' is missing"),
        (lambda t: t + 'constants = "x"\n', "key 'pattern.constants' must be a list"),
        (lambda t: t + "constants = [1]\n", "key 'pattern.constants' must be a list of str"),
        (lambda t: t + 'any_of = { Relu = "Tanh" }\n', "key 'pattern.any_of.Relu' must be a list"),
        (lambda t: t + "name =", "not valid TOML"),
        (lambda t: t + '\ncode = "U1"', "unknown key 'pattern.code'"),
    ],
)
def test_a_card_with_an_error(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = write(tmp_path, change(CARD + PATTERN))
    with pytest.raises(RuleError) as caught:
        catalog([tmp_path], plugins=False)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="cannot be read"):
        read_card(tmp_path / "none.toml")
    path = tmp_path / "odd.toml"
    path.write_bytes(b"\xff\xfe name")
    with pytest.raises(RuleError, match="not valid TOML"):
        read_card(path)


@pytest.mark.parametrize(
    ("card", "code", "message"),
    [
        (CARD + PATTERN, "x = 1", "must define exactly one of rewrite, propose, transform, levels (it has none)"),
        (CARD + PATTERN, CODE + "def propose(f, s): pass\n", "(it has rewrite, propose)"),
        (CARD, CODE, "needs a [pattern]"),
        (CARD + PATTERN, "def propose(f, s): return []\n", "needs a [pattern]"),
        (CARD + PATTERN.replace("z)", "q)", 1), CODE, "pattern output 'q' is made by no node"),
        (CARD + PATTERN.replace("}", "", 1), CODE, "cannot be parsed"),
        (CARD + PATTERN, "import nothing_like_it\n", "ModuleNotFoundError"),
        (CARD + PATTERN, "def rewrite(:\n", "SyntaxError"),
        (CARD + PATTERN, None, "no twice_relu.py beside it"),
    ],
)
def test_a_rule_with_an_error(tmp_path: Path, card: str, code: str | None, message: str) -> None:
    path = write(tmp_path, card, code)
    with pytest.raises(RuleError) as caught:
        catalog([tmp_path], plugins=False)
    assert message in str(caught.value)
    assert str(path.with_suffix("")) in str(caught.value)


# --- settings --------------------------------------------------------------------------------------------

SETTINGS = CARD + PATTERN + '[settings]\nlimit = 0.5\ncount = 2\non = true\nname = "a"\n'


@pytest.mark.parametrize("change", [{}, {"limit": 1}, {"limit": 0.1, "count": 9}, {"on": False}, {"name": "b"}])
def test_settings_of_the_right_type(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, SETTINGS)
    (rule,) = choose(catalog([tmp_path], plugins=False), ["twice_relu"])
    assert dict(rule.settings(change)) == {"limit": 0.5, "count": 2, "on": True, "name": "a", **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": 1}, "unknown setting 'other' (known: count, limit, name, on)"),
        ({"limit": "a"}, "'limit' must be a float"),
        ({"limit": True}, "'limit' must be a float"),
        ({"count": 1.5}, "'count' must be a int"),
        ({"count": True}, "'count' must be a int"),
        ({"on": 1}, "'on' must be a bool"),
    ],
)
def test_settings_of_the_wrong_type(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, SETTINGS)
    (rule,) = choose(catalog([tmp_path], plugins=False), ["twice_relu"])
    with pytest.raises(RuleError) as caught:
        rule.settings(change)
    assert message in str(caught.value)


# --- a user's folder -------------------------------------------------------------------------------------


def test_a_folder_adds_rules(tmp_path: Path) -> None:
    write(tmp_path)
    added = {r.name for r in catalog([tmp_path])} - {r.name for r in catalog()}
    assert added == {"twice_relu"}
    assert {c.name for c in cards([tmp_path])} - {c.name for c in cards()} == {"twice_relu"}


def test_a_folder_overrides_rules(tmp_path: Path) -> None:
    text = (rules_folder() / "replace_lrn.toml").read_text(encoding="utf-8")
    write(tmp_path, text.replace("order = 20", "order = 77"), None, "replace_lrn")
    found = next(r for r in catalog([tmp_path]) if r.name == "replace_lrn")
    own = next(r for r in catalog() if r.name == "replace_lrn")
    assert found.card.order == 77
    assert found.entry is own.entry
    write(tmp_path, CARD.replace("twice_relu", "replace_lrn") + PATTERN, CODE, "replace_lrn")
    found = next(r for r in catalog([tmp_path]) if r.name == "replace_lrn")
    assert found.entry is not own.entry
    assert found.card.summary == "Relu after Relu"


def test_an_overriding_card_must_fit_the_rule(tmp_path: Path) -> None:
    write(tmp_path, CARD.replace("twice_relu", "replace_lrn"), None, "replace_lrn")
    with pytest.raises(RuleError, match=r"needs a \[pattern\]"):
        catalog([tmp_path])


def test_the_last_folder_wins(tmp_path: Path) -> None:
    for name, order in (("a", 1), ("b", 2)):
        write(tmp_path / name, f"order = {order}\n" + CARD + PATTERN)
    for folders, order in (("ab", 2), ("ba", 1)):
        chosen = [tmp_path / f for f in folders]
        assert next(r for r in catalog(chosen) if r.name == "twice_relu").card.order == order
        assert next(c for c in cards(chosen) if c.name == "twice_relu").order == order


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        catalog([tmp_path / "none"])


def test_a_users_rule_may_use_dataclasses(tmp_path: Path) -> None:
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
    write(tmp_path, code=code + "@dataclass\nclass Size:\n    kind: ClassVar[str]\n    height: int\n" + CODE)
    assert "twice_relu" in {r.name for r in catalog([tmp_path], plugins=False)}


def test_choosing(tmp_path: Path) -> None:
    write(tmp_path, "default = false\n" + CARD + PATTERN)
    rules = catalog([tmp_path], plugins=False)
    everything = {r.name for r in rules}
    assert {r.name for r in choose(rules)} == {r.name for r in rules if r.card.default}
    assert "twice_relu" not in {r.name for r in choose(rules)}
    assert [r.name for r in choose(rules, ["twice_relu"])] == ["twice_relu"]
    assert {r.name for r in choose(rules, everything, ["twice_relu"])} == everything - {"twice_relu"}
    for only, skip in ((["nothing"], []), ([], ["nothing"])):
        with pytest.raises(UsageError, match="unknown rule 'nothing'"):
            choose(rules, only, skip)


@pytest.mark.parametrize("safety", ["calibrated", "advice"])
def test_exact_only_leaves_the_others_out(tmp_path: Path, safety: str) -> None:
    write(tmp_path, f'safety = "{safety}"\n' + CARD + PATTERN)
    rules = catalog([tmp_path], plugins=False)
    exact = {r.name for r in rules if r.card.default and r.card.safety == "exact"}
    assert {r.name for r in choose(rules, exact_only=True)} == exact
    assert "twice_relu" in {r.name for r in choose(rules)} - exact
    with pytest.raises(UsageError, match=f"rule 'twice_relu' is {safety}, which --exact-only leaves out"):
        choose(rules, ["twice_relu"], exact_only=True)
    with pytest.raises(UsageError, match="'twice_relu'"):
        optimize(
            model_of("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }"),
            rules=(tmp_path,),
            force_rules=("twice_relu",),
            exact_only=True,
        )


# --- plug-ins, end to end --------------------------------------------------------------------------------

W = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def network() -> onnx.ModelProto:
    return model_of(
        "g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { c = Conv (x, w)  r = Relu (c)  s = Relu (r)  y = Neg (s) }",
        {"w": W},
    )


@dataclass
class Package:
    name: str = "some-package"


class Point:
    """What importlib.metadata gives for an entry point."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name, self.load, self.value, self.dist = name, load, f"some_package:{name}", Package()


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Offer plug-ins as installed packages do."""

    def offer(**targets: Any) -> None:
        points = [Point(name, lambda target=target: target) for name, target in targets.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == GROUP else [])

    return offer


def tuned(*rules: str, force: bool = True, proto: onnx.ModelProto | None = None) -> Result:
    """The given rules only; kept even when they are not faster, so that no clock decides."""
    return optimize(
        proto or network(), threads=1, providers="cpu", only=rules, force_rules=rules if force else (), cache=False
    )


def operators(result: Result) -> list[str]:
    return [n.op_type for n in result.model.graph.node]


def as_module(folder: Path, code: str = CODE) -> ModuleType:
    path = write(folder, code=code).with_suffix(".py")
    spec = importlib.util.spec_from_file_location("some_package_rule", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drop_second_relu(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Take the second Relu out."""
    kept = [n for n in proto.graph.node if n.output[0] != "s"]
    kept[-1].input[0] = "r"
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def test_a_module_with_its_card_beside_it(tmp_path: Path, plug: Callable[..., None]) -> None:
    plug(twice_relu=as_module(tmp_path))
    result = tuned("twice_relu")
    assert operators(result) == ["Conv", "Relu", "Neg"]
    (kept,) = result.report.kept
    assert (kept.rewrite.rule, kept.reason) == ("twice_relu", "forced")
    assert kept.error == 0


def test_a_callable(plug: Callable[..., None]) -> None:
    plug(drop_it=drop_second_relu)
    result = tuned("drop_it")
    assert operators(result) == ["Conv", "Relu", "Neg"]
    rule = next(r for r in catalog() if r.name == "drop_it")
    assert (rule.kind, rule.card.summary, rule.card.source) == ("model", "Take the second Relu out.", "some-package")


def onnxscript_rule() -> Any:
    pytest.importorskip("onnxscript")
    from onnxscript.rewriter import pattern

    return pattern.RewriteRule(lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Relu(x), name="twice")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("as_set", [False, True])
def test_an_onnxscript_rule(plug: Callable[..., None], as_set: bool) -> None:
    rule = onnxscript_rule()
    if as_set:
        from onnxscript.rewriter import pattern

        rule = pattern.RewriteRuleSet([rule])
    plug(script_rule=rule)
    result = tuned("script_rule")
    assert operators(result) == ["Conv", "Relu", "Neg"]
    assert result.report.kept[0].rewrite.rule == "script_rule"
    assert [v.name for v in result.model.graph.input] == ["x"]


def test_a_plugin_that_breaks_the_numerics_is_rejected(plug: Callable[..., None]) -> None:
    def wrong(proto: onnx.ModelProto) -> onnx.ModelProto:
        changed = drop_second_relu(proto)
        changed.graph.node[1].op_type = "Abs"
        return changed

    plug(wrong_one=wrong, drop_it=drop_second_relu)
    result = tuned("wrong_one", "drop_it")
    assert operators(result) == ["Conv", "Relu", "Neg"]
    (rejected,) = [o for o in result.report.rejected if o.rewrite.rule == "wrong_one"]
    assert rejected.stage == "verify"
    assert "'y'" in rejected.reason
    assert [k.rewrite.rule for k in result.report.kept] == ["drop_it"]


def test_a_pattern_plugin_that_breaks_the_numerics_is_rejected(tmp_path: Path, plug: Callable[..., None]) -> None:
    plug(twice_relu=as_module(tmp_path, CODE.replace("Relu", "Abs")))
    result = tuned("twice_relu")
    assert operators(result) == ["Conv", "Relu", "Relu", "Neg"]
    (rejected,) = result.report.rejected
    assert rejected.stage == "verify"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (lambda proto: 1 / 0, "ZeroDivisionError"),
        (lambda proto: None, "it returned NoneType, not a ModelProto"),
        (lambda proto: proto.SerializeToString(), "it returned bytes"),
    ],
)
def test_a_plugin_that_raises_is_reported_and_the_rest_goes_on(
    plug: Callable[..., None], target: Any, reason: str
) -> None:
    plug(broken=target, drop_it=drop_second_relu)
    result = tuned("broken", "drop_it")
    (decline,) = [o for o in result.report.outcomes if isinstance(o, Decline) and o.rule == "broken"]
    assert reason in decline.reason
    assert "some-package" in decline.reason
    assert operators(result) == ["Conv", "Relu", "Neg"]


def other_output(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.output[0].name = "s"
    return proto


def other_input(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))
    return proto


def not_a_model(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto()


def not_valid(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.node[1].op_type = "Odd"
    return proto


@pytest.mark.parametrize("target", [other_output, other_input, not_a_model, not_valid])
def test_a_plugin_that_breaks_the_model_is_rejected(plug: Callable[..., None], target: Any) -> None:
    plug(breaks=target)
    result = tuned("breaks")
    assert operators(result) == ["Conv", "Relu", "Relu", "Neg"]
    (outcome,) = result.report.outcomes
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "verify"
    assert outcome.reason


def test_a_plugin_that_changes_nothing_says_nothing(plug: Callable[..., None]) -> None:
    plug(idle=lambda proto: proto)
    result = tuned("idle")
    assert result.report.status == "nothing to gain"
    assert result.report.outcomes == ()


def test_a_plugin_cannot_change_the_users_model(plug: Callable[..., None]) -> None:
    plug(drop_it=drop_second_relu)
    proto = network()
    tuned("drop_it", proto=proto)
    assert proto == network()


def test_a_plugin_that_cannot_be_imported_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ImportError("no such thing")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point("bad", fail)])
    with pytest.raises(RuleError, match=r"plug-in some-package: 'some_package:bad' cannot be imported"):
        catalog()
    assert catalog(plugins=False)


def test_our_rules_go_before_plugins_of_the_same_name(plug: Callable[..., None]) -> None:
    plug(replace_lrn=drop_second_relu)
    assert next(r for r in catalog() if r.name == "replace_lrn").card.source == "onnxtune"
    assert next(c for c in cards() if c.name == "replace_lrn").source == "onnxtune"


@pytest.mark.parametrize("target", [3, "text", None])
def test_a_plugin_of_no_known_kind(target: Any) -> None:
    with pytest.raises(RuleError, match="expected a module, a rewrite rule or a callable"):
        plugin_rule("odd", target, "some-package")


def test_a_module_without_a_card(tmp_path: Path) -> None:
    module = as_module(tmp_path)
    (tmp_path / "twice_relu.toml").unlink()
    with pytest.raises(RuleError, match=r"twice_relu\.toml: cannot be read"):
        plugin_rule("twice_relu", module, "some-package")


def test_a_rule_joins_a_card_and_a_module(tmp_path: Path) -> None:
    module = as_module(tmp_path, '"""Relu(Relu(x)) = Relu(x)."""\n' + CODE)
    rule = make_rule(read_card(tmp_path / "twice_relu.toml"), module, "where")
    assert (rule.kind, rule.algebra) == ("pattern", "Relu(Relu(x)) = Relu(x).")
    assert sys.modules.get("some_package_rule") is None
