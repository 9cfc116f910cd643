"""The whole loop: gates, bisection, the fixed point, the report. Rules are kept by force, so that no clock decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxtune.trial
import onnxtune.tune.rounds
from onnxtune import ModelError, Result, RuleError, UsageError, optimize
from onnxtune.comparison import Comparison
from onnxtune.measure import Plan
from onnxtune.proposal import Decline
from onnxtune.report import SCHEMA, Kept, Rejected
from onnxtune.testing import model_of

pytestmark = pytest.mark.usefixtures("quick")
W = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
TEXT = "g (float[N, 3, 12, 12] x) => (float[N, 8, 10, 10] y) { c = Conv (x, w)  y = LRN <size = 5> (c) }"


def network() -> onnx.ModelProto:
    return model_of(TEXT, {"w": W})


def tuned(source: Any = None, **options: Any) -> Result:
    settings: dict[str, Any] = {"threads": 1, "providers": "cpu", "cache": False, "plugins": False}
    return optimize(network() if source is None else source, **{**settings, **options})


def forced(source: Any = None, **options: Any) -> Result:
    return tuned(source, only=("replace_lrn",), force_rules=("replace_lrn",), **options)


def bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without onnxtune's own metadata."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    kept = [p for p in copy.metadata_props if not p.key.startswith("onnxtune.")]
    kept = [onnx.StringStringEntryProto(key=p.key, value=p.value) for p in kept]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    return copy


def operators(result: Result) -> list[str]:
    return [n.op_type for n in result.model.graph.node]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measurements that say what the test wants: the given speed-ups in turn, then the last one for ever."""
    wanted: list[float] = [1.0]

    def measure(before: Any, after: Any, plan: Plan) -> Comparison:
        ratio = wanted.pop(0) if len(wanted) > 1 else wanted[0]
        one = np.full(4, 1e-3)
        return Comparison(one * ratio, one, ratio, ratio * 0.999, ratio * 1.001, 0.0, 0.99)

    monkeypatch.setattr(onnxtune.trial, "measure", measure)
    return wanted


# --- what comes out --------------------------------------------------------------------------------------


def test_a_forced_rewrite() -> None:
    result = forced()
    assert "LRN" not in operators(result)
    onnx.checker.check_model(result.model, full_check=True)
    report = result.report
    assert report.status in ("forced", "faster")
    assert [k.rewrite.rule for k in report.kept] == ["replace_lrn"]
    assert report.kept[0].reason == "forced"
    assert report.speedup is not None
    assert report.counts() == {"replace_lrn": 1}
    assert report.verification["largest_relative_error"] < 1e-4
    assert {"normal", "zeros", "batch 3"} <= set(report.verification["cases"])
    assert (report.before.operators["LRN"], report.after.operators.get("LRN")) == (1, None)


def test_the_users_model_is_not_changed() -> None:
    proto = network()
    forced(proto)
    assert proto == network()


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (model_of("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }"), {}),
        (network(), {"skip": ("replace_lrn",)}),
    ],
    ids=["no rule fires", "the rule is left out"],
)
def test_nothing_to_gain_gives_the_original_back(source: onnx.ModelProto, options: Any) -> None:
    result = tuned(source, **options)
    assert result.report.status == "nothing to gain"
    assert bare(result.model) == source
    assert result.report.kept == ()
    assert result.report.speedup is None
    assert result.report.before == result.report.after


def test_faster(clock: list[float]) -> None:
    clock[:] = [1.5]
    result = tuned(only=("replace_lrn",))
    assert result.report.status == "faster"
    assert result.report.speedup == 1.5
    assert "LRN" not in operators(result)
    (kept,) = result.report.kept
    assert kept.reason == "faster"
    (other,) = result.report.rejected
    assert (other.stage, other.reason) == ("select", "an overlapping rewrite saves more time")
    assert other.rewrite.settings != kept.rewrite.settings


def test_not_faster_anywhere(clock: list[float]) -> None:
    clock[:] = [1.0]
    result = tuned(only=("replace_lrn",))
    assert result.report.status == "nothing to gain"
    assert bare(result.model) == network()
    assert {(r.stage, r.reason) for r in result.report.rejected} == {
        ("measure", "no measurable change: 1.00x [1.00, 1.00]")
    }


