"""--head: a form that is asked for is written within the budget, refused over it, and forced only in so many words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from onnxtune import Result, optimize
from onnxtune.cli import cli
from onnxtune.errors import GateError, UsageError
from onnxtune.testing import model_of
from onnxtune.tune.options import Objective, Options


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A classifier whose large layer varies over the map, so that pooling must hurt it, and images."""
    rng = np.random.default_rng(0)
    shapes = {"k": (32, 3, 3, 3), "w": (512, 32 * 64), "v": (10, 512), "b": (512,)}
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in shapes.items()}
    text = """g (float[N, 3, 8, 8] x) => (float[N, 10] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, k) r = Relu (a) f = Flatten (r)
        h = Gemm <transB = 1> (f, w, b) s = Relu (h) y = Gemm <transB = 1> (s, v) }"""
    model, data = tmp_path / "m.onnx", tmp_path / "data.npz"
    onnx.save(model_of(text, weights), model)
    np.savez(data, x=rng.standard_normal((120, 3, 8, 8)).astype(np.float32))
    return model, data


def arguments(files: tuple[Path, Path], *more: str) -> list[str]:
    model, data = files
    rest = ["--only", "replace_fc_head", "--head", "gap", "--no-cache", "--providers", "cpu", "--threads", "1"]
    return ["optimize", str(model), "--calibration-data", str(data), *rest, *more]


@pytest.mark.slow
def test_over_budget_nothing_is_written_unless_forced(files: tuple[Path, Path]) -> None:
    model, _ = files
    written = model.with_suffix(".tuned.onnx")
    refused = CliRunner().invoke(cli, arguments(files))
    assert isinstance(refused.exception, GateError)
    assert "--head gap costs" in str(refused.exception)
    assert "--force-rules replace_fc_head" in str(refused.exception)
    assert not written.exists()
    reports = ["--json", str(written.with_suffix(".json")), "--html", str(written.with_suffix(".html"))]
    forced = CliRunner().invoke(cli, arguments(files, "--force-rules", "replace_fc_head", "--dynamic-size", *reports))
    assert forced.exit_code == 0, forced.output
    assert "GlobalAveragePool" in {n.op_type for n in onnx.load(written).graph.node}
    assert "Loss of agreement" in forced.output
    session = ort.InferenceSession(written, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["N", 3, "height", "width"]
    assert session.run(None, {"x": np.zeros((2, 3, 13, 22), np.float32)})[0].shape == (2, 10)
    report = json.loads(written.with_suffix(".json").read_text())
    assert [o["reason"] for o in report["outcomes"] if o["kind"] == "kept"] == ["forced"]
    assert 'class="bad"' in written.with_suffix(".html").read_text(), "the loss in red"


def spending(files: tuple[Path, Path], objective: Objective) -> Result:
    """With a budget that allows nearly everything."""
    model, data = files
    return optimize(
        model,
        only=["replace_fc_head"],
        calibration_data=data,
        max_drop="99%",
        objective=objective,
        providers="cpu",
        threads=1,
        cache=False,
    )


@pytest.mark.slow
def test_throughput_is_that_of_a_batch(files: tuple[Path, Path]) -> None:
    result = spending(files, "throughput")
    assert "measured at batch 32" in result.report.notes
    points = (result.report.calibration or {})["points"]
    assert points, "at a batch, too, smaller forms are faster on their region"


@pytest.mark.slow
def test_size_is_saved_where_it_costs_no_time(files: tuple[Path, Path]) -> None:
    """A budget that allows nearly everything: the smallest form is taken, and the model shrinks."""
    result = spending(files, "size")
    assert result.report.status in ("smaller", "faster")
    assert result.report.after.weight_bytes < 0.2 * result.report.before.weight_bytes
    assert result.report.after.peak_bytes < result.report.before.peak_bytes


@pytest.mark.parametrize(
    ("head", "force", "insist"),
    [("auto", [], False), ("gap", [], True), ("auto", ["replace_fc_head"], True), ("auto", ["pad_channels"], False)],
)
def test_forcing_the_rule_insists_on_it(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, head: str, force: list[str], insist: bool
) -> None:
    seen: list[Options] = []

    def tune(model: object, rules: object, target: object, options: Options, **rest: object) -> None:
        seen.append(options)
        raise UsageError("enough")

    monkeypatch.setattr("onnxtune.api.tune", tune)
    for data in (files[1], None):
        if data is not None or head == "auto":
            with pytest.raises(UsageError, match="enough"):
                optimize(files[0], head=head, force_rules=force, calibration_data=data)
    assert [bool(o.insist) for o in seen] == [insist, False][: len(seen)]


def test_a_form_needs_data(files: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="needs --calibration-data"):
        optimize(files[0], head="gap")
    with pytest.raises(UsageError, match="must be one of auto, gap"):
        optimize(files[0], head="best")
    with pytest.raises(UsageError, match="must be one of latency"):
        optimize(files[0], objective="speed")  # type: ignore[arg-type]
