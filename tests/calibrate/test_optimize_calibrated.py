"""The calibrated half from the outside: `onnxtune.optimize(calibration_data=...)` and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from smallnet import classifier, images, write_data

import onnxtune
from onnxtune.calibrate import layer as layer_module
from onnxtune.cli import main
from onnxtune.render import calibration


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(classifier(), path)
    return path


@pytest.mark.slow
def test_faster_within_the_budget_and_a_fixed_point(tmp_path: Path) -> None:
    """A 9x9 kernel leaves so much to gain that no noise hides it."""
    proto, data = classifier(kernel=9, width=16), write_data(tmp_path, 400)
    arguments: dict[str, Any] = {"providers": "cpu", "threads": 1, "only": ["separable_conv"]}
    arguments |= {"settings": {"separable_conv": {"ratios": [0.4]}}, "calibration_data": data, "max_drop": "8%"}
    result = onnxtune.optimize(proto, **arguments, pareto=tmp_path / "front")
    assert result.report.status == "faster"
    front = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [row["latency"] for row in front] == sorted(row["latency"] for row in front)
    onnx.checker.check_model(onnx.load(tmp_path / "front" / front[0]["file"]))
    assert result.report.calibration is not None
    assert result.report.calibration["gate"]["bound"] <= 0.08
    assert {k.rewrite.safety for k in result.report.kept} == {"calibrated"}
    plain = json.loads(result.report.to_json())
    assert plain["calibration"]["samples"] == 400
    properties = {p.key: p.value for p in result.model.metadata_props}
    assert len(json.loads(properties["onnxtune.calibration_sha256"])) == 64
    again = onnxtune.optimize(result.model, **arguments)
    assert again.report.status == "already tuned"


def test_without_data_nothing_is_refitted(tmp_path: Path, quick: None) -> None:
    result = onnxtune.optimize(classifier(), providers="cpu", threads=1, only=["separable_conv"])
    assert result.report.calibration is None
    assert not result.report.kept


@pytest.mark.slow
def test_without_data_it_says_what_data_could_be_worth() -> None:
    result = onnxtune.optimize(classifier(kernel=9, width=32), providers="cpu", threads=1, only=["separable_conv"])
    assert any("with --calibration-data up to" in note for note in result.report.notes)


def test_no_layer_that_could_be_fitted_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None) -> None:
    """A model without a large kernel, and the rule for large kernels."""
    onnx.save(classifier(kernel=3), tmp_path / "small.onnx")
    words = ["optimize", str(tmp_path / "small.onnx"), "--threads", "1", "--only", "stack_3x3"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--calibration-data", str(write_data(tmp_path, 100))])
    assert not stop.value.code
    assert "No layer has a form that calibration could fit" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_report_says_what_was_fitted_to_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "MOST_COLUMNS", 500)
    result = onnxtune.optimize(
        classifier(kernel=9, width=16),
        providers="cpu",
        threads=1,
        only=["separable_conv"],
        settings={"separable_conv": {"ratios": [0.4]}},
        calibration_data=write_data(tmp_path, 300),
        max_drop="10%",
    )
    found = result.report.calibration
    assert found is not None
    ((layer, columns, rows),) = [(s["layer"], s["columns"], s["rows"]) for s in found["sampled"]]
    assert (layer, columns, rows) == ("c", 16 * 81, 8192)
    text = " ".join(calibration.lines(found))
    assert "Fitted to a sample of at most 8192 rows" in text
    assert "c (1296 columns)" in text


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0), capsys.readouterr().err


def failing(folder: Path) -> list[tuple[list[str], int, str]]:
    np.savez(folder / "wrong.npz", image=np.zeros((100, 3, 10, 12), np.float32))
    x, y = images(100)
    np.savez(folder / "good.npz", image=x, labels=y)
    np.savez(folder / "few.npz", image=x[:8], labels=y[:8])
    bad = x.copy()
    bad[17] = np.nan
    np.savez(folder / "nan.npz", image=bad)
    (folder / "metric_that_raises.py").write_text("def score(outputs, labels):\n    raise ValueError('boom')\n")
    good = ["--calibration-data", str(folder / "good.npz")]
    return [
        (["--calibration-data", str(folder / "absent.npz")], 3, "absent.npz: no such file"),
        (
            ["--calibration-data", str(folder / "wrong.npz")],
            3,
            "wrong.npz: sample 0: input 'image' takes",
        ),
        (["--calibration-data", str(folder / "few.npz")], 3, "8 samples are too few; at least 64"),
        (["--calibration-data", str(folder / "nan.npz")], 3, "sample 17: input 'image' holds NaN"),
        ([*good, "--metric", "metric_that_raises:score"], 2, "it raised ValueError: boom"),
        ([*good, "--metric", "f1"], 2, "--metric f1"),
        ([*good, "--metric", "psnr", "--max-drop", "1%"], 2, "psnr drops in dB"),
        ([*good, "--max-drop", "lots"], 2, "--max-drop lots"),
        ([*good, "--confidence", "1"], 2, "confidence"),
        ([*good, "--labels", str(folder / "absent.csv")], 3, "absent.csv: no such file"),
        ([*good, "--std", "0"], 2, "--std"),
    ]


def test_each_fault_has_its_line_and_its_code(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, code, message in failing(tmp_path):
        got, text = run(["optimize", str(model), "--threads", "1", "--only", "cp_conv", *arguments], capsys)
        assert (got, message in text) == (code, True), f"{arguments}: {got}, {text}"
        assert text.count("\n") == 1, text
        assert not model.with_suffix(".tuned.onnx").exists()


def test_preprocessing_from_the_configuration(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "onnxtune.toml").write_text("[preprocess]\nzoom = 2\n")
    code, text = run(["optimize", str(model), "--calibration-data", str(write_data(tmp_path))], capsys)
    assert code == 2
    assert "unknown key 'zoom'" in text


@pytest.mark.slow
def test_interrupted_and_resumed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while fitting: nothing is written, 130; with --resume the fits that were made are not made again."""
    import onnxtune.calibrate.fitter as fitter

    looked = 0
    gather, limit = fitter.gather, [2]

    def counting(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        if looked > limit[0]:
            raise KeyboardInterrupt
        return gather(*arguments)

    monkeypatch.setattr(fitter, "gather", counting)
    data = write_data(tmp_path, 300)
    target = tmp_path / "out.onnx"
    command = ["optimize", str(model), "-o", str(target), "--threads", "1", "--only", "separable_conv"]
    command += ["--calibration-data", str(data), "--max-drop", "20%"]
    code, text = run(command, capsys)
    assert code == 130
    assert "--resume" in text
    assert not target.exists()
    assert list((tmp_path / "onnxtune-cache" / "fits").glob("*.fit"))
    limit[0], looked = 1000, 0
    assert run([*command, "--resume"], capsys)[0] == 0
    resumed, looked = looked, 0
    assert run(command, capsys)[0] == 0
    assert resumed < looked
