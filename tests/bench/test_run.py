"""`onnxtune bench` from the outside: what it says, what it writes, and how it ends."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

import onnxtune
from onnxtune.bench import api, machine
from onnxtune.cli import main
from onnxtune.errors import ModelError, UsageError
from onnxtune.testing import model_of

TEXT = """<ir_version: 8, opset_import: ["": 13]> g (float[1,4,8,8] %s) => (float[1,4,8,8] y) { y = Relu(%s) }"""
OPEN = "g (float[N, 3, 8, 8] x) => (float[N, 144] y) { c = Conv (x, w)  y = Flatten (c) }"
MIXED = "g (float[1, 3, 8, 8] x) => (float[3, 1, 8, 8] y) { y = Transpose <perm = [1, 0, 2, 3]> (x) }"
FIXED = "g (float[1, 3, 8, 8] x) => (float[1, 144] y) { c = Conv (x, w)  y = Reshape (c, s) }"
WEIGHTS = {"w": np.ones((4, 3, 3, 3), np.float32), "s": np.array([1, 144])}
QUICK = ("--iterations", "20", "--warmup", "0", "--no-memory")


def written(folder: Path, name: str, reads: str = "x") -> str:
    path = folder / name
    onnx.save(onnx.parser.parse_model(TEXT % (reads, reads)), path)
    return str(path)


def saved(folder: Path, name: str, text: str) -> str:
    path = folder / name
    onnx.save(model_of(text, {n: w for n, w in WEIGHTS.items() if f" {n})" in text}), path)
    return str(path)


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--providers", "cpu", *arguments])
    return stop.value.code


def checked(report: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = json.loads((files("onnxtune") / "assets" / "benchmark.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    return report


benchmark = partial(onnxtune.benchmark, providers="cpu", iterations=20, warmup=0.0, memory=False)


# --- comparing -------------------------------------------------------------------------------------------


def test_three_models_each_against_the_first(tmp_path: Path) -> None:
    names = [written(tmp_path, n) for n in ("a.onnx", "b.onnx", "c.onnx")]
    report = benchmark(names)
    assert report.models == ("a.onnx", "b.onnx", "c.onnx")
    (case,) = report.cases
    assert [c is not None for c in case.comparisons] == [True, True]
    assert [row.summary.count for row in case.measured] == [20, 20, 20]
    found = checked(report.to_dict())
    assert [c["against"] for c in found["cases"][0]["comparisons"]] == ["a.onnx", "a.onnx"]


def test_comparisons_share_the_chance_of_error(tmp_path: Path) -> None:
    report = benchmark([written(tmp_path, "a.onnx")] * 3)
    assert [c.error for c in report.cases[0].comparisons if c] == pytest.approx([0.005, 0.005])


def test_a_slower_model_is_found_slower() -> None:
    """Ten convolutions against one: no noise hides that."""
    weight = {"w": np.ones((16, 16, 3, 3), np.float32)}
    chains = []
    for length in (2, 20):
        steps = "  ".join(f"x{i + 1} = Conv <pads = [1, 1, 1, 1]> (x{i}, w)" for i in range(length))
        chains.append(model_of(f"g (float[1,16,32,32] x0) => (float[1,16,32,32] x{length}) {{ {steps} }}", weight))
    report = onnxtune.benchmark(chains, providers="cpu", threads=1, duration=1.0, warmup=0.0, memory=False)
    comparison = report.cases[0].comparisons[0]
    assert comparison is not None
    assert comparison.verdict == "slower"
    assert comparison.high < 0.5


def test_one_model_alone_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(written(tmp_path, "a.onnx"), *QUICK) == 0
    said = capsys.readouterr().out
    assert "a.onnx" in said
    assert "two sessions of it differ by that" in said
    assert not any(word in said for word in ("faster", "slower", "measurable"))


def test_two_models_and_their_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(written(tmp_path, "a.onnx"), written(tmp_path, "b.onnx"), *QUICK, "--percentile", "50,75") == 0
    said = capsys.readouterr().out
    assert "% interval" in said
    assert "against a.onnx" in said
    assert "p75" in said
    assert "p99 " not in said.split("warning:")[0]  # warnings may speak of it


def test_memory_is_measured_unless_told_not_to(tmp_path: Path) -> None:
    report = benchmark(written(tmp_path, "a.onnx"), memory=True)
    row = report.cases[0].measured[0]
    assert row.memory is not None
    assert row.memory.needed is None or row.memory.needed >= 0
    assert row.model_bytes == (tmp_path / "a.onnx").stat().st_size
    checked(report.to_dict())


# --- sweeps ----------------------------------------------------------------------------------------------


def test_a_sweep_over_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [saved(tmp_path, "open.onnx", OPEN), saved(tmp_path, "fixed.onnx", FIXED), saved(tmp_path, "m.onnx", MIXED)]
    out = tmp_path / "r.json"
    assert code_of(*paths, *QUICK, "--batch", "1,2,4", "--json", str(out)) == 0
    report = checked(json.loads(out.read_text()))
    assert [case["batch"] for case in report["cases"]] == [1, 2, 4]
    kinds = [[row["kind"] for row in case["results"]] for case in report["cases"]]
    assert kinds == [["measured"] * 3, ["measured", "measured", "failed"], ["measured", "measured", "failed"]]
    last = report["cases"][2]
    assert last["shapes"] == {"x": [4, 3, 8, 8]}
    assert last["results"][1]["rewritten"] == "batch of 1 made free"
    assert last["results"][2]["reason"].startswith("its batch is fixed at 1: output 'y' has no batch axis")
    assert last["results"][2]["fits"] is True
    assert [len(case["comparisons"]) for case in report["cases"]] == [2, 1, 1]
    assert [k["batch"] in (1, 2, 4) for k in report["knees"]] == [True, True, False]
    said = capsys.readouterr().out
    assert "is the smallest with at least 95 % of the best throughput" in said
    assert "its batch is fixed at 1" in said


def test_one_batch_that_does_not_fit_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(saved(tmp_path, "m.onnx", MIXED), *QUICK, "--batch", "4") == 3
    assert capsys.readouterr().err == ("onnxtune: m.onnx: its batch is fixed at 1: output 'y' has no batch axis\n")


def test_no_batch_of_a_sweep_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(saved(tmp_path, "m.onnx", MIXED), *QUICK, "--batch", "2,4") == 3
    assert "its batch is fixed at 1" in capsys.readouterr().err


def test_out_of_memory_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the batch that does not fit on nothing larger is tried."""
    monkeypatch.setattr("onnxtune.bench.room.available", lambda: 60_000)
    report = benchmark(saved(tmp_path, "open.onnx", OPEN), batch=(1, 2, 64, 128))
    reasons = [getattr(case.rows[0], "reason", "") for case in report.cases]
    assert reasons[:2] == ["", ""]
    assert reasons[2].startswith("out of memory: 2 sessions side by side need about")
    assert reasons[3] == "not tried: batch 64 did not fit into memory"
    assert [getattr(case.rows[0], "fits", None) for case in report.cases[2:]] == [False, False]
    checked(report.to_dict())