def test_faster_in_its_region_but_not_as_a_whole(clock: list[float]) -> None:
    clock[:] = [1.5, 1.5, 1.0]
    result = tuned(only=("replace_lrn",))
    assert result.report.status == "nothing to gain"
    assert result.report.speedup is None
    assert bare(result.model) == network()
    assert [r.reason for r in result.report.rejected if r.stage == "confirm"] == [
        "on the whole model: no measurable change: 1.00x [1.00, 1.00]"
    ]


def test_faster_but_not_by_enough(clock: list[float]) -> None:
    clock[:] = [1.5, 1.5, 1.1]
    result = tuned(only=("replace_lrn",), min_speedup=1.2)
    assert result.report.status == "nothing to gain"
    assert bare(result.model) == network()
    (why,) = [r.reason for r in result.report.rejected if r.stage == "confirm"]
    assert why == "whole-model speed-up 1.100 is below --min-speedup 1.2"
    clock[:] = [1.5, 1.5, 1.1]
    assert tuned(only=("replace_lrn",), min_speedup=1.05).report.status == "faster"


def test_without_time_nothing_is_measured(clock: list[float]) -> None:
    clock[:] = [2.0]
    result = tuned(only=("replace_lrn",), time_budget=0.0)
    assert result.report.status == "nothing to gain"
    assert {r.reason for r in result.report.rejected} == {"the time budget ran out before it was measured"}


def test_without_time_a_forced_rewrite_is_verified_but_not_timed(clock: list[float]) -> None:
    report = forced(time_budget=0.0).report
    assert (report.status, report.comparison, report.speedup) == ("forced", None, None)
    assert report.counts() == {"replace_lrn": 1}
    assert "confirm" not in {r.stage for r in report.rejected}


def test_one_rewrite_has_one_outcome(clock: list[float], tmp_path: Path) -> None:
    """Turned down in the first round for another that saves more, taken in the second."""
    (tmp_path / "merge.toml").write_text(
        'name = "merge"\ncode = "U1"\nsummary = "s"\nwhy = "w"\n'
        '[pattern]\ngraph = "p (x) => (z) { y = Relu (x)  z = Relu (y) }"\n'
    )
    (tmp_path / "merge.py").write_text('def rewrite(match, new, settings):\n    return new.Relu(match["x"])\n')
    clock[:] = [1.5]
    source = model_of("g (float[N, 3] x) => (float[N, 3] y) { a = Relu (x)  b = Relu (a)  y = Relu (b) }")
    result = tuned(source, only=("merge",), rules=(tmp_path,))
    assert operators(result) == ["Relu"]
    outcomes = [o.rewrite for o in (*result.report.kept, *result.report.rejected)]
    assert len({(r.rule, r.node, r.nodes, r.title) for r in outcomes}) == len(outcomes)


# --- gates: the guilty are found, the others stay --------------------------------------------------------


def rule(folder: Path, name: str, graph: str, code: str, extra: str = "") -> None:
    head = f'name = "{name}"\ncode = "U-{name}"\nsummary = "s"\nwhy = "w"\n{extra}\n'
    (folder / f"{name}.toml").write_text(f'{head}[pattern]\ngraph = "{graph}"\n')
    (folder / f"{name}.py").write_text(f"import numpy as np\n\ndef rewrite(match, new, settings):\n    {code}\n")


CHAIN = """g (float[N, 3, 9, 9] x) => (float[N, 8, 7, 7] y) {
    a = Abs (x)
    c = Conv (a, w)
    r = Relu (c)
    s = Sigmoid (r)
    t = Tanh (s)
    y = LRN <size = 3> (t)
}"""

GOOD = ("double_abs", "p (x) => (z) { z = Abs (x) }", 'return new.Max(match["x"], new.Neg(match["x"]))')


