"""The GitHub Action, run as GitHub runs it: its scripts under bash, with inputs, outputs and summary files.

Expressions are evaluated for the few forms that the action uses; any other form fails here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from onnxtune.demo import model_path

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: the action cannot be read")
ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / "examples" / "workflow.yml").read_text(encoding="utf-8"))
BASH = shutil.which("bash")
QUICK = {"package": "none", "threads": "1", "time-budget": "1", "bench-args": "--iterations 4 --no-memory"}


@dataclass
class Job:
    """A runner's folder, and what the steps have said so far."""

    folder: Path
    inputs: Mapping[str, str]
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""

    def run(self) -> int:
        """All steps of the action; the exit status of the first that fails, else 0."""
        for step in ACTION["runs"]["steps"]:
            if "if" in step and self.value(step["if"]) != "true":
                continue
            code = self._step(step)
            if code:
                return code
        return 0

    @property
    def summary(self) -> str:
        path = self.folder / "summary"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def output(self, name: str) -> str:
        return self.value(ACTION["outputs"][name]["value"])

    def value(self, text: str) -> str:
        return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda m: self._expression(m[1]), text)

    def _expression(self, text: str) -> str:
        comparison = re.fullmatch(r"(\S+) (==|!=) '([^']*)'", text)
        if comparison:
            same = self._expression(comparison[1]) == comparison[3]
            return "true" if same == (comparison[2] == "==") else "false"
        kind, *rest = text.split(".")
        if kind == "inputs":
            return str(self.inputs.get(rest[0], ACTION["inputs"][rest[0]].get("default", "")))
        assert kind == "steps", text
        step, outputs, name = rest
        assert outputs == "outputs"
        return self.steps[step].get(name, "")

    def _step(self, step: Mapping[str, Any]) -> int:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "inputs reach a script through its environment, not as code"
        script, output = self.folder / "step.sh", self.folder / "output"
        script.write_text(step["run"], encoding="utf-8")
        output.write_text("")
        given = {key: self.value(value) for key, value in step["env"].items()} if "env" in step else {}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        files = {"GITHUB_STEP_SUMMARY": str(self.folder / "summary"), "GITHUB_OUTPUT": str(output)}
        libraries = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        assert BASH is not None
        done = subprocess.run(
            [BASH, "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.folder,
            env={**os.environ, **given, **files, "PATH": path, "PYTHONPATH": libraries},
            capture_output=True,
            text=True,
            check=False,
        )
        self.log += done.stdout + done.stderr
        said = dict(line.split("=", 1) for line in output.read_text(encoding="utf-8").splitlines())
        self.steps[step.get("id", step["name"])] = said
        return done.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(model_path(), tmp_path / "my model.onnx")
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="no bash on the path: the action's scripts were not run")
def test_tunes_reports_and_compares_with_a_baseline(folder: Path) -> None:
    baseline = folder / "baseline.json"
    arguments = ["-m", "onnxtune", "bench", "my model.onnx", "--threads", "1", "--json", str(baseline)]
    quick = ["--iterations", "4", "--no-memory", "-q"]
    subprocess.run([sys.executable, *arguments, *quick], cwd=folder, check=True)
    inputs = {**QUICK, "model": "my model.onnx", "args": "--only 'replace_lrn' --force-rules replace_lrn"}
    job = Job(folder, {**inputs, "baseline": str(baseline), "fail-slower": "100000%"})
    code = job.run()
    assert code == 0, job.log
    assert job.summary.startswith("### `my model.onnx`: ")
    assert "replace_lrn" in job.summary
    assert len(job.summary.split("|")) > 20
    assert job.output("model") == "my model.tuned.onnx"
    assert (folder / job.output("model")).exists()
    assert (folder / job.output("html")).read_text(encoding="utf-8").startswith("<!doctype html>")
    report = json.loads((folder / job.output("json")).read_text(encoding="utf-8"))
    assert job.output("status") == report["status"] in ("faster", "forced")
    assert float(job.output("speedup")) == pytest.approx(report["speedup"], abs=1e-3)
    assert report["settings"]["rules"] == ["replace_lrn"]
    assert (folder / "onnxtune-reports" / "bench.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="no bash on the path: the action's scripts were not run")
def test_a_gate_that_fails_fails_the_job_with_its_summary(folder: Path) -> None:
    arguments = "--only replace_lrn --strict --min-speedup 1000000"
    job = Job(folder, {**QUICK, "model": "my model.onnx", "args": arguments, "output": "out.onnx"})
    assert job.run() == 1, job.log
    assert "nothing to gain" in job.summary
    assert "--strict" in job.log
    missing = Job(folder, {**QUICK, "model": "absent.onnx"})
    assert missing.run() == 3
    assert "absent.onnx" in missing.log


def test_every_input_is_used_and_described() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    for name, told in ACTION["inputs"].items():
        assert told["description"]
        assert f"inputs.{name}" in text, name
    for told in ACTION["outputs"].values():
        assert told["description"]


def test_the_example_workflow_fits_the_action() -> None:
    steps = WORKFLOW["jobs"]["onnxtune"]["steps"]
    use = next(s for s in steps if s.get("uses", "").startswith("onnxtune/"))
    assert use["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, told in ACTION["inputs"].items() if told.get("required")} <= use["with"].keys()
    used = re.findall(r"steps\.tune\.outputs\.([\w-]+)", json.dumps(steps))
    assert used
    assert set(used) <= ACTION["outputs"].keys()


@pytest.mark.skipif(BASH is None, reason="no bash on the path: the hook was not run")
def test_the_pre_commit_hook_runs(folder: Path) -> None:
    hook = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))[0]
    assert re.search(hook["files"], "models/a.onnx")
    assert not re.search(hook["files"], "models/a.onnx.data")
    program, *words = hook["entry"].split()
    assert program == "onnxtune"
    libraries = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "onnxtune", *words, "my model.onnx"]
    environment = {**os.environ, "PYTHONPATH": libraries}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "broken.onnx").write_bytes(b"not a model")
    command[-1] = "broken.onnx"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
