"""The command line as a user meets it: streams, exit codes, files; bad input gives one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxtune.calibrate.store import FitStore
from onnxtune.cli import main
from onnxtune.proposal import Fragment
from onnxtune.testing import model_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONNXTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution with an LRN behind it: replace_lrn fires."""
    weights = {"w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    proto = model_of(
        "g (float[N, 3, 20, 20] x) => (float[N, 8, 18, 18] y) { c = Conv (x, w)  y = LRN <size = 5> (c) }", weights
    )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return int(stop.value.code or 0)


FORCED = ("--force-rules", "replace_lrn", "--threads", 1, "--providers", "cpu")
"""The rewrite is kept whatever the clock of a busy test machine says."""


def test_writes_the_result_beside_the_input(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, *FORCED) == 0
    after = onnx.load(model.with_suffix(".tuned.onnx"))
    onnx.checker.check_model(after, full_check=True)
    assert "LRN" not in {n.op_type for n in after.graph.node}
    out, err = capsys.readouterr()
    assert "replace_lrn" in out
    assert "Written" in out
    assert err == ""


def test_exact_only_reaches_the_rules(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ncode = "U1"\nsummary = "s"\nwhy = "w"\nsafety = "calibrated"\n'
        '[pattern]\ngraph = "p (x) => (y) { y = LRN (x) }"\n'
    )
    (tmp_path / "mine.py").write_text('def rewrite(match, new, settings):\n    return match["x"]\n')
    assert run("optimize", model, *FORCED, "--exact-only", "--rules", tmp_path, "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert "replace_lrn" in report["settings"]["rules"]
    assert "mine" not in report["settings"]["rules"]
    assert run("optimize", model, "--exact-only", "--rules", tmp_path, "--only", "mine") == 2
    assert "which --exact-only leaves out" in capsys.readouterr().err


def test_json_alone_on_stdout(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, *FORCED, "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1
    assert report["settings"]["threads"] == 1
    kept = [o for o in report["outcomes"] if o["kind"] == "kept"]
    assert [o["rewrite"]["rule"] for o in kept] == ["replace_lrn"]
    assert min(len(report["comparison"][side]) for side in ("before", "after")) > 10  # what was disturbed is left out


def test_json_file_and_quiet(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, *FORCED, "--json", tmp_path / "report.json", "--quiet") == 0
    assert json.loads((tmp_path / "report.json").read_text())["model"] == "model.onnx"
    assert capsys.readouterr() == ("", "")


def test_dry_run_writes_nothing(model: Path) -> None:
    assert run("optimize", model, *FORCED, "--dry-run") == 0
    assert not model.with_suffix(".tuned.onnx").exists()


def test_the_result_is_a_fixed_point(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("optimize", model, *FORCED)
    first = model.with_suffix(".tuned.onnx")
    capsys.readouterr()
    assert run("optimize", first, *FORCED, "-o", "again.onnx") == 0
    assert "already tuned" in capsys.readouterr().out
    assert Path("again.onnx").read_bytes() == first.read_bytes()


def test_strict_and_min_speedup(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, "--only", "replace_lrn", "--min-speedup", 1e6, "--strict") == 1
    assert "--strict" in capsys.readouterr().err
    result = onnx.load(model.with_suffix(".tuned.onnx"))
    assert result.graph == onnx.load(model).graph


def test_external_data(model: Path) -> None:
    assert run("optimize", model, *FORCED, "--save-as-external-data", "-o", "out.onnx") == 0
    assert onnx.load("out.onnx", load_external_data=False).graph.initializer
    onnx.checker.check_model("out.onnx")


def test_flag_beats_environment_beats_config(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def seed(*words: object) -> int:
        run("optimize", model, "--only", "replace_lrn", "--dry-run", "--json", "-", *words)
        return int(json.loads(capsys.readouterr().out)["settings"]["seed"])

    Path("onnxtune.toml").write_text('seed = 3\nonly = ["replace_lrn"]\n')
    assert seed() == 3
    monkeypatch.setenv("ONNXTUNE_SEED", "4")
    assert seed() == 4
    assert seed("--seed", 5) == 5


def test_pyproject_table(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").write_text("[tool.onnxtune]\nmin-speedup = 7.5\n")
    run("optimize", model, "--only", "replace_lrn", "--dry-run", "--json", "-")
    assert json.loads(capsys.readouterr().out)["settings"]["min_speedup"] == 7.5


def _unusable(name: str, folder: Path, good: Path) -> Path:
    path = folder / f"{name}.onnx"
    if name == "text":
        path.write_text("this is not a model\n" * 20)
    elif name == "truncated":
        path.write_bytes(good.read_bytes()[:-300])
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "no such file"),
        ("text", "not an ONNX model"),
        ("truncated", "truncated"),
        ("empty", "empty"),
        ("folder", "is a folder"),
    ],
)
def test_unusable_model(name: str, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _unusable(name, tmp_path, model)
    assert run("optimize", path) == 3
    _one_line(capsys, said, str(path))
    assert not path.with_suffix(".tuned.onnx").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--no-such-flag"], 2, "--no-such-flag"),
        (["--only", "no_such_rule"], 2, "no_such_rule"),
        (["--force-rules", "no_such_rule"], 2, "no_such_rule"),
        (["--rules", "no_such_folder"], 2, "no_such_folder"),
        (["--providers", "abacus"], 2, "abacus"),
        (["--providers", "migraphx"], 4, "does not work here"),
        (["--threads", "many"], 2, "many"),
        (["--input-shapes", "x:3xhuge"], 2, "x:3xhuge"),
        (["--input-shapes", "z:1x3x20x20"], 2, "'z'"),
        (["--input-shapes", "x:1x3x21x20"], 2, "does not fit"),
        (["--input-range", "x:0"], 2, "NAME:LOW:HIGH"),
        (["--input-range", "x:1:0"], 2, "the lower one first"),
        (["--input-range", "x:0:nan"], 2, "two finite numbers"),
        (["--input-range", "x:0:1", "--input-range", "x:0:2"], 2, "twice"),
        (["--input-range", "z:0:1"], 2, "the inputs are: x"),
        (["--provider-option", "device_id"], 2, "KEY=VALUE"),
        (["-o", "no/such/folder/out.onnx"], 2, "does not exist"),
        (["--config", "no_such.toml"], 2, "no_such.toml"),
    ],
)
def test_wrong_usage(words: list[str], code: int, said: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", model, *words) == code
    _one_line(capsys, said)
    assert not model.with_suffix(".tuned.onnx").exists()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Convolutions with 9 channels."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("v", (9, 8, 3, 3)), ("w", (8, 9, 3, 3)))}
    path = tmp_path / "odd.onnx"
    body = "{ a = Conv (x, v)  b = Relu (a)  y = Conv (b, w) }"
    onnx.save(model_of(f"g (float[N, 8, 12, 12] x) => (float[N, 8, 8, 8] y) {body}", weights), path)
    return path


def test_a_padding_policy_is_taken_literally(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--only", "pad_channels", "--pad-channels", "pow2", "--threads", 1, "--providers", "cpu", "--json", "-")
    Path("onnxtune.toml").write_text("[rules.pad_channels]\nmax_overhead = 0.9\n")
    assert run("optimize", odd, *words, "--force-rules", "pad_channels") == 0
    report = json.loads(capsys.readouterr().out)
    (kept,) = (o for o in report["outcomes"] if o["kind"] == "kept")
    assert [(c["from"], c["to"]) for c in kept["rewrite"]["details"]["classes"]] == [(9, 16)]
    assert report["status"] == ("faster" if report["comparison"]["verdict"] == "faster" else "forced")
    assert (16, 8, 3, 3) in {tuple(i.dims) for i in onnx.load(odd.with_suffix(".tuned.onnx")).graph.initializer}
    Path("onnxtune.toml").write_text("[rules.pad_channels]\nmax_overhead = 0.5\n")
    assert run("optimize", odd, *words, "--force-rules", "pad_channels") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "nothing to gain"
    assert any("max_overhead (0.5)" in o["reason"] for o in report["outcomes"])


def test_an_unknown_padding_policy(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("optimize", odd, "--pad-channels", "twice") == 2
    _one_line(capsys, "auto, multiple:N or pow2")


def test_declared_ranges_stand_in_report_and_result(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("onnxtune.toml").write_text('input-range = ["x:0:1"]\n')
    assert run("optimize", model, *FORCED, "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["input_ranges"] == {"x": [0.0, 1.0]}
    assert any("'x' is taken to lie in [0, 1]" in note for note in report["notes"])
    assert "uniform in the declared ranges" in report["verification"]["cases"]
    after = onnx.load(model.with_suffix(".tuned.onnx"))
    (stamped,) = (json.loads(p.value) for p in after.metadata_props if p.key == "onnxtune.settings")
    assert stamped["input_ranges"] == {"x": [0.0, 1.0]}


def test_unknown_config_key(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("onnxtune.toml").write_text("sede = 3\n")
    assert run("optimize", model) == 2
    _one_line(capsys, "unknown key 'sede'", "onnxtune.toml")


def test_one_config_serves_all_commands(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("onnxtune.toml").write_text('time-budget = 5\nproviders = "cpu"\nsamples = 3\njson = "-"\nwarmup = 0\n')
    assert run("compare", model, model, "--threads", 1) == 0
    assert json.loads(capsys.readouterr().out)["within"]
    Path("onnxtune.toml").write_text("warmpu = 0\n")
    assert run("compare", model, model) == 2
    _one_line(capsys, "unknown key 'warmpu'", "onnxtune.toml")


def test_unknown_rule_setting(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("onnxtune.toml").write_text("[rules.replace_lrn]\nform = 3\n")
    assert run("optimize", model) == 2
    _one_line(capsys, "unknown setting 'form'")


def test_a_model_that_onnxruntime_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = model_of("g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }")
    proto.graph.node[0].domain = "nowhere"
    proto.opset_import.add(domain="nowhere", version=1)
    onnx.save(proto, tmp_path / "custom.onnx")
    assert run("optimize", tmp_path / "custom.onnx") == 3
    _one_line(capsys, "ONNX Runtime cannot load it", "custom.onnx")


def _one_line(capsys: pytest.CaptureFixture[str], *said: str) -> None:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("onnxtune: ")
    for text in said:
        assert text in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "/dev/null"], "not a regular file"),
        (["-o", "."], "cannot be written"),
        (["--json", "model.onnx"], "that is the model"),
        (["-o", "out.onnx", "--json", "out.onnx"], "that is the model"),
        (["--dry-run", "--json", "model.onnx"], "that is the model"),
        (["--json", "no/such/report.json"], "does not exist"),
        (["--rtol", "nan"], "rtol must be a number"),
        (["--atol", "inf"], "atol must be a number"),
        (["--min-speedup", "nan"], "min_speedup must be a number"),
        (["--threads", "100000"], "more than this machine can use"),
    ],
)
def test_what_would_do_harm_is_refused_before_any_work(
    words: list[str], said: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    assert run("optimize", model, *words) == 2
    _one_line(capsys, said)
    assert model.read_bytes() == before
    assert not model.with_suffix(".tuned.onnx").exists()


def test_strict_judges_a_forced_result_too(model: Path) -> None:
    assert run("optimize", model, *FORCED, "--min-speedup", 1e6, "--strict", "--quiet") == 1


def test_outputs_without_a_declared_shape_are_fine(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, model)
    assert run("optimize", model, *FORCED, "--quiet") == 0
    assert not onnx.load(model.with_suffix(".tuned.onnx")).graph.output[0].type.tensor_type.HasField("shape")


def test_a_map_of_size_zero(tmp_path: Path) -> None:
    onnx.save(model_of("g (float[1, 3, 0, 4] x) => (float[1, 3, 0, 4] y) { y = Relu (x) }"), tmp_path / "zero.onnx")
    assert run("optimize", tmp_path / "zero.onnx", "--quiet") == 0


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "onnxtune optimize model.onnx" in capsys.readouterr().out
    assert run("rules") == 2
    assert "explain" in capsys.readouterr().out


def test_rules_list_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rules", "list") == 0
    listed = capsys.readouterr().out
    assert "replace_lrn" in listed
    for line in listed.splitlines():
        assert run("rules", "explain", line.split()[1]) == 0
        text = capsys.readouterr().out
        assert "Algebra:" in text
        assert "Fires on:" in text
    assert run("rules", "explain", "no_such_rule") == 2


def test_doctor_and_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "works        CPUExecutionProvider" in capsys.readouterr().out
    assert run("cache", "info") == 0
    out = capsys.readouterr().out
    assert "0 measurements" in out
    assert "0 fits" in out
    assert run("cache", "clear") == 0
    assert capsys.readouterr().out == "0 measurements and 0 fits dropped, 0.00 MB\n"


def test_clearing_the_cache_takes_the_fits_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    folder = tmp_path / "cache" / "fits"
    FitStore(folder).get("k", lambda: (Fragment((onnx.helper.make_node("Mul", ["x", "w"], ["y"]),), (weight,)), 0.5))
    (folder / "large.weight").write_bytes(bytes(1_000_000))
    (folder / "somebody's own").write_text("stays")
    assert run("cache", "info") == 0
    assert "1 fits, 1.02 MB" in capsys.readouterr().out
    assert run("cache", "clear") == 0
    assert capsys.readouterr().out == "0 measurements and 1 fits dropped, 1.02 MB\n"
    assert [p.name for p in folder.iterdir()] == ["somebody's own"]


def test_inputs_that_are_no_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """optimize gives the original back and says why; the other commands cannot do anything."""
    text = "g (seq(float[2, 4]) x) => (float[A, 4] y) { y = ConcatFromSequence <axis = 0> (x) }"
    path, report = tmp_path / "m.onnx", tmp_path / "r.json"
    onnx.save(model_of(text, {}), path)
    assert run("optimize", path, "--providers", "cpu", "--dynamic-size", "--json", report) == 0
    assert "nothing was tried: input 'x' is a sequence" in capsys.readouterr().out
    assert onnx.load(path.with_suffix(".tuned.onnx")) == onnx.load(path)
    assert json.loads(report.read_text())["status"] == "nothing to gain"
    assert run("optimize", path, "--providers", "cpu", "--strict", "--dry-run") == 1
    capsys.readouterr()
    for words in (["bench", path], ["check", path], ["compare", path, path]):
        assert run(*words, "--providers", "cpu") == 3
        _one_line(capsys, "input 'x' is a sequence; only tensors can be fed", str(path.name))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_after_the_end_changes_nothing() -> None:
    script = (
        "import atexit, os, signal, sys\nfrom onnxtune.cli import main\nsys.argv = ['onnxtune', 'rules', 'list']\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pad_channels" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom onnxtune.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'scipy', 'rich', 'onnx_graphsurgeon'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "onnxtune", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnxtune, version ")
