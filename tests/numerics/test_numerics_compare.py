"""`onnxtune compare` and `onnxtune.compare`: verdicts, exit codes, one line for what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxtune
from onnxtune import ModelError, UsageError, compare
from onnxtune.cli import main
from onnxtune.model import Model
from onnxtune.provenance import stamp
from onnxtune.testing import model_of

RNG = np.random.default_rng(0)
W = (RNG.standard_normal((10, 3, 3, 3)) / 5).astype(np.float32)
NET = """g (float[N, 3, 12, 12] x) => (float[N, 10, 1, 1] y)
    { c = Conv (x, w)  r = Relu (c)  y = GlobalAveragePool (r) }"""

FLAT = NET.replace("10, 1, 1] y", "10] y").replace("y = G", "p = G").replace("(r) }", "(r)  y = Flatten (p) }")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("ONNXTUNE_PROVIDERS", "cpu")
    monkeypatch.setenv("ONNXTUNE_THREADS", "1")


def net(factor: float = 1.0, text: str = NET) -> onnx.ModelProto:
    return model_of(text, {"w": W * np.float32(factor)})


def written(name: str, proto: onnx.ModelProto) -> str:
    onnx.save(proto, name)
    return name


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, words)])
    return int(stop.value.code or 0)


def test_the_same_function(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written("a.onnx", net()), written("b.onnx", net())) == 0
    said = capsys.readouterr().out
    assert "b.onnx against a.onnx: within the tolerance (7 kinds of input)" in said
    assert "First diverging" not in said


def test_another_function(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written("a.onnx", net()), written("b.onnx", net(1.01))
    assert run(a, b) == 1
    captured = capsys.readouterr()
    assert "beyond the tolerance: output 'y'[" in captured.out
    assert "First diverging tensor: c, made by Conv" in captured.out
    assert captured.err == ""
    assert run(a, b, "--rtol", 0.02) == 0
    assert run(a, b, "--atol", 1e9) == 0


def test_the_numbers(tmp_path: Path) -> None:
    result = compare(net(), net(1.01), threads=1, providers="cpu")
    assert not result.within
    for pair in result.pairs:
        worst = result.worst(*pair)
        assert worst.relative == pytest.approx(0.01, rel=1e-3)  # of Relu and mean of values of 1.01 the size
        assert worst.snr == pytest.approx(40, abs=0.1)
        assert worst.top1 == 1
    assert {d.level for d in result.differences} == {"disable", "all"}
    assert {d.case for d in result.differences} >= {"normal", "zeros", "normal x 1000", "batch 3"}


def test_json_alone_on_stdout_and_as_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written("a.onnx", net()), written("b.onnx", net(1.01))
    assert run(a, b, "--json", "-") == 1
    printed = json.loads(capsys.readouterr().out)
    assert run(a, b, "--json", "report.json") == 1
    kept = json.loads(Path("report.json").read_text())
    assert kept == printed
    assert (kept["schema"], kept["within"]) == (1, False)
    assert kept["first_diverging"]["tensor"] == "c"
    assert len(kept["differences"]) == 14
    assert run(a, b, "--json", a) == 2
    assert run(a, b, "--json", "none/report.json") == 2


def test_json_by_its_schema() -> None:
    import jsonschema

    schema = json.loads((Path(onnxtune.__file__).parent / "assets/compare.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    other = net(1, NET.replace("N,", "1,"))
    numbers = (
        model_of("g (int64[2] x) => (int64[2] y) { y = Neg (x) }"),
        model_of("g (int64[2] x) => (int64[2] y) { y = Abs (x) }"),
    )
    for pair in ((net(), net()), (net(), net(1.01)), (net(), other), (net(), net(np.inf)), numbers):
        table = json.loads(compare(*pair, threads=1, providers="cpu").to_json())
        jsonschema.validate(table, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**table, "schema": 2}, schema)


def test_an_origin_that_cannot_be_found_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ModelError("no")

    monkeypatch.setattr("onnxtune.numerics.run.find_origin", refuse)
    result = compare(net(), net(1.01), threads=1, providers="cpu")
    assert not result.within
    assert result.origin is None
    assert result.notes == ("the first diverging tensor cannot be found: no",)


def test_samples_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written("a.onnx", net()), written("b.onnx", net(1.01))
    np.savez("data.npz", x=RNG.integers(0, 256, (150, 12, 12, 3)).astype(np.uint8))
    assert run(a, b, "--data", "data.npz") == 3
    assert "8-bit values" in capsys.readouterr().err
    assert run(a, a, "--data", "data.npz", "--scale", "1/255") == 0
    assert "(150 samples)" in capsys.readouterr().out
    assert run(a, b, "--data", "data.npz", "--scale", "1/255", "--samples", 70) == 1
    said = capsys.readouterr().out
    assert "samples 0 to 63" in said
    assert "100%" in said
    assert run(a, b, "--data", "none.npz") == 3
    capsys.readouterr()
    assert run(a, b, "--data", "no_such_module:f") == 2
    assert "--data no_such_module:f: cannot be imported" in capsys.readouterr().err


def ranked(flip: int) -> onnx.ModelProto:
    """Ten classes; the largest of the sample's numbers, but for those whose class is `flip`."""
    scale = np.ones(10, np.float32)
    scale[flip] = -1
    return model_of("g (float[N, 10] x) => (float[N, 10] y) { y = Mul (x, s) }", {"s": scale})


