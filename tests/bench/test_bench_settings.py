"""Settings of the runtime: what is tried where, how winners go together, and code that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from rich.console import Console

import onnxtune
from onnxtune.bench import settings as module
from onnxtune.bench.insight import check_single, insights
from onnxtune.bench.settings import Choice, Tried, Tuning, choices, code, thread_counts, together, tune_runtime
from onnxtune.cli import main
from onnxtune.comparison import Comparison
from onnxtune.errors import ModelError, UsageError
from onnxtune.facts import Facts
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.render.settings import show
from onnxtune.runtime import CPU, CUDA, Session, Settings, Target
from onnxtune.testing import model_of

MODEL = Model(model_of("g (float[1, 8] x) => (float[1, 8] y) { a = Relu (x)  y = Neg (a) }"), "m.onnx")
BRANCHING = Model(model_of("g (float[8] x) => (float[8] y) { a = Relu (x)  b = Neg (a)  c = Abs (a)  y = Add (b, c) }"))
X = {"x": np.ones((1, 8), np.float32)}
QUICK = Plan(warmup=0.0, rounds=2, duration=0.05, blocks=4, most=4)


def result(speedup: float, sure: bool = True) -> Comparison:
    one = np.ones(1)
    return Comparison(one, one, speedup, speedup - 0.01 if sure else 0.5, speedup + 0.01 if sure else 2.0, 0.001, 0.99)


def labels(model: Model, target: Target) -> list[str]:
    return [c.label for c in choices(Facts(model), target)]


@pytest.mark.parametrize(
    ("physical", "logical", "counts"),
    [(1, 1, [1]), (2, 2, [1, 2]), (4, 8, [1, 2, 3, 4, 8]), (24, 48, [1, 2, 4, 8, 16, 24, 48]), (16, 4, [1, 2, 3, 4])],
)
def test_numbers_of_threads(physical: int, logical: int, counts: list[int]) -> None:
    assert thread_counts(physical, logical) == counts


def test_what_is_tried_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 2)
    monkeypatch.setattr(module, "usable_cores", lambda: 4)
    common = ["optimisation level basic", "optimisation level extended", "no memory arena"]
    assert labels(MODEL, Target()) == ["1 thread", "4 threads", "idle threads sleep", *common]
    assert labels(MODEL, Target(threads=1)) == ["2 threads", "4 threads", *common]
    assert "branches in parallel" in labels(BRANCHING, Target())


def test_what_is_tried_on_a_gpu() -> None:
    found = list(choices(Facts(MODEL), Target(CUDA, {"prefer_nhwc": "0", "device_id": "1"})))
    assert {c.label for c in found} >= {"heuristic algorithm search", "CUDA graph", "optimisation level basic"}
    assert not {"channels last", "no memory arena", "1 thread"} & {c.label for c in found}
    assert all(c.target.options["device_id"] == "1" for c in found)
    assert not any("tf32" in name for c in found for name in c.target.options), "it changes the numbers"


DEFAULT = Choice("", "defaults", Target(), Settings())


def choice(kind: str, label: str, threads: int = 0, **settings: Any) -> Choice:
    return Choice(kind, label, Target(threads=threads), Settings(**settings))


def test_the_fastest_of_each_kind_go_together() -> None:
    tried = [
        Tried(choice("threads", "two", 2), result(1.2)),
        Tried(choice("threads", "four", 4), result(1.5)),
        Tried(choice("arena", "no arena", arena=False), result(1.1)),
        Tried(choice("level", "basic", level="basic"), result(1.9, sure=False)),
        Tried(choice("parallel", "parallel", parallel=True), None, "cannot be used"),
    ]
    single, both = module._picked(DEFAULT, tried)
    assert single.label == "four"
    assert (both.label, both.target.threads) == ("four, no arena", 4)
    assert both.settings == Settings(arena=False)


def test_one_thread_has_none_to_wait_for() -> None:
    tried = [
        Tried(choice("threads", "1 thread", 1), result(1.2)),
        Tried(choice("spinning", "sleep", spinning=False), result(1.3)),
    ]
    assert [c.label for c in module._picked(DEFAULT, tried)] == ["1 thread"]


def test_nothing_is_faster() -> None:
    assert module._picked(DEFAULT, [Tried(choice("threads", "two", 2), result(0.8))]) == []
    assert module._picked(DEFAULT, []) == []


def test_options_of_a_provider_go_together() -> None:
    target = Target(CUDA, {"device_id": "1"})
    parts = [
        Choice("a", "nhwc", Target(CUDA, {"device_id": "1", "prefer_nhwc": "1"}), Settings()),
        Choice("b", "graph", Target(CUDA, {"device_id": "1", "enable_cuda_graph": "1"}), Settings()),
    ]
    both = together(Choice("", "", target, Settings()), parts)
    assert both.target.options == {"device_id": "1", "prefer_nhwc": "1", "enable_cuda_graph": "1"}


@pytest.mark.parametrize(
    "chosen",
    [
        Choice("x", "x", Target(threads=1), Settings()),
        Choice("x", "x", Target(), Settings("extended", parallel=True, arena=False, spinning=False)),
        Choice("x", "x", Target(threads=2), Settings("basic")),
    ],
)
def test_the_code_makes_such_a_session(chosen: Choice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it's a model.onnx"
    onnx.save(MODEL.proto, path)
    names: dict[str, Any] = {}
    exec(code(str(path), chosen), names)
    session, given = names["session"], names["options"]
    assert session.get_providers() == [CPU]
    levels = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
    assert given.graph_optimization_level.name == levels[chosen.settings.level]
    assert given.intra_op_num_threads == chosen.target.threads
    assert given.enable_cpu_mem_arena is chosen.settings.arena
    assert (given.execution_mode.name == "ORT_PARALLEL") is chosen.settings.parallel
    if not chosen.settings.spinning:
        assert given.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.run(None, X)[0].shape == (1, 8)


def test_the_code_for_a_gpu_names_its_options() -> None:
    text = code("m.onnx", Choice("x", "x", Target(CUDA, {"enable_cuda_graph": "1"}), Settings()))
    assert f"providers=[('{CUDA}', {{'enable_cuda_graph': '1'}}), '{CPU}']" in text
    assert "io_binding" in text
    compile(text, "code", "exec")


def test_on_a_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says: everything is tried, and the outcome fits what was measured."""
    monkeypatch.setattr(module, "LOOK", 0.0)
    monkeypatch.setattr(module, "HOPELESS", 0.0)
    found = tune_runtime(MODEL, X, Target(threads=1), plan=QUICK)
    assert {t.choice.label for t in found.tried} >= {"optimisation level basic", "no memory arena"}
    assert all(t.comparison is not None for t in found.tried)
    assert (found.code == "") is (found.best is None)
    assert found.best is None or (found.confirmed is not None and found.confirmed.verdict == "faster")
    out = Console(record=True, width=120)
    show(found, console=out)
    assert "(same model)" in out.export_text()
    jsonschema.validate(json.loads(json.dumps(found.as_json())), schema("runtime_settings"))


