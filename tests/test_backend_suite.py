"""A sample of ONNX's own backend tests through `optimize` (all of them: `python -m benchmarks.backend_suite`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "backend_suite.py"


@pytest.mark.slow
@pytest.mark.skipif(not PATH.exists(), reason="the benchmarks folder is not beside the tests")
def test_a_sample_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("backend_suite", PATH)
    assert spec is not None
    assert spec.loader is not None
    suite = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "backend_suite", suite)  # dataclasses look their module up there
    spec.loader.exec_module(suite)
    kinds = ("node", "simple", "pytorch-converted", "pytorch-operator")
    results = [r for t in suite.sample(list(suite.models(kinds)), 60) for r in suite.check_all(t)]
    assert not [(r.name, r.mode, r.reason) for r in results if r.status == "failed"]
    assert sum(r.status == "passed" and r.mode == "forced" for r in results) >= 30  # an old ONNX Runtime loads fewer
    assert sum(bool(r.rules) for r in results) >= 5