def test_agreement_and_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.tile(np.eye(10, dtype=np.float32), (7, 1))
    labels = np.tile(np.arange(10), 7)
    labels[:7] = 3  # one of them is right
    np.savez("data.npz", x=x)
    np.save("labels.npy", labels)
    a, b = written("a.onnx", ranked(0)), written("b.onnx", ranked(9))
    c = written("c.onnx", model_of("g (float[N, 10] x) => (float[N, 10] y) { y = Identity (x) }"))
    result = compare(c, b, data="data.npz", labels="labels.npy", threads=1, providers="cpu")
    row = result.worst("y", "all")
    assert (row.top1, row.accuracy_a, row.accuracy_b) == (0.9, 64 / 70, 57 / 70)
    assert not result.within
    assert compare(c, b, data="data.npz", min_agreement=0.9, threads=1, providers="cpu").within
    assert run(c, b, "--data", "data.npz", "--labels", "labels.npy", "--min-agreement", "91%") == 1
    said = capsys.readouterr().out
    assert "90.00% of the first classes agree, not 91.00%" in said
    assert "91.43%" in said
    assert "First diverging tensor: y" in said
    assert run(a, b, "--min-agreement", "0.5") == 2
    assert run(a, b, "--labels", "labels.npy") == 2
    assert run(a, b, "--data", "data.npz", "--min-agreement", "150%") == 2
    assert run(a, b, "--data", "data.npz", "--min-agreement", "most") == 2
    np.save("labels.npy", labels[:9])
    assert run(a, b, "--data", "data.npz", "--labels", "labels.npy") == 3


def test_agreement_of_what_ranks_nothing() -> None:
    proto = model_of("g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { y = Abs (x) }")
    np.savez("data.npz", x=np.ones((3, 3, 4, 4), np.float32))
    with pytest.raises(UsageError, match="no output of model ranks classes"):
        compare(proto, proto, data="data.npz", min_agreement=0.9, threads=1, providers="cpu")


