"""--json, --markdown and --html of `onnxtune optimize`: where they go, what they refuse, and the command they name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxtune.cli import main
from onnxtune.testing import model_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = {"w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    text = "g (float[N, 3, 20, 20] x) => (float[N, 8, 18, 18] y) { c = Conv (x, w)  y = LRN <size = 5> (c) }"
    onnx.save(model_of(text, weights), tmp_path / "model.onnx")
    return Path("model.onnx")


FORCED = ("--force-rules", "replace_lrn", "--threads", 1, "--providers", "cpu")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return int(stop.value.code or 0)


def test_three_files_beside_the_terminal(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, *FORCED, "--json", "r.json", "--markdown", "r.md", "--html", "r.html") == 0
    out, err = capsys.readouterr()
    assert "Written" in out
    assert err == ""
    plain = json.loads(Path("r.json").read_text())
    assert plain["profile_before"]["nodes"]
    assert Path("r.md").read_text().startswith("### `model.onnx`: ")
    page = Path("r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "replace_lrn" in page
    files = {p.name for p in Path().iterdir() if p.is_file()}
    assert files == {"model.onnx", "model.tuned.onnx", "r.json", "r.md", "r.html"}


def test_markdown_alone_on_stdout(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, *FORCED, "--markdown", "-") == 0
    out, err = capsys.readouterr()
    assert out.startswith("### `model.onnx`")
    assert "Written:" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--json", "-", "--markdown", "-"], "only one of them can have stdout"),
        (["--html", "-"], "--html -: give the page a file"),
        (["--html", "model.onnx"], "--html model.onnx: that is the model"),
        (["--markdown", "model.tuned.onnx"], "--markdown model.tuned.onnx: that is the model"),
        (["--json", "model.tuned.onnx.data"], "that is the model"),
        (["--markdown", "r.txt", "--html", "./r.txt"], "--html ./r.txt: that is the file of --markdown"),
        (["--html", "missing/r.html"], "the folder missing does not exist"),
        (["--markdown", "."], "cannot be written"),
    ],
)
def test_refused_before_any_work(
    model: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    assert run("optimize", model, *FORCED, *flags) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert model.read_bytes() == before
    assert not Path("model.tuned.onnx").exists()


def test_a_dry_run_may_name_what_it_would_write(model: Path) -> None:
    assert run("optimize", model, *FORCED, "--dry-run", "--quiet", "--json", "model.tuned.onnx") == 0
    assert json.loads(Path("model.tuned.onnx").read_text())["schema"] == 1


def test_the_command_it_names_gives_the_same_settings(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From flags, environment and configuration file together."""
    monkeypatch.setenv("ONNXTUNE_MIN_SPEEDUP", "1.5")
    Path("onnxtune.toml").write_text("seed = 7\nskip = ['simplify']\n[rules.pad_channels]\npolicy = 'pow2'\n")
    assert run("optimize", model, *FORCED, "--no-cache", "-o", "my out.onnx", "--json", "-") == 0
    first = json.loads(capsys.readouterr().out)
    command = shlex.split(first["reproduce"])
    assert command[:3] == ["onnxtune", "optimize", "model.onnx"]
    assert "--no-cache" in command
    pairs = [("--min-speedup", "1.5"), ("--seed", "7"), ("--skip", "simplify"), ("--output", "my out.onnx")]
    for flag, value in pairs:
        assert command[command.index(flag) + 1] == value
    assert "--json" not in command
    assert command[-2:] == ["--config", "onnxtune.toml"]
    monkeypatch.delenv("ONNXTUNE_MIN_SPEEDUP")
    assert run(*command[1:], "--json", "-") == 0
    second = json.loads(capsys.readouterr().out)
    assert second["settings"] == first["settings"]
    assert second["source_sha256"] == first["source_sha256"]


def test_a_failed_run_leaves_no_report(model: Path) -> None:
    model.write_bytes(b"not a model")
    assert run("optimize", model, "--html", "r.html") == 3
    assert not Path("r.html").exists()