@pytest.mark.parametrize(
    ("graph", "code", "reason"),
    [
        ("p (x) => (z) { z = Sigmoid (x) }", 'return new.Mul(new.Sigmoid(match["x"]), np.float32(1.1))', "differs by"),
        ("p (x) => (z) { z = Tanh (x) }", 'return new.Neg(new.Tanh(match["x"]))', "differs by"),
        ("p (x) => (z) { z = Tanh (x) }", 'return new.Squeeze(new.Tanh(match["x"]))', ""),
        ("p (x) => (z) { z = Tanh (x) }", 'return new.Cast(new.Tanh(match["x"]), to=11)', ""),
        ("p (x) => (z) { z = Tanh (x) }", 't = new.Tanh(match["x"]); return new.Div(t, new.Sub(t, t))', "differs by"),
        ("p (x, w) => (z) { z = Conv (x, w) }", 'return new.Conv(match["x"], match.constant("w")[::-1])', "differs by"),
        ("p (x) => (z) { z = Tanh (x) }", 'return new.Odd(match["x"])', "ONNX Runtime cannot load"),
    ],
    ids=["scaled", "sign", "shape", "type", "not finite", "wrong channel", "no such operator"],
)
def test_a_wrong_rewrite_is_refused_and_the_good_ones_stay(tmp_path: Path, graph: str, code: str, reason: str) -> None:
    rule(tmp_path, *GOOD)
    rule(tmp_path, "wrong", graph, code)
    chosen = ("double_abs", "wrong", "replace_lrn")
    result = tuned(model_of(CHAIN, {"w": W}), only=chosen, force_rules=chosen, rules=(tmp_path,))
    assert {k.rewrite.rule for k in result.report.kept} == {"double_abs", "replace_lrn"}
    (wrong,) = [r for r in result.report.rejected if r.rewrite.rule == "wrong"]
    assert wrong.stage in ("measure", "verify")
    assert reason in wrong.reason
    assert not {"Abs", "LRN"} & set(operators(result))


