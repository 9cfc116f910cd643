"""What a model can be given to before it is deployed, each in a process of its own.

    python -m benchmarks.suite.contenders NAME IN.onnx OUT.onnx [SETTINGS as JSON]

writes OUT.onnx and prints one line of JSON: seconds, the peak of the resident memory in bytes, rules that onnxtune
used. `SETTINGS` are keyword arguments of `onnxtune.optimize`; simplifiers have none.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

SIMPLIFIERS = {"onnxsim": "simplify", "onnxslim": "slim", "onnxoptimizer": "optimize"}
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1800
"""Seconds after which a contender has failed."""


@dataclass(frozen=True)
class Contender:
    """`name` in tables; `settings` of onnxtune, None for a simplifier."""

    name: str
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Made:
    """What a contender made of a model: a file and its cost, or why there is none."""

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


def installed() -> list[Contender]:
    """The simplifiers that are installed here."""
    return [Contender(name) for name in SIMPLIFIERS if importlib.util.find_spec(name) is not None]


def make(contender: Contender, model: Path, out: Path) -> Made:
    """Run the contender on the file in a fresh process."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.suite.contenders",
        contender.name,
        str(model.resolve()),
        str(out.resolve()),
    ]
    if contender.settings is not None:
        words.append(json.dumps(contender.settings))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return Made(out, failure=f"not done after {LIMIT} s")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return Made(out, failure=said[-1][:300])
    return Made(out, json.loads(done.stdout.strip().splitlines()[-1]))


def _simplify(name: str, model: Path, out: Path) -> dict[str, Any]:
    result = getattr(importlib.import_module(name), SIMPLIFIERS[name])(onnx.load(model))
    onnx.save(result[0] if isinstance(result, tuple) else result, out)
    return {}


def _tune(model: Path, out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    import onnxtune

    result = onnxtune.optimize(model, providers="cpu", cache=False, **settings)
    result.save(out)
    report = result.report
    gate = (report.calibration or {}).get("gate")
    return {"rules": dict(report.counts()), "status": report.status, "gate": gate}


def _peak() -> int:
    """Bytes: the kernel's high-water mark of this process, which a parent's own use does not raise."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("this system has no VmHWM")


def main() -> None:
    name, model, out, *rest = sys.argv[1:]
    began = time.perf_counter()
    facts = _tune(Path(model), Path(out), json.loads(rest[0])) if rest else _simplify(name, Path(model), Path(out))
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": _peak(), **facts}))


if __name__ == "__main__":
    main()
