"""`optimize(..., isolate=True)`: the same answer from a child process, which may die without taking the caller along."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from rules_that_fail import DIES, network, write

import onnxtune
from onnxtune.report import Kept
from onnxtune.worker import _portable

PLAIN: dict[str, Any] = {
    "providers": "cpu", "threads": 1, "plugins": False, "cache": False, "time_budget": 0.0,
    "only": ("replace_lrn",), "force_rules": ("replace_lrn",),
}  # fmt: skip
"""Nothing is timed: the answer is the same bytes wherever it is found."""


def with_rule(folder: Path, body: str) -> dict[str, Any]:
    return {**PLAIN, "rules": [write(folder / "rules", body)], "only": ("replace_lrn", "bad")}


def said(report: onnxtune.Report) -> dict[str, Any]:
    plain = dataclasses.replace(report, seconds={}, reproduce="").to_dict()
    return {k: v for k, v in plain.items() if k != "environment"}


@pytest.mark.parametrize("how", ["in memory", "file", "external"])
def test_the_answer_is_the_same(how: str, tmp_path: Path) -> None:
    source: onnx.ModelProto | Path = network()
    if how != "in memory":
        source = tmp_path / "m.onnx"
        onnx.save(network(), source, save_as_external_data=how == "external", location="m.data", size_threshold=100)
    told: list[Any] = []
    stages: list[str] = []
    here = onnxtune.optimize(source, **PLAIN)
    there = onnxtune.optimize(
        source, **PLAIN, isolate=True, decide=told.append, notify=lambda stage, done, total: stages.append(stage)
    )
    assert here.report.kept
    assert there.model.SerializeToString(deterministic=True) == here.model.SerializeToString(deterministic=True)
    assert said(there.report) == said(here.report)
    assert there.report.reproduce.endswith("isolate=True)")
    assert any(isinstance(t, Kept) for t in told)
    assert "verifying" in stages
    assert there._loaded.external == here._loaded.external == (how == "external")
    there.save(tmp_path / "there.onnx")
    assert onnx.load(tmp_path / "there.onnx") == there.model


@pytest.mark.parametrize("name", DIES)
def test_a_crash_costs_what_crashed(name: str, tmp_path: Path) -> None:
    """The faults that the command line is tried with."""
    body, says = DIES[name]
    told: list[Any] = []
    options = {**with_rule(tmp_path, body), "force_rules": ("replace_lrn", "bad")}
    options |= {"isolate": True, "decide": told.append}
    if says == "exit 3":
        with pytest.raises(onnxtune.ModelError, match="dies of SIGABRT"):
            onnxtune.optimize(network(), **options)
        return
    result = onnxtune.optimize(network(), **options)
    assert any(isinstance(t, str) and "starting again without it" in t for t in told)
    assert "LRN" not in {n.op_type for n in result.model.graph.node}
    reasons = [o.reason for o in (*result.report.declined, *result.report.rejected)]
    assert any(says in r for r in reasons), reasons


def test_errors_are_those_of_the_call(tmp_path: Path) -> None:
    for error, source, more in (
        (onnxtune.ModelError, tmp_path / "missing.onnx", {}),
        (onnxtune.UsageError, network(), {"only": ["no_such_rule"]}),
        (onnxtune.ProviderError, network(), {"providers": "migraphx"}),
    ):
        texts = []
        for isolate in (False, True):
            with pytest.raises(error) as found:
                onnxtune.optimize(source, **{**PLAIN, **more}, isolate=isolate)
            texts.append(str(found.value))
        assert texts[0] == texts[1]


def test_functions_are_found_where_the_caller_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples.py").write_text("def feeds():\n    raise ValueError('asked for samples')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(onnxtune.DataError, match="asked for samples"):
        onnxtune.optimize(network(), providers="cpu", cache=False, calibration_data="my_samples:feeds", isolate=True)


def test_arguments_that_are_no_data() -> None:
    with pytest.raises(onnxtune.UsageError, match="isolate: the arguments must be plain data"):
        onnxtune.optimize(network(), **PLAIN, isolate=True, settings={"pad_channels": {"policy": lambda: None}})


class Enough(Exception):  # noqa: N818
    """What a listener raises."""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kind", [Enough, KeyboardInterrupt])
def test_the_child_ends_with_the_call(kind: type[BaseException], tmp_path: Path) -> None:
    body = "def propose(facts, settings):\n  open(os.environ['MARK'], 'w').write(str(os.getpid()))\n  yield Decline('bad', '', 'here')"
    mark = tmp_path / "pid"
    os.environ["MARK"] = str(mark)

    def stop(decision: object) -> None:
        if getattr(decision, "rule", "") == "bad":
            raise kind

    try:
        with pytest.raises(kind):
            onnxtune.optimize(network(), **with_rule(tmp_path, body), isolate=True, decide=stop)
    finally:
        del os.environ["MARK"]
    assert not Path("/proc", mark.read_text()).exists()


def test_a_child_that_is_killed(tmp_path: Path) -> None:
    body = "def propose(facts, settings): os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(onnxtune.OnnxtuneError, match=r"was killed \(SIGKILL\): out of memory\?"):
        onnxtune.optimize(network(), **with_rule(tmp_path, body), isolate=True)


def test_what_a_rule_prints_does_not_disturb(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = "def propose(facts, settings):\n  print('chatter', flush=True)\n  os.write(1, b'more')\n  return []"
    assert onnxtune.optimize(network(), **with_rule(tmp_path, body), isolate=True).report.kept
    out, err = capfd.readouterr()
    assert out == ""
    assert "chatter" in err


def test_log_records_come_along(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onnxtune"):
        onnxtune.optimize(network(), **PLAIN, isolate=True)
    assert any(r.name == "onnxtune.model" and "nodes, opset" in r.getMessage() for r in caplog.records)


def test_errors_that_cannot_travel() -> None:
    class Local(Exception):  # noqa: N818
        pass

    try:
        raise Local("why")
    except Local as error:
        found = _portable(error)
    assert type(found) is RuntimeError
    assert "Local: why" in str(found)
    assert "raise Local" in found.__notes__[0]
    kept = _portable(onnxtune.UsageError("text"))
    assert type(kept) is onnxtune.UsageError
    assert not hasattr(kept, "__notes__")
    pickle.dumps(found)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_child_ends_when_the_caller_is_killed(tmp_path: Path) -> None:
    body = "import time\ndef propose(facts, settings):\n  open(os.environ['MARK'], 'w').write(str(os.getpid()))\n  time.sleep(60)"
    mark = tmp_path / "pid"
    onnx.save(network(), tmp_path / "m.onnx")
    call = f"import onnxtune; onnxtune.optimize({str(tmp_path / 'm.onnx')!r}, rules=[{str(write(tmp_path / 'rules', body))!r}], providers='cpu', cache=False, plugins=False, isolate=True)"
    caller = subprocess.Popen([sys.executable, "-c", call], env={**os.environ, "MARK": str(mark)})
    try:
        _wait(lambda: mark.exists() and mark.read_text() != "")
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    _wait(lambda: not Path("/proc", mark.read_text()).exists())


def _wait(until: Any) -> None:
    import time

    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


ABORTING = """
import os
if "ONNXTUNE_CRASH_NOTES" in os.environ:
    import onnxruntime
    real = onnxruntime.InferenceSession
    def session(source, options=None, providers=(), **more):
        if providers[0][0] == "AzureExecutionProvider":
            os.abort()
        return real(source, options, providers=providers, **more)
    onnxruntime.InferenceSession = session
    onnxruntime.get_available_providers = lambda: ["AzureExecutionProvider", "CPUExecutionProvider"]
"""
"""A provider that aborts when it is loaded, in the process that does the work."""


def test_doctor_survives_a_provider_that_aborts(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABORTING)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "onnxtune", "doctor"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "died of SIGABRT; starting again without it" in done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("works ", "not usable "))]
    assert [line.split()[:3] for line in said] == [
        ["not", "usable", "AzureExecutionProvider:"],
        ["works", "CPUExecutionProvider", said[1].split()[2]],
    ]
    assert "it dies of SIGABRT" in said[0]