@pytest.fixture
def without_local_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the whole model is compared, as for regions that cannot be cut out."""
    monkeypatch.setattr(onnxtune.tune.rounds, "_local", lambda facts, proposal, seed: (None, ""))


@pytest.mark.usefixtures("without_local_check")
@pytest.mark.parametrize("wrong", ["Abs", "Sigmoid", "Tanh", "Relu"])
def test_bisection_finds_the_guilty_one_wherever_it_stands(tmp_path: Path, wrong: str) -> None:
    for op_type in ("Abs", "Sigmoid", "Tanh", "Relu"):
        factor = 1.05 if op_type == wrong else 1.0
        code = f'return new.Mul(new.{op_type}(match["x"]), np.float32({factor}))'
        rule(tmp_path, f"scale_{op_type.lower()}", f"p (x) => (z) {{ z = {op_type} (x) }}", code)
    chosen = tuple(f"scale_{t}" for t in ("abs", "sigmoid", "tanh", "relu"))
    result = tuned(model_of(CHAIN, {"w": W}), only=chosen, force_rules=chosen, rules=(tmp_path,))
    assert {k.rewrite.rule for k in result.report.kept} == set(chosen) - {f"scale_{wrong.lower()}"}
    (rejected,) = result.report.rejected
    assert rejected.rewrite.rule == f"scale_{wrong.lower()}"
    assert rejected.stage == "verify"
    assert "output 'y'[" in rejected.reason


@pytest.mark.usefixtures("without_local_check")
def test_two_guilty_ones(tmp_path: Path) -> None:
    for op_type, factor in (("Abs", 1.05), ("Sigmoid", 1.0), ("Tanh", 1.05)):
        code = f'return new.Mul(new.{op_type}(match["x"]), np.float32({factor}))'
        rule(tmp_path, f"scale_{op_type.lower()}", f"p (x) => (z) {{ z = {op_type} (x) }}", code)
    chosen = ("scale_abs", "scale_sigmoid", "scale_tanh")
    result = tuned(model_of(CHAIN, {"w": W}), only=chosen, force_rules=chosen, rules=(tmp_path,))
    assert {k.rewrite.rule for k in result.report.kept} == {"scale_sigmoid"}
    assert {r.rewrite.rule for r in result.report.rejected} == {"scale_abs", "scale_tanh"}


def test_a_rule_that_raises_costs_nothing_else(tmp_path: Path) -> None:
    rule(tmp_path, "broken", "p (x) => (z) { z = Abs (x) }", "return 1 / 0")
    chosen = ("broken", "replace_lrn")
    result = tuned(model_of(CHAIN, {"w": W}), only=chosen, force_rules=chosen, rules=(tmp_path,))
    assert [k.rewrite.rule for k in result.report.kept] == ["replace_lrn"]
    (decline,) = [o for o in result.report.outcomes if isinstance(o, Decline) and o.rule == "broken"]
    assert "ZeroDivisionError" in decline.reason


def test_rules_that_need_data_or_only_advise_rewrite_nothing(tmp_path: Path) -> None:
    for safety in ("calibrated", "advice"):
        rule(tmp_path, *GOOD, extra=f'safety = "{safety}"')
        result = tuned(model_of(CHAIN, {"w": W}), only=("double_abs",), force_rules=("double_abs",), rules=(tmp_path,))
        assert result.report.status == "nothing to gain"
        assert operators(result).count("Abs") == 1


def test_an_enabling_rewrite_stays_only_where_another_stands_on_it(tmp_path: Path, clock: list[float]) -> None:
    clock[:] = [1.0]
    split = ("split", "p (x) => (z) { z = Abs (x) }", 'return new.Max(match["x"], new.Neg(match["x"]))')
    rule(tmp_path, *split, extra="enabling = true")
    source = model_of("g (float[N, 3] x) => (float[N, 3] y) { a = Abs (x)  y = Relu (a) }")
    alone = tuned(source, only=("split",), rules=(tmp_path,))
    assert alone.report.status == "nothing to gain"
    assert alone.report.rejected[0].reason == "no measurable change: 1.00x [1.00, 1.00]"
    code = 'return new.Relu(new.Max(match["n"], match["x"]))'
    rule(tmp_path, "swap", "p (x, n) => (z) { m = Max (x, n)  z = Relu (m) }", code)
    both = tuned(source, only=("split", "swap"), force_rules=("swap",), rules=(tmp_path,))
    assert {(k.rewrite.rule, k.reason) for k in both.report.kept} == {
        ("split", "lets other rules fire"),
        ("swap", "forced"),
    }


def test_enabling_rewrites_survive_a_small_loss_within_the_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No measurable change may read as a loss of a microsecond: that is no reason to drop it."""

    def measure(before: Any, after: Any, plan: Plan) -> Comparison:
        one = np.full(4, 1e-3)
        return Comparison(one, one * 1.001, 0.999, 0.99, 1.01, 0.0, 0.99)

    monkeypatch.setattr(onnxtune.trial, "measure", measure)
    split = ("split", "p (x) => (z) { z = Abs (x) }", 'return new.Max(match["x"], new.Neg(match["x"]))')
    rule(tmp_path, *split, extra="enabling = true")
    code = 'return new.Relu(new.Max(match["n"], match["x"]))'
    rule(tmp_path, "swap", "p (x, n) => (z) { m = Max (x, n)  z = Relu (m) }", code)
    source = model_of("g (float[N, 3] x) => (float[N, 3] y) { a = Abs (x)  y = Relu (a) }")
    result = tuned(source, only=("split", "swap"), force_rules=("swap",), rules=(tmp_path,))
    assert {k.rewrite.rule for k in result.report.kept} == {"split", "swap"}


def test_a_weight_that_a_caller_may_feed_is_never_folded_away(tmp_path: Path, clock: list[float]) -> None:
    """A step that took `k` for a constant stands on the freezing of `k`, though the numbers agree without it."""
    clock[:] = [1.0]
    (tmp_path / "halve.toml").write_text(
        'name = "halve"\ncode = "U1"\nsummary = "s"\nwhy = "w"\n'
        '[pattern]\ngraph = "p (x, k) => (z) { z = Mul (x, k) }"\nconstants = ["k"]\n'
    )
    (tmp_path / "halve.py").write_text(
        'def rewrite(match, new, settings):\n    half = match.constant("k") / 2\n'
        '    return new.Add(new.Mul(match["x"], half), new.Mul(match["x"], half))\n'
    )
    source = model_of(
        "g (float[N, 4] x, float[4] k) => (float[N, 4] y) { y = Mul (x, k) }", {"k": np.ones(4, np.float32)}
    )
    result = tuned(source, only=("halve", "freeze_initializers"), force_rules=("halve",), rules=(tmp_path,))
    assert "halve" in {k.rewrite.rule for k in result.report.kept}
    assert [i.name for i in result.model.graph.input] == ["x"]


