"""A rule that fails in any way costs its own rewrites and nothing else, and is named with where it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from rules_that_fail import BAD, DIES, write

import onnxtune
from onnxtune.proposal import Decline
from onnxtune.report import Rejected
from onnxtune.testing import model_of
from onnxtune.timebox import TimeUp, time_box

W = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)


def network() -> onnx.ModelProto:
    """A convolution with an LRN behind it: replace_lrn fires."""
    text = (
        "g (float[N, 3, 12, 12] x) => (float[N, 8, 10, 10] y) { c = Conv (x, w)  r = Relu (c)  y = LRN <size = 5> (r) }"
    )
    return model_of(text, {"w": W})


# Where the time is up during a garbage collection, another library's callback may see it first; it is raised again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", BAD)
def test_the_rest_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, says = BAD[name]
    monkeypatch.setattr("onnxtune.propose.RULE_SECONDS", 1.0)
    folder, proto = write(tmp_path / "rules", body), network()
    before = proto.SerializeToString(deterministic=True)
    began = time.monotonic()
    result = onnxtune.optimize(
        proto, rules=[folder], only=("bad", "replace_lrn"), force_rules=("bad", "replace_lrn"), providers="cpu",
        threads=1, cache=False, plugins=False,
    )  # fmt: skip
    assert time.monotonic() - began < 30
    assert proto.SerializeToString(deterministic=True) == before
    assert [k.rewrite.rule for k in result.report.kept] == ["replace_lrn"]
    result.report.to_json()
    reasons = [o.reason for o in result.report.outcomes if isinstance(o, Decline) and o.rule == "bad"]
    reasons += [o.reason for o in result.report.outcomes if isinstance(o, Rejected) and o.rewrite.rule == "bad"]
    if says:
        assert any(says in r for r in reasons), reasons
    failed = [r for r in reasons if "failed (" in r]
    assert all(str(folder) in r for r in failed), "the report says whose rule it is"


@pytest.mark.parametrize("name", DIES)
def test_a_crash_costs_what_crashed(name: str, tmp_path: Path) -> None:
    body, says = DIES[name]
    folder, model, report = write(tmp_path / "rules", body), tmp_path / "model.onnx", tmp_path / "report.json"
    onnx.save(network(), model)
    command = [sys.executable, "-m", "onnxtune", "optimize", str(model), "--rules", str(folder), "--json", str(report)]
    command += ["--only", "bad,replace_lrn", "--force-rules", "replace_lrn,bad", "--providers", "cpu", "--threads", "1"]
    command += ["--no-plugins", "--time-budget", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    if says == "exit 3":
        assert done.returncode == 3
        assert "dies of SIGABRT" in done.stderr
        assert not model.with_suffix(".tuned.onnx").exists()
        return
    assert done.returncode == 0, done.stderr
    assert "starting again without it" in done.stderr
    assert "LRN" not in {n.op_type for n in onnx.load(model.with_suffix(".tuned.onnx")).graph.node}
    assert any(says in str(o.get("reason")) for o in json.loads(report.read_text())["outcomes"])


def test_time_boxes_are_exact_about_whom_they_stop() -> None:
    for _ in range(200):  # on the edge: it comes within the box or not at all
        try:
            with time_box(0.01):
                end = time.perf_counter() + 0.01
                while time.perf_counter() < end:
                    pass
        except TimeUp:
            pass
        sum(range(2000))
    with pytest.raises(TimeUp):
        _spin(0.05)
    time.sleep(0.01)


def _spin(seconds: float) -> None:
    with time_box(seconds):
        while True:
            pass