def test_memory_that_runs_out_while_measuring_is_a_result(tmp_path: Path) -> None:
    made = []

    def opener(model: Any, feeds: Any) -> Any:
        def make() -> Any:
            made.append(feeds["x"].shape[0])
            if feeds["x"].shape[0] == 4:
                raise ModelError("m: ONNX Runtime cannot load it (std::bad_alloc)")
            return lambda: None

        return make

    report = benchmark(saved(tmp_path, "open.onnx", OPEN), batch=(2, 4, 8), opener=opener)
    assert [case.rows[0].model for case in report.cases] == ["open.onnx"] * 3
    assert getattr(report.cases[1].rows[0], "reason", "").startswith("out of memory with 2 sessions side by side")
    assert getattr(report.cases[2].rows[0], "reason", "") == "not tried: batch 4 did not fit into memory"
    assert 8 not in made


def test_other_failures_while_measuring_are_errors(tmp_path: Path) -> None:
    def opener(model: Any, feeds: Any) -> Any:
        def make() -> Any:
            raise ModelError("m: ONNX Runtime cannot load it (no such kernel)")

        return make

    with pytest.raises(ModelError, match="no such kernel"):
        benchmark(saved(tmp_path, "open.onnx", OPEN), batch=(2, 4), opener=opener)


