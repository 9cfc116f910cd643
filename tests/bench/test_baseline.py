"""An earlier run as a measure: what counts as slower, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxtune.bench.baseline import change, changes, check_machine, read_baseline
from onnxtune.bench.report import BenchmarkReport, Case, Measured
from onnxtune.errors import DataError, UsageError

MACHINE = {"key": "k", "device": "some CPU"}
SETTINGS = {"provider": "CPUExecutionProvider", "threads": 1, "provider_options": {}}


def samples(center: float, seed: int = 0, spread: float = 0.01) -> np.ndarray:
    return center * (1 + np.random.default_rng(seed).normal(0, spread, (8, 10, 2)))


def report(*models: tuple[str, np.ndarray], label: str = "", shape: tuple[int, ...] = (1, 3)) -> BenchmarkReport:
    rows = tuple(Measured(n, 1, s, 1, 0.1, 2e-3, True, 0.002, 0.0, 10) for n, s in models)
    case = Case(label, None, {"x": shape}, rows, (None,) * (len(rows) - 1))
    return BenchmarkReport(MACHINE, SETTINGS, (case,))


def old(*models: tuple[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(report(*models).to_json())  # type: ignore[no-any-return]


def test_slower_only_beyond_the_threshold_and_the_noise() -> None:
    before = samples(1e-3)
    assert change("m", "", before, samples(1.10e-3, 1), 0.002).slower(0.05)
    assert not change("m", "", before, samples(1.10e-3, 1), 0.002).slower(0.15), "within what is allowed"
    assert not change("m", "", before, samples(1.10e-3, 1), 0.12).slower(0.05), "within the noise"
    assert not change("m", "", before, samples(0.9e-3, 1), 0.002).slower(0.0), "faster"
    wild = samples(1.10e-3, 1) * np.exp(np.random.default_rng(2).normal(0, 0.3, (8, 1, 2)))
    assert not change("m", "", before, wild, 0.002).slower(0.05), "the interval holds 1"


def test_equal_runs_seldom_differ() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        then, now = (1e-3 * np.exp(rng.normal(0, 0.02, (6, 1, 2)) + rng.normal(0, 0.01, (6, 8, 2))) for _ in range(2))
        wrong += change("m", "", then, now, 0.0).slower(0.0)
    assert wrong <= 4  # half of 1 % each


def test_the_interval_is_welchs() -> None:
    """Two sessions against two: places 0, 0.02 and 0.1, 0.12; s = 0.01 x sqrt 2 / sqrt 2 each, t(0.995; 2) = 9.925."""
    then, now = (np.exp(np.array([[[a, a + 0.02]]])) for a in (0.0, 0.1))
    found = change("m", "", then, now, 0.0)
    assert np.log(found.ratio) == pytest.approx(0.1)
    assert np.log(found.high / found.low) / 2 == pytest.approx(9.925 * np.sqrt(2) * 0.01, rel=1e-3)


def test_runs_that_were_cut_do_not_count() -> None:
    then = samples(1e-3)
    then[:, :3] = np.nan
    (found,) = changes(old(("a.onnx", then)), report(("a.onnx", samples(1e-3, 1))), "old.json")
    assert found.ratio == pytest.approx(1, abs=0.01)


def test_models_are_found_by_path_and_file_name() -> None:
    before = old(("old/a.onnx", samples(1e-3)), ("b.onnx", samples(2e-3)))
    found = changes(before, report(("b.onnx", samples(2e-3, 1)), ("new/a.onnx", samples(1e-3, 2))), "old.json")
    assert [(c.model, round(c.ratio, 1)) for c in found] == [("b.onnx", 1.0), ("new/a.onnx", 1.0)]


def test_one_model_each_needs_no_name() -> None:
    (found,) = changes(old(("a.onnx", samples(1e-3))), report(("b.onnx", samples(1.2e-3))), "old.json")
    assert found.ratio == pytest.approx(1.2, rel=0.01)


def test_another_machine_is_refused() -> None:
    check_machine(MACHINE, MACHINE, "old.json")
    with pytest.raises(
        UsageError, match=r"old\.json: was measured on another machine \(some GPU, this is some CPU\).*--force"
    ):
        check_machine({"key": "other", "device": "some GPU"}, MACHINE, "old.json")
    with pytest.raises(UsageError, match="another kind of some CPU"):
        check_machine({**MACHINE, "key": "other"}, MACHINE, "old.json")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda r: r["settings"].update(threads=2), UsageError, "with threads 2, this run has 1"),
        (lambda r: r["cases"][0].update(shapes={"x": [2, 3]}), UsageError, "was measured at"),
        (lambda r: r["cases"][0].update(label="batch 9"), UsageError, "none of these models and cases"),
        (lambda r: r["cases"][0]["results"][0].pop("samples"), DataError, "damaged"),
        (lambda r: r.update(cases=3), DataError, "damaged"),
        (lambda r: r["cases"][0]["results"][0].update(samples=[[1], [2, 3]]), DataError, "damaged"),
        (lambda r: r.pop("settings"), UsageError, "provider None"),
    ],
)
def test_what_does_not_compare(damage: Any, error: type[Exception], message: str) -> None:
    before = copy.deepcopy(old(("a.onnx", samples(1e-3))))
    damage(before)
    with pytest.raises(error, match=message):
        changes(before, report(("a.onnx", samples(1e-3))), "old.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not the JSON of"),
        ('{"schema": 1}', "not the JSON of"),
        ('{"kind": "benchmark", "schema": 99}', "has the schema 99"),
    ],
)
def test_files_that_are_no_baseline(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=f"old.json: .*{message}"):
        read_baseline(path)
