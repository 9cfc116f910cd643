"""What `onnxtune check` prints and writes; exit codes; selection; configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from cnn import Cnn
from runtimes import needs_deform_conv
from test_fires import deformable, fc_head, large_kernel, near_dead_branch, training_norm

import onnxtune
from onnxtune.checks import checkers
from onnxtune.cli import main
from onnxtune.comparison import compare
from onnxtune.errors import UsageError
from onnxtune.guidelines import guideline_table
from onnxtune.render.check_table import check_table
from onnxtune.render.guidelines import guideline_markdown
from onnxtune.trial import Timer, Trial


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A model with a fully connected head (a warning) and a kernel of 7x7 (advice)."""
    net = Cnn("N", 8, 8, 8)
    y = net.add("Dropout", net.add("Flatten", net.block(net.x, 8, 16, 7)))
    path = tmp_path / "head.onnx"
    onnx.save(net.model(net.fc(net.add("Relu", net.fc(y, 1024, 64)), 64, 10)), path)
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, words)])
    return int(stop.value.code or 0)


SCHEMA = json.loads((Path(onnxtune.__file__).parent / "schemas" / "check-1.json").read_text(encoding="utf-8"))
CPU = ("--providers", "cpu")


def codes(report: Any) -> list[str]:
    return [f["code"] for f in report["findings"]]