# --- the fixed point -------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
def test_optimising_the_result_again_changes_nothing(tmp_path: Path, external: bool) -> None:
    first = forced()
    path = tmp_path / "model.tuned.onnx"
    first.save(path, external=external)
    again = forced(path)
    assert again.report.status == "already tuned"
    assert again.report.outcomes == ()
    assert again.report.seconds == {}, "nothing was measured or verified"
    assert again.model.graph == onnx.load(path).graph
    again.save(tmp_path / "again.onnx", external=external)
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(path)


def test_an_original_that_was_kept_is_a_fixed_point_too(tmp_path: Path) -> None:
    source = model_of("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }")
    tuned(source).save(tmp_path / "m.onnx")
    assert tuned(tmp_path / "m.onnx").report.status == "already tuned"


@pytest.mark.parametrize(
    "options", [{"threads": 2}, {"seed": 1}, {"min_speedup": 1.5}, {"time_budget": 60.0}, {"rtol": 0.1}]
)
def test_other_settings_are_another_question(options: Any) -> None:
    assert forced(forced().model, **options).report.status != "already tuned"


def test_a_result_that_somebody_changed_is_looked_at_again() -> None:
    model = forced().model
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 1))
    assert forced(model).report.status != "already tuned"


@pytest.mark.parametrize("value", ["not json", "3", '{"a": 1}'])
def test_metadata_that_somebody_damaged_is_no_error(value: str) -> None:
    model = forced().model
    next(p for p in model.metadata_props if p.key == "onnxtune.settings").value = value
    assert forced(model).report.status != "already tuned"


def test_metadata_of_the_result() -> None:
    source = network()
    source.metadata_props.add(key="author", value="somebody")
    result = forced(source)
    found = {p.key: p.value for p in result.model.metadata_props}
    assert found.pop("author") == "somebody"
    values = {key.removeprefix("onnxtune."): json.loads(value) for key, value in found.items()}
    assert values["version"] == onnxtune.__version__
    assert values["rules"] == {"replace_lrn": 1}
    assert values["settings"]["threads"] == 1
    assert len(values["source_sha256"]) == 64
    assert values["speedup"] > 0
    again = forced(result.model, seed=5)
    assert len({p.key for p in again.model.metadata_props}) == len(again.model.metadata_props)


# --- the same again --------------------------------------------------------------------------------------


def test_with_a_filled_cache_the_same_bytes(tmp_path: Path) -> None:
    store = tmp_path / "m.sqlite"
    forced(cache=store)
    first, second = (forced(cache=store) for _ in range(2))
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)
    assert first.report.speedup == second.report.speedup
    assert [type(o) for o in first.report.outcomes] == [type(o) for o in second.report.outcomes]


def test_the_cache_is_where_it_is_told_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    clock[:] = [1.5]
    monkeypatch.setenv("ONNXTUNE_CACHE_DIR", str(tmp_path / "folder"))
    forced(cache=True)
    assert (tmp_path / "folder" / "measurements.sqlite").exists()


def test_the_report_goes_through_json() -> None:
    report = forced().report
    found = json.loads(report.to_json())
    assert found == report.to_dict()
    assert found["schema"] == SCHEMA
    assert {"kept", "rejected"} <= {o["kind"] for o in found["outcomes"]}
    assert len(found["comparison"]["before"]) == len(found["comparison"]["after"]) >= 3
    assert found["comparison"]["verdict"] in ("faster", "slower", "no measurable change")
    assert found["settings"]["seed"] == 0
    assert found["speedup"] == report.speedup
    nothing = tuned(model_of("g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }")).report
    assert json.loads(nothing.to_json()) == nothing.to_dict()


