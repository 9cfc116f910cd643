"""The same input, seed and cache give the same bytes; without measuring, on every machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from seeds import convolutional
from strange import classic

import onnxtune
from onnxtune import UsageError
from onnxtune.comparison import Comparison
from onnxtune.measure import Plan

ROOT = Path(__file__).resolve().parents[2]


def digest(proto: onnx.ModelProto) -> str:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def unmeasured(proto: onnx.ModelProto, **options: Any) -> onnxtune.Result:
    settings: dict[str, Any] = {
        "threads": 1,
        "providers": "cpu",
        "plugins": False,
        "measure": False,
        "exact_only": True,
    }
    return onnxtune.optimize(proto, **{**settings, **options})


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Comparison:
        raise AssertionError("something is timed")

    for name in ("onnxtune.trial.measure", "onnxtune.trial.warm", "onnxtune.measure.warm"):
        monkeypatch.setattr(name, refuse)


@pytest.mark.usefixtures("no_clock")
def test_without_measuring_what_does_less_work_stays() -> None:
    result = unmeasured(classic(17))
    assert result.report.status == "unmeasured"
    assert {k.reason for k in result.report.kept} <= {"less work, not measured", "lets other rules fire"}
    assert {k.rewrite.rule for k in result.report.kept} >= {"fold_batchnorm", "merge_parallel_convs"}
    assert result.report.after.macs <= result.report.before.macs
    assert result.report.speedup is None
    result.report.to_json()


@pytest.mark.usefixtures("no_clock")
def test_nothing_to_save_gives_the_original() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    result = unmeasured(proto)
    assert result.report.status == "nothing to gain"
    assert list(result.model.graph.node) == list(proto.graph.node)


@pytest.mark.usefixtures("no_clock")
def test_other_machines_and_threads_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    found, protos = set(), (classic(17), convolutional_fixed())
    for features, name, threads in (({"avx512f", "avx2", "avx"}, "one", 1), (set(), "two", 2), ({"asimd"}, "three", 0)):
        monkeypatch.setattr("onnxtune.channels.cost.cpu_features", lambda features=features: frozenset(features))
        monkeypatch.setattr("onnxtune.runtime.cpu_name", lambda name=name: name)
        found |= {tuple(digest(unmeasured(p, threads=threads).model) for p in protos)}
    assert len(found) == 1


def convolutional_fixed() -> onnx.ModelProto:
    """A network that is the same each time (that of `seeds` draws its weights anew), with dead channels."""
    proto = convolutional()
    rng = np.random.default_rng(3)
    for tensor in proto.graph.initializer:
        values = rng.uniform(0.5, 1, list(tensor.dims)).astype(np.float32)
        if tensor.name in "sb":
            values[::3] = 0
        tensor.raw_data = values.tobytes()
    return proto


@pytest.mark.parametrize(
    "words", [("--no-measure",), ("--time-budget", "0", "--force-rules", "fold_batchnorm,simplify")]
)
def test_processes_with_other_hash_seeds_give_the_same_file(tmp_path: Path, words: tuple[str, ...]) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(convolutional_fixed(), model)
    files = set()
    for seed in ("0", "1", "77"):
        out = tmp_path / f"out-{seed}.onnx"
        command = [sys.executable, "-m", "onnxtune", "optimize", str(model), "-o", str(out), "--providers", "cpu"]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--exact-only", *words], env=environment, check=True, capture_output=True)
        files.add(out.read_bytes())
    assert len(files) == 1


def test_the_same_cache_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples differ from run to run; those of the first are what the second decides by."""
    drawn = np.random.default_rng(0)
    calls = []

    def measure(before: Any, after: Any, plan: Plan) -> Comparison:
        calls.append(1)
        ratio = float(drawn.choice([0.8, 1.1, 1.5, 2.0]))
        one = 1e-3 * drawn.uniform(1, 1.001, 30)
        return Comparison(one * ratio, one, ratio, ratio * 0.999, ratio * 1.001, 0.0, 0.99)

    monkeypatch.setattr("onnxtune.trial.measure", measure)
    options: dict[str, Any] = {"threads": 1, "providers": "cpu", "plugins": False, "cache": tmp_path / "c.sqlite"}
    proto = convolutional_fixed()
    first = onnxtune.optimize(proto, **options)
    taken = len(calls)
    again = [onnxtune.optimize(proto, **options) for _ in range(2)]
    assert taken > 3
    assert len(calls) == taken, "everything came from the cache"
    assert {digest(r.model) for r in again} == {digest(first.model)}


def test_measuring_is_needed_for_calibration() -> None:
    with pytest.raises(UsageError, match="--no-measure"):
        unmeasured(classic(17), exact_only=False, calibration_data="none.npz")