def played(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], broken: str = "") -> None:
    """Sessions take the given time by their settings' level; samples are these times."""

    def quick(model: Model, chosen: Choice, feeds: Any) -> float:
        if chosen.settings.level == broken:
            raise ModelError("m.onnx: it does not")
        return seconds[chosen.settings.level]

    def measured(model: Model, contestants: Any, feeds: Any, plan: Plan) -> tuple[Comparison, ...]:
        first = seconds[contestants[0].settings.level]
        return tuple(result(first / seconds[c.settings.level]) for c in contestants[1:])

    monkeypatch.setattr(module, "_quick", quick)
    monkeypatch.setattr(module, "_measured", measured)
    monkeypatch.setattr(module, "thread_counts", lambda *_: [])


def test_the_best_is_confirmed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, {"all": 1.0, "basic": 0.5, "extended": 2.0})
    found = tune_runtime(MODEL, X, Target(threads=1))
    assert found.best is not None
    assert found.best.label == "optimisation level basic"
    assert found.confirmed is not None
    assert found.confirmed.speedup == 2.0
    assert "ORT_ENABLE_BASIC" in found.code
    jsonschema.validate(json.loads(json.dumps(found.as_json())), schema("runtime_settings"))
    hopeless = next(t for t in found.tried if t.choice.label.endswith("extended"))
    assert (hopeless.comparison, hopeless.problem) == (None, "about 0.5x at a first look: not measured further")
    out = Console(record=True, width=120)
    show(found, console=out)
    assert "Best: optimisation level basic: 2.000x" in out.export_text()