def test_progress_is_told() -> None:
    stages: list[str] = []
    forced(notify=lambda stage, done, total: stages.append(stage))
    assert any("measuring replace_lrn" in s for s in stages)
    assert "verifying" in stages
    assert "confirming on the whole model" in stages


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    forced()
    assert capfd.readouterr() == ("", "")


# --- what the user gives ---------------------------------------------------------------------------------


def test_the_users_inputs_are_verified() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    result = forced(inputs=[{"x": x}, {"wrong": x}])
    assert "user input 1" in result.report.verification["cases"]
    (note,) = [n for n in result.report.notes if "user input 2" in n]
    assert "left out" in note


def test_assumed_sizes_are_said() -> None:
    text = TEXT.replace("12, 12", "H, W").replace("10, 10", "A, B")
    result = forced(model_of(text, {"w": W}), input_shapes={"x": (1, 3, 12, 12)})
    assert result.report.notes == ()
    assert result.report.settings["measured_sizes"] == {"x": [1, 3, 12, 12]}
    source = model_of("g (float[N, F] x) => (float[N, F] y) { y = Relu (x) }")
    assert tuned(source).report.notes == ("input 'x' axis 1 is dynamic; 16 was assumed",)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"only": ("nothing",)}, UsageError, "unknown rule 'nothing'"),
        ({"force_rules": ("nothing",)}, UsageError, "unknown rule 'nothing'"),
        ({"settings": {"nothing": {}}}, UsageError, "unknown rule 'nothing'"),
        ({"settings": {"replace_lrn": {"a": 1}}}, RuleError, "unknown setting 'a'"),
        ({"input_shapes": {"z": (1,)}}, UsageError, "names 'z'"),
        ({"providers": "quantum"}, UsageError, "unknown provider"),
        ({"rules": ("nowhere",)}, UsageError, "no such folder"),
    ],
)
def test_wrong_arguments(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tuned(**options)


def test_a_model_that_onnx_runtime_cannot_run() -> None:
    source = model_of("g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }", opset=17)
    source.graph.node[0].domain = "com.example"
    source.opset_import.add(domain="com.example", version=1)
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        tuned(source)


def test_outcomes_are_of_three_kinds() -> None:
    assert all(isinstance(o, (Kept, Rejected, Decline)) for o in forced().report.outcomes)


# --- real models -----------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("name", ["caffe_lenet_mnist", "version-RFB-320", "mlperf_resnet8_cifar10_qdq"])
def test_real_models_come_back_whole(shared: Path, name: str, clock: list[float], tmp_path: Path) -> None:
    """Every rule on old and quantised models, all measurements neutral: nothing breaks, the original returns."""
    clock[:] = [1.0]
    path = shared / "models" / f"{name}.onnx"
    result = tuned(path)
    assert result.report.status == "nothing to gain"
    assert bare(result.model) == onnx.load(path)


# --- late rules ------------------------------------------------------------------------------------------


def late_network() -> onnx.ModelProto:
    """A Conv with a BatchNormalization, which a late rule must not see before it is folded."""
    rng = np.random.default_rng(0)
    vectors = {n: rng.uniform(0.5, 1.5, 16).astype(np.float32) for n in ("s", "o", "m", "v")}
    text = """g (float[N, 16, 12, 12] x) => (float[N, 16, 12, 12] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)  y = BatchNormalization (c, s, o, m, v) }"""
    return model_of(text, {"w": rng.standard_normal((16, 16, 3, 3)).astype(np.float32), **vectors})


def test_late_rules_come_after_all_others(clock: list[float]) -> None:
    clock[:] = [1.3]
    result = tuned(late_network(), only=("fold_batchnorm", "winograd_conv"))
    assert [k.rewrite.rule for k in result.report.kept] == ["fold_batchnorm", "winograd_conv"]
    assert "BatchNormalization" not in operators(result)


def test_late_rules_need_measurements() -> None:
    result = tuned(late_network(), only=("winograd_conv",), measure=False)
    assert result.report.status == "nothing to gain"
    assert operators(result) == ["Conv", "BatchNormalization"]