def test_a_fixed_batch_is_filled_up_but_not_counted() -> None:
    fixed = NET.replace("N,", "4,")
    np.savez("data.npz", x=RNG.standard_normal((6, 3, 12, 12)).astype(np.float32))
    result = compare(net(1, fixed), net(1.01, fixed), data="data.npz", threads=1, providers="cpu")
    assert {d.samples for d in result.differences} == {6}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (NET.replace("x)", "z)").replace("(x,", "(z,"), "has the inputs 'z', a.onnx has 'x'"),
        (NET.replace(" y)", " q)").replace("y =", "q ="), "has the outputs 'q', a.onnx has 'y'"),
        (NET.replace("12, 12] x", "14, 14] x"), "input 'x' is Nx3x14x14, in a.onnx Nx3x12x12; the sizes contradict"),
        (FLAT, "output 'y' is Nx10, in a.onnx Nx10x1x1; the sizes contradict"),
    ],
)
def test_what_cannot_be_compared(other: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written("a.onnx", net()), written("b.onnx", net(1, other))) == 2
    error = capsys.readouterr().err
    assert error.startswith("onnxtune: b.onnx: ")
    assert says in error
    assert error.count("\n") == 1


def test_other_element_types() -> None:
    text = "g (%s[2, 3] x) => (%s[2, 3] y) { y = Abs (x) }"
    models = [model_of(text % (t, t)) for t in ("float", "float16")]
    with pytest.raises(UsageError, match="input 'x' is float16, in model float"):
        compare(*models)


def test_wrong_usage_and_unusable_files(capsys: pytest.CaptureFixture[str]) -> None:
    a = written("a.onnx", net())
    Path("text.onnx").write_text("no model")
    assert run(a, "none.onnx") == 3
    assert run(a, "text.onnx") == 3
    assert run(a) == 2
    assert run(a, a, "--rtol", -1) == 2
    assert run(a, a, "--input-range", "z:0:1") == 2
    assert run(a, a, "--providers", "quantum") == 2
    assert "Traceback" not in capsys.readouterr().err
    for wrong in ({"rtol": float("nan")}, {"atol": -1.0}, {"samples": 0}):
        with pytest.raises(UsageError):
            compare(a, a, **wrong)  # type: ignore[arg-type]


def test_b_takes_fewer_sizes_than_a(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written("a.onnx", net()), written("b.onnx", net(1, NET.replace("N,", "1,")))) == 1
    assert "does not run: b.onnx: ONNX Runtime cannot run it" in capsys.readouterr().out


def test_a_takes_fewer_sizes_than_b() -> None:
    result = compare(net(1, NET.replace("N,", "2,")), net(), threads=1, providers="cpu")
    assert result.within
    assert result.differences[0].shape[0] == 2
    sizes = compare(net(), net(1, NET.replace("N,", "2,")), threads=1, providers="cpu").differences
    assert sizes[0].shape[0] == 2  # what B fixes is what both are fed


def test_a_model_that_runs_on_nothing() -> None:
    text = "g (float[1, 4] x, int64[2] s) => (float[A, B] y) { y = Reshape (x, s) }"
    with pytest.raises(ModelError, match="cannot run it"):
        compare(model_of(text), model_of(text), threads=1, providers="cpu")


def test_own_inputs() -> None:
    x = RNG.standard_normal((2, 3, 12, 12)).astype(np.float32)
    result = compare(net(), net(), inputs=[{"x": x}], threads=1, providers="cpu")
    assert {d.case for d in result.differences} == {"user input 1"}


def test_ranges_that_a_result_was_made_for() -> None:
    """B leaves out a Relu that can do nothing where x is positive; its metadata says so."""
    text = "g (float[1, 4] x) => (float[1, 4] y) { y = %s (x) }"
    b = model_of(text % "Identity")
    made: dict[str, Any] = {"settings": {"input_ranges": {"x": [0.0, 1.0]}}}
    assert not compare(model_of(text % "Relu"), b, threads=1, providers="cpu").within
    result = compare(model_of(text % "Relu"), stamp(Model(b), made).proto, threads=1, providers="cpu")
    assert result.within
    assert "made for inputs 'x' from 0 to 1" in result.notes[0]
    wide = {"x": (-1.0, 1.0)}
    assert not compare(model_of(text % "Relu"), stamp(Model(b), made).proto, input_ranges=wide, threads=1).within