def test_a_best_that_is_not_confirmed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, {"all": 1.0, "basic": 0.9, "extended": 1.0})
    real = module._measured

    def measured(model: Model, contestants: Any, feeds: Any, plan: Plan) -> tuple[Comparison, ...]:
        return real(model, contestants, feeds, plan) if plan.seed == 0 else (result(1.1, sure=False),)

    monkeypatch.setattr(module, "_measured", measured)
    found = tune_runtime(MODEL, X, Target(threads=1))
    assert (found.best, found.code) == (None, "")
    out = Console(record=True, width=120)
    show(found, console=out)
    assert "Nothing beats the defaults: the best attempt, measured anew, came to 1.100x" in out.export_text()


def test_what_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, {"all": 1.0, "extended": 1.0}, broken="basic")
    found = tune_runtime(MODEL, X, Target(threads=1))
    assert [t.problem for t in found.tried if t.problem] == ["cannot be used: m.onnx: it does not"]


def test_a_model_that_does_not_run() -> None:
    with pytest.raises(ModelError, match=r"^m\.onnx: "):
        tune_runtime(MODEL, {"z": X["x"]}, Target(threads=1))


def test_never_mixed_with_a_comparison_of_models() -> None:
    with pytest.raises(UsageError, match="takes one model"):
        check_single(2, 1)
    with pytest.raises(UsageError, match="one batch"):
        check_single(1, 2)
    with pytest.raises(UsageError, match="takes one model"):
        insights([MODEL.proto, MODEL.proto], tuned=True)


def test_an_empty_wish_does_nothing() -> None:
    assert insights(["no such file.onnx"]) == ((), None)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, words)])
    return int(stop.value.code or 0)


def schema(name: str) -> Any:
    found = json.loads((Path(onnxtune.__file__).parent / f"assets/{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


FAST = ("--iterations", 10, "--no-memory", "--providers", "cpu", "--threads", 1, "--warmup", 0)


def test_sections_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnxtune.bench.roofline.GEMM", {False: 64})
    monkeypatch.setattr("onnxtune.bench.roofline.COPY", {False: 2**16})
    monkeypatch.setattr(
        "onnxtune.bench.insight.tune_runtime", lambda model, *_, **__: Tuning(model.name, (), None, None)
    )
    onnx.save(MODEL.proto, "m.onnx")
    assert run("m.onnx", "--profile", "--tune-runtime", "--json", "report.json", *FAST) == 0
    said = capsys.readouterr().out
    assert (
        said.index("median") < said.index("Where the time of m.onnx goes") < said.index("Runtime settings for m.onnx")
    )
    report = json.loads(Path("report.json").read_text())
    assert report["profiles"][0]["layers"]
    jsonschema.validate(report["profiles"][0], schema("profile"))
    jsonschema.validate(report["runtime_settings"], schema("runtime_settings"))
    assert report["runtime_settings"]["best"] is None


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("m.onnx", "--tune-runtime"), 2, "--tune-runtime: takes one model"),
        (("--cuda-graph",), 2, "--cuda-graph: a setting of CUDA and Tensorrt, not of CPU"),
        (("--prefer-nhwc",), 2, "a setting of CUDA, not of CPU"),
        (("--batch", "1,2", "--tune-runtime"), 2, "--tune-runtime: takes one batch"),
        (("--cudnn-conv-algo-search", "best"), 2, "is not one of"),
    ],
)  # fmt: skip
def test_wrong_usage(
    flags: Any,
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL.proto, "m.onnx")
    assert run("m.onnx", *flags, *FAST) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_include_copies_says_what_it_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL.proto, "m.onnx")
    calls: list[bool] = []
    real = Session.runner

    def runner(self: Session, feeds: Any, *, include_copies: bool = False) -> Any:
        calls.append(include_copies)
        return real(self, feeds, include_copies=include_copies)

    monkeypatch.setattr(Session, "runner", runner)
    assert run("m.onnx", "--include-copies", *FAST) == 0
    assert "note: --include-copies: on the CPU" in capsys.readouterr().out
    assert all(calls)
    assert calls