def test_terminal(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(head, *CPU) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "head.onnx: 1 warning, 1 advice, 1 info" in out
    assert out.index("CK401") < out.index("CK201") < out.index("CK602"), "the gravest first"
    assert "replace_fc_head" in out
    assert "onnxtune optimize --calibration-data" in out
    assert "--explain CK401" in out


def test_nothing_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Cnn("N", 8, 8, 8)
    onnx.save(net.model(net.classifier(net.block(net.x, 8, 8), 8)), tmp_path / "clean.onnx")
    assert run("clean.onnx", *CPU, "--fail-on", "info") == 0
    assert "nothing found" in capsys.readouterr().out


def test_several_models_as_json(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(training_norm(), tmp_path / "norm.onnx")
    assert run(head, "norm.onnx", *CPU, "--json", "-") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1
    jsonschema.validate(said, SCHEMA)
    first, second = said["reports"]
    assert codes(first) == ["CK401", "CK201", "CK602"]
    assert codes(second) == ["CK603"]
    finding = first["findings"][0]
    assert finding["severity"] == "warning"
    assert finding["guidelines"] == [6]
    assert finding["numbers"]["bytes"] == 4 * (1024 * 64 + 64 * 10)
    assert finding["remedy"] == "calibrate"
    assert first["findings"][1]["worth"]["kind"] == "estimated"
    assert first["findings"][1]["worth"]["speedup"] > 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--select", "CK4"), ["CK401"]),
        (("--select", "ck201,CK602"), ["CK201", "CK602"]),
        (("--select", "training-nodes"), ["CK602"]),
        (("--ignore", "CK4", "--ignore", "CK602"), ["CK201"]),
        (("--select", "CK", "--ignore", "large-kernel"), ["CK401", "CK602"]),
    ],
)
def test_selection(words: tuple[str, ...], expected: list[str], head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(head, *CPU, "--json", "-", *words) == 0
    assert codes(json.loads(capsys.readouterr().out)["reports"][0]) == expected


@pytest.mark.parametrize(("level", "code"), [("never", 0), ("error", 0), ("warning", 1), ("advice", 1), ("info", 1)])
def test_fail_on(level: str, code: int, head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(head, *CPU, "--fail-on", level) == code
    assert "CK401" in capsys.readouterr().out, "the findings are said in any case"


def test_a_broken_model_does_not_hide_the_others(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.onnx").write_bytes(b"\x00")
    assert run("broken.onnx", head, "absent.onnx", *CPU, "--fail-on", "warning", "--json", "-") == 3
    out, err = capsys.readouterr()
    assert [r["model"] for r in json.loads(out)["reports"]] == ["head.onnx"]
    assert len(err.splitlines()) == 2
    assert "broken.onnx" in err.splitlines()[0]
    assert "absent.onnx" in err.splitlines()[1]


def test_quiet(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(head, *CPU, "-q", "--fail-on", "warning") == 1
    assert capsys.readouterr().out == ""


def test_markdown(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(head, *CPU, "--markdown", "-") == 0
    out = capsys.readouterr().out
    assert out.startswith("### head.onnx: 1 warning, 1 advice, 1 info")
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert len({row.count(" | ") for row in rows[2:]}) == 1, "every row has the same cells"


def test_a_pipe_in_a_name_breaks_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = fc_head()
    proto.graph.node[-1].name = "a|b\nc"
    onnx.save(proto, tmp_path / "m.onnx")
    assert run("m.onnx", *CPU, "--markdown", "-", "--select", "CK401") == 0
    assert "a\\|b c" in capsys.readouterr().out.splitlines()[-2]


def test_the_schema_is_strict(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(head, *CPU, "--json", "-") == 0
    said = json.loads(capsys.readouterr().out)
    said["reports"][0]["findings"][0]["severity"] = "grave"
    with pytest.raises(jsonschema.ValidationError, match="grave"):
        jsonschema.validate(said, SCHEMA)


def test_tables_for_the_documentation() -> None:
    rows = check_table(checkers()).splitlines()
    assert len(rows) == 2 + len(checkers())
    assert "| `CK401` | fc-head | warning |" in "\n".join(rows)
    guidelines = guideline_markdown(guideline_table()).splitlines()
    assert len(guidelines) == 2 + 14
    assert guidelines[7].startswith("| 6 | Global Average Pooling")
    assert "`replace_fc_head`" in guidelines[7]
    assert "`CK401`" in guidelines[7]


SARIF_SCHEMA = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "format": "uri"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "semanticVersion": {"type": "string"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "properties": {
                                                "id": {"type": "string"},
                                                "name": {"type": "string"},
                                                "shortDescription": {"$ref": "#/$defs/message"},
                                                "fullDescription": {"$ref": "#/$defs/message"},
                                                "help": {"$ref": "#/$defs/message"},
                                                "defaultConfiguration": {
                                                    "type": "object",
                                                    "properties": {"level": {"$ref": "#/$defs/level"}},
                                                    "additionalProperties": False,
                                                },
                                                "properties": {"type": "object"},
                                            },
                                            "additionalProperties": False,
                                        },
                                    },
                                },
                                "additionalProperties": False,
                            }
                        },
                        "additionalProperties": False,
                    },
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
    "$defs": {
        "level": {"enum": ["none", "note", "warning", "error"]},
        "message": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
        "result": {
            "type": "object",
            "required": ["message", "ruleId"],
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "level": {"$ref": "#/$defs/level"},
                "message": {"$ref": "#/$defs/message"},
                "locations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["physicalLocation"],
                        "properties": {
                            "physicalLocation": {
                                "type": "object",
                                "required": ["artifactLocation"],
                                "properties": {
                                    "artifactLocation": {
                                        "type": "object",
                                        "required": ["uri"],
                                        "properties": {"uri": {"type": "string", "pattern": "^[^ ]+$"}},
                                        "additionalProperties": False,
                                    },
                                    "region": {
                                        "type": "object",
                                        "properties": {"startLine": {"type": "integer", "minimum": 1}},
                                        "additionalProperties": False,
                                    },
                                },
                                "additionalProperties": False,
                            },
                            "logicalLocations": {
                                "type": "array",
                                "uniqueItems": True,
                                "items": {
                                    "type": "object",
                                    "properties": {
                                        "name": {"type": "string"},
                                        "fullyQualifiedName": {"type": "string"},
                                        "kind": {"type": "string"},
                                    },
                                    "additionalProperties": False,
                                },
                            },
                        },
                        "additionalProperties": False,
                    },
                },
                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
                "properties": {"type": "object"},
            },
            "additionalProperties": False,
        },
    },
}
"""Of the SARIF 2.1.0 schema what these logs use: required keys, allowed values, nothing beside them."""