def test_a_sweep_over_shapes(tmp_path: Path) -> None:
    text = "g (float[1, 3, H, W] x) => (float[1, 3, H, W] y) { y = Relu (x) }"
    report = benchmark(saved(tmp_path, "m.onnx", text), input_shapes=[{"x": (1, 3, 8, 8)}, {"x": (1, 3, 16, 16)}])
    assert [c.label for c in report.cases] == ["x:1x3x8x8", "x:1x3x16x16"]
    assert [c.shapes["x"] for c in report.cases] == [(1, 3, 8, 8), (1, 3, 16, 16)]
    assert report.notes == ()
    assert benchmark(saved(tmp_path, "m.onnx", text)).notes == (
        "input 'x' axis 2 is dynamic; 224 was assumed",
        "input 'x' axis 3 is dynamic; 224 was assumed",
    )


# --- inputs, outputs -------------------------------------------------------------------------------------


def test_the_users_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = saved(tmp_path, "open.onnx", OPEN), tmp_path / "x.npz"
    np.savez(data, x=np.full((5, 3, 8, 8), np.nan, np.float32))
    assert code_of(model, *QUICK, "--data", str(data), "--json", "-") == 0
    report = checked(json.loads(capsys.readouterr().out))
    assert report["cases"][0]["shapes"] == {"x": [5, 3, 8, 8]}
    assert report["settings"]["inputs"] == "given"
    assert "OddValues" in {w["kind"] for w in report["cases"][0]["warnings"]}
    assert code_of(model, *QUICK, "--data", str(data), "--batch", "2") == 2
    np.savez(data, x=np.ones((1, 3, 8, 9), np.float32))
    assert code_of(model, *QUICK, "--data", str(data)) == 3
    np.savez(data, z=np.ones((1, 3, 8, 8), np.float32))
    assert code_of(model, *QUICK, "--data", str(data)) == 3
    assert code_of(model, *QUICK, "--data", str(tmp_path / "none.npz")) == 3


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written(tmp_path, "a.onnx"), written(tmp_path, "b.onnx")
    names = {"csv": "--csv", "md": "--markdown", "json": "--json", "gha": "--export-benchmark"}
    flags = [word for end, flag in names.items() for word in (flag, str(tmp_path / f"r.{end}"))]
    assert code_of(a, b, *QUICK, *flags, "--quiet") == 0
    assert capsys.readouterr().out == ""
    report = checked(json.loads((tmp_path / "r.json").read_text()))
    results = report["cases"][0]["results"]
    samples = np.array(results[0]["samples"], float)
    assert samples.shape == (10, 1, 2)
    assert np.nanmedian(samples) == pytest.approx(results[0]["latency"]["median"])
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [r["model"] for r in rows] == ["a.onnx", "b.onnx"]
    assert float(rows[1]["median_s"]) == results[1]["latency"]["median"]
    assert float(rows[1]["p99_s"]) == results[1]["latency"]["percentiles"]["99"]
    assert rows[1]["verdict"] == report["cases"][0]["comparisons"][0]["verdict"]
    entries = json.loads((tmp_path / "r.gha").read_text())
    assert [(e["name"], e["unit"]) for e in entries] == [("a.onnx", "ms"), ("b.onnx", "ms")]
    assert entries[0]["value"] == pytest.approx(1e3 * results[0]["latency"]["median"])
    table = (tmp_path / "r.md").read_text()
    assert "| `a.onnx` |" in table
    assert table.count("|") % table.count("\n| ") == 0


def test_one_result_on_stdout_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path, "a.onnx")
    assert code_of(a, *QUICK, "--markdown", "-") == 0
    assert capsys.readouterr().out.startswith("**CPU**")
    assert code_of(a, *QUICK, "--json", "-", "--csv", "-") == 2


def test_a_model_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path, "a.onnx")
    assert code_of(a, "--json", a) == 2
    assert "give it a file of its own" in capsys.readouterr().err
    assert code_of(a, "--json", str(tmp_path / "r"), "--csv", str(tmp_path / "r")) == 2
    assert code_of(a, "--csv", str(tmp_path / "none" / "r.csv")) == 2


# --- the baseline ----------------------------------------------------------------------------------------


def test_a_baseline_and_its_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, old = saved(tmp_path, "a.onnx", OPEN), tmp_path / "old.json"
    assert code_of(a, *QUICK, "--json", str(old), "--quiet") == 0
    report = json.loads(old.read_text())
    for row in report["cases"][0]["results"]:
        row["samples"] = (np.full((10, 1, 2), 1e-9) * np.random.default_rng(0).uniform(1, 1.1, (10, 1, 2))).tolist()
        row["noise"] = 0.0
    fast = tmp_path / "fast.json"
    fast.write_text(json.dumps(report))
    assert code_of(a, *QUICK, "--baseline", str(fast)) in (0, 1)  # a very noisy machine may see no difference
    for row in report["cases"][0]["results"]:
        row["samples"] = (np.array(row["samples"]) * 1e12).tolist()
    fast.write_text(json.dumps(report))
    assert code_of(a, *QUICK, "--baseline", str(fast)) == 0, "faster than the baseline"
    assert "x the baseline's time" in capsys.readouterr().out


