"""`onnxtune bench` from the outside: what it says and how it ends."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxtune.cli import main

TEXT = """<ir_version: 8, opset_import: ["": 13]> g (float[1,4,8,8] %s) => (float[1,4,8,8] y) { y = Relu(%s) }"""


def written(folder: Path, name: str, reads: str = "x") -> str:
    path = folder / name
    onnx.save(onnx.parser.parse_model(TEXT % (reads, reads)), path)
    return str(path)


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--providers", "cpu", *arguments])
    return stop.value.code


def test_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(written(tmp_path, "a.onnx"), written(tmp_path, "b.onnx")) == 0
    said = capsys.readouterr().out
    assert "A/A noise" in said
    assert len(said.splitlines()) == 5


def test_one_model_has_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(written(tmp_path, "a.onnx")) == 0
    assert "A/A" not in capsys.readouterr().out


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
    assert code_of(written(tmp_path, "a.onnx"), str(path)) == 3
    assert "large.onnx: ONNX Runtime cannot run it" in capsys.readouterr().err