def test_sarif(head: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "my model.onnx"
    head.rename(spaced)
    assert run("my model.onnx", *CPU, "--sarif", "log.sarif", "-q") == 0
    log = json.loads(Path("log.sarif").read_text())
    jsonschema.validate(log, SARIF_SCHEMA)
    (only,) = log["runs"]
    rules = only["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == [c.card.code for c in checkers()]
    assert [r["ruleId"] for r in only["results"]] == ["CK401", "CK201", "CK602"]
    for result in only["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "my%20model.onnx"
    assert [r["level"] for r in only["results"]] == ["warning", "note", "note"]
    assert len({r["partialFingerprints"]["onnxtune/v1"] for r in only["results"]}) == 3


def test_explain_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(checkers())
    for checker in checkers():
        assert run("--explain", checker.card.code.lower()) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{checker.card.code} {checker.card.name}")
        assert "Fires when:" in out
        assert checker.explanation.splitlines()[0] in out
    assert run("--explain", "low-rank") == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "MODEL"),
        (("--explain", "CK999"), 2, "unknown check 'CK999'"),
        (("head.onnx", "--select", "OT1"), 2, "unknown check 'OT1'"),
        (("head.onnx", "--json", "-", "--markdown", "-"), 2, "only one of"),
        (("head.onnx", "--sarif", "head.onnx"), 2, "that is a model"),
        (("head.onnx", "--sarif", "a.json", "--json", "a.json"), 2, "files of their own"),
        (("head.onnx", "--json", "nowhere/x.json"), 2, "nowhere"),
        (("absent.onnx",), 3, "absent.onnx"),
        (("broken.onnx",), 3, "broken.onnx"),
        (("head.onnx", "--input-shapes", "y:1x2"), 2, "'y'"),
        (("head.onnx", "--calibration-data", "absent.npz"), 3, "absent.npz"),
    ],
)
def test_wrong_usage(
    words: tuple[str, ...], code: int, said: str, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.onnx").write_bytes(b"\x00\x01garbage")
    assert run(*words, *CPU) == code
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert said in err
    assert out == ""


def test_configuration(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file for all commands: what only others know is none of this one's business, what none knows is an error."""
    Path("onnxtune.toml").write_text('ignore = ["CK4"]\nfail-on = "warning"\nmax-drop = "1%"\nproviders = "cpu"\n')
    assert run(head, "--json", "-") == 0
    assert codes(json.loads(capsys.readouterr().out)["reports"][0]) == ["CK201", "CK602"]
    assert run(head, "--ignore", "CK6") == 1, "the flag beats the file"
    capsys.readouterr()
    Path("onnxtune.toml").write_text('ignroe = ["CK4"]\n')
    assert run(head) == 2
    assert "unknown key 'ignroe'" in capsys.readouterr().err


# --- in Python ---------------------------------------------------------------------------------


def test_python(head: Path) -> None:
    report = onnxtune.check(head, select=["CK4"])
    assert isinstance(report, onnxtune.CheckReport)
    (finding,) = report.findings
    assert isinstance(finding, onnxtune.Finding)
    assert report.at_least("warning") == (finding,)
    assert report.at_least("error") == ()
    assert json.loads(report.to_json())["findings"][0]["code"] == "CK401"
    with pytest.raises(AttributeError):
        finding.severity = "info"  # type: ignore[misc]
    with pytest.raises(UsageError, match="time_budget"):
        onnxtune.check(head, time_budget=float("nan"))


def test_changes_nothing() -> None:
    proto = large_kernel()
    before = proto.SerializeToString(deterministic=True)
    onnxtune.check(proto, measure=True, time_budget=0, cache=False, providers="cpu", threads=1)
    assert proto.SerializeToString(deterministic=True) == before


def test_kernels_of_a_device_that_is_not_here() -> None:
    """Without measuring, whose kernels to please is only a matter of arithmetic."""
    net = Cnn("N", 16, 8, 8, dtype=onnx.TensorProto.FLOAT16)
    proto = net.model(net.classifier(net.block(net.block(net.x, 16, 62), 62, 62), 62))
    here = onnxtune.check(proto, providers="cpu", select=["CK3"])
    there = onnxtune.check(proto, providers="cuda", select=["CK3"])
    assert here.findings == ()
    assert [f.code for f in there.findings] == ["CK301"], "tensor cores want multiples of 8 in float16"


@pytest.mark.usefixtures("quick")
def test_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are timed with unfitted weights, the numbers stand in the finding."""
    asked: list[str] = []

    def region(self: Timer, facts: Any, proposal: Any) -> Trial:
        asked.append(proposal.rule)
        before = np.full((4, 5, 2), 3e-4)
        return Trial(compare(before, before / 3, seed=0))

    monkeypatch.setattr(Timer, "region", region)
    monkeypatch.setattr(Timer, "latency", lambda self, model, sizes: 1e-3)
    report = onnxtune.check(fc_head(), measure=True, cache=False, providers="cpu", threads=1, select=["CK401"])
    (finding,) = report.findings
    assert "replace_fc_head" in asked
    assert finding.worth is not None
    assert finding.worth.kind == "measured"
    assert finding.worth.saved_seconds == pytest.approx(2e-4), "the best form of the one layer that has forms"
    assert finding.worth.speedup == pytest.approx(1 / 0.8)
    assert report.latency == 1e-3


@pytest.mark.usefixtures("quick")
def test_measured_for_real() -> None:
    """Each kind of measurement runs on a real session: regions, whole models, other sizes, batches, other pools."""
    net = Cnn("N", 3, 36, 36)
    y = net.add("MaxPool", net.block(net.x, 3, 8, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for _ in range(3):
        y = net.block(y, 8, 8, strides=[2, 2])
    proto = net.model(net.classifier(y, 8), weights_as_inputs=True)
    report = onnxtune.check(proto, measure=True, cache=False, providers="cpu", threads=1)
    by = {f.code: f for f in report.findings}
    assert {"CK101", "CK105", "CK106", "CK201", "CK601"} <= by.keys()
    assert all(by[c].worth is not None for c in ("CK101", "CK105", "CK201", "CK601"))
    table = by["CK101"].worth.table  # type: ignore[union-attr]
    assert {row["height"] for row in table} >= {32, 36, 48}
    assert all(row["seconds"] > 0 for row in table)
    assert by["CK106"].numbers["batches"][0]["images_per_second"] > 0
    whole = {"schema": 1, "reports": [json.loads(report.to_json())]}
    jsonschema.validate(whole, SCHEMA)


# --- with samples ------------------------------------------------------------------------------


def test_samples_tell_the_energy_of_branches(tmp_path: Path) -> None:
    net = Cnn("N", 8, 8, 8)
    y = net.block(net.x, 8, 8)
    for size in (1e-3, 1.0):
        w = net.normal(8, 8, 3, 3, scale=size / 8)
        y = net.add("Add", y, net.add("Conv", net.block(y, 8, 8), net.weight(w), pads=[1] * 4))
    proto = net.model(net.classifier(y, 8))
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((20, 8, 8, 8)).astype(np.float32))
    assert onnxtune.check(proto, select=["CK502"], providers="cpu").findings == (), "unknown without samples"
    (finding,) = onnxtune.check(proto, select=["CK502"], calibration_data=tmp_path / "x.npz", providers="cpu").findings
    assert len(finding.nodes) == 1, "the strong branch is fine"
    assert 0 < finding.numbers["energies"][0] < 1e-4
    assert "on your samples" in finding.message


def test_without_samples_scales_tell(tmp_path: Path) -> None:
    (finding,) = onnxtune.check(near_dead_branch(), select=["CK502"]).findings
    assert "by their scales" in finding.message


@needs_deform_conv
def test_samples_tell_the_spread_of_offsets(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((16, 8, 16, 16)).astype(np.float32))
    (blind,) = onnxtune.check(deformable(), select=["CK205"], providers="cpu").findings
    assert "not known without --calibration-data" in blind.message
    assert blind.numbers["largest_spread"] is None
    (seen,) = onnxtune.check(
        deformable(), select=["CK205"], calibration_data=tmp_path / "x.npz", providers="cpu"
    ).findings
    assert 1 < seen.numbers["largest_spread"] < 2, "sqrt(2) by the initialisation of the offsets' weights"


def test_sizes_that_are_not_known_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    net = Cnn("N", 8, 8, 8)
    net.inputs.append(onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4]))
    y = net.add("Reshape", net.block(net.x, 8, 8), "shape")
    report = onnxtune.check(net.model(net.conv(y, 8, 8)), providers="cpu")
    assert any("1 of 2 layers are computed at run time" in note for note in report.notes)
    assert report.totals["macs"] == 8 * 8 * 9 * 64