def test_a_slowdown_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, old = saved(tmp_path, "a.onnx", OPEN), tmp_path / "old.json"
    assert code_of(a, "--iterations", "100", "--no-memory", "--json", str(old), "--quiet") == 0
    report = json.loads(old.read_text())
    for row in report["cases"][0]["results"]:
        scale = 1e-3 * np.random.default_rng(0).uniform(1, 1.01, np.shape(row["samples"]))
        row.update(samples=(scale * row["latency"]["median"]).tolist(), noise=0.0)
    old.write_text(json.dumps(report))
    assert code_of(a, "--iterations", "100", "--no-memory", "--baseline", str(old), "--fail-slower", "20%") == 1
    assert "slower than --fail-slower 0.2 allows" in capsys.readouterr().err


def test_the_baseline_of_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, old = written(tmp_path, "a.onnx"), tmp_path / "old.json"
    assert code_of(a, *QUICK, "--json", str(old), "--quiet") == 0
    report = json.loads(old.read_text())
    report["machine"].update(key="0" * 16, device="another CPU")
    old.write_text(json.dumps(report))
    capsys.readouterr()
    assert code_of(a, *QUICK, "--baseline", str(old)) == 2
    assert "was measured on another machine (another CPU, this is" in capsys.readouterr().err
    assert code_of(a, *QUICK, "--baseline", str(old), "--force", "--fail-slower", "900%") in (0, 1)
    assert code_of(a, *QUICK, "--baseline", str(tmp_path / "none.json")) == 3


# --- what is refused -------------------------------------------------------------------------------------


def test_other_inputs_are_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(written(tmp_path, "a.onnx"), written(tmp_path, "b.onnx", "z")) == 2
    assert "takes other inputs (z)" in capsys.readouterr().err


def test_missing_model(tmp_path: Path) -> None:
    assert code_of(str(tmp_path / "none.onnx")) == 3


def test_other_element_type_is_wrong_usage(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    onnx.save(onnx.parser.parse_model((TEXT % ("x", "x")).replace("float[", "float16[")), path)
    assert code_of(written(tmp_path, "a.onnx"), str(path)) == 2


def test_other_sizes_are_an_unusable_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "large.onnx"
    onnx.save(onnx.parser.parse_model((TEXT % ("x", "x")).replace("8,8", "9,9")), path)
    assert code_of(written(tmp_path, "a.onnx"), str(path), "--no-memory") == 3
    assert "large.onnx: ONNX Runtime cannot run it" in capsys.readouterr().err


def test_a_provider_that_does_not_work_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--providers", "coreml", written(tmp_path, "a.onnx")])
    assert stop.value.code == 4
    assert "provider CoreMLExecutionProvider does not work here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ("--duration", "1", "--iterations", "5"),
        ("--batch", "0"),
        ("--batch", "2,2"),
        ("--batch", "x"),
        ("--percentile", "101"),
        ("--input-shapes", "y:1"),
        ("--fail-slower", "much"),
        ("--threads", "100000"),
    ],
    ids=" ".join,
)
def test_wrong_flags(tmp_path: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(written(tmp_path, "a.onnx"), *flags) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="no model"):
        onnxtune.benchmark([])
    with pytest.raises(UsageError, match="duration must be above 0"):
        onnxtune.benchmark("a.onnx", duration=float("nan"))


def test_names_are_as_short_as_they_can_be() -> None:
    assert api.short(["x/a.onnx", "y/b.onnx"]) == ["a.onnx", "b.onnx"]
    assert api.short(["x/a.onnx", "y/a.onnx"]) == ["x/a.onnx", "y/a.onnx"]
    assert api.short(["x/a.onnx", "x/a.onnx"]) == ["a.onnx", "a.onnx"]


def test_the_machine_is_in_the_report(tmp_path: Path) -> None:
    report = benchmark(written(tmp_path, "a.onnx"))
    assert report.machine["key"] == machine.machine(onnxtune.runtime.Target())["key"]
