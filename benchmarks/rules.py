"""Where each rule wins and where it loses: small models made for it, one rule at a time.

    python -m benchmarks.rules [RULE ...] --output benchmarks/results/rules.json

Cases are in benchmarks/cases/, one file per rule. Every case runs `onnxtune.optimize(only=rule)` with an empty
cache on one CPU thread and prints what the whole model gained, or the best of what was tried and not kept. Of rules
that need data the levels are timed unfitted, with random weights, and the fastest is shown.
Writes JSON (with all samples) and Markdown; rows of rules that are not named stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxtune
from benchmarks.cases import CaseOf, discover
from onnxtune.apply import apply
from onnxtune.cache import Cache
from onnxtune.calibrate.level import Level
from onnxtune.comparison import Comparison
from onnxtune.devices import cpu_name
from onnxtune.facts import Facts
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.proposal import Decline
from onnxtune.propose import propose_levels
from onnxtune.runtime import Target, versions
from onnxtune.sizes import bind
from onnxtune.testing import rule_named
from onnxtune.trial import Timer

PLAN = Plan(warmup=0.05, rounds=24, duration=0.6, precision=0.02)
"""For one level: there are many."""


def run(rule: str, case: CaseOf) -> dict[str, Any]:
    """What the rule did to the case, with all samples."""
    if case.levels is not None:
        return _fastest_level(rule, case, case.levels)
    result = onnxtune.optimize(case.model, providers="cpu", threads=1, only=(rule,), cache=False)
    report = result.report.to_dict()
    tried = [o for o in report["outcomes"] if o.get("comparison")]
    best = max(tried, key=lambda o: float(o["comparison"]["speedup"]), default=None)
    whole = report["comparison"] if report["status"] == "faster" else None
    reasons = [o["reason"] for o in report["outcomes"] if "reason" in o]
    kept = [o["rewrite"]["title"] for o in report["outcomes"] if o["kind"] == "kept"]
    return {
        "rule": rule,
        "case": case.name,
        "status": report["status"],
        "whole": whole,
        "best_region": best["comparison"] if best else None,
        "kept": kept,
        "reasons": reasons,
    }


def _fastest_level(rule: str, case: CaseOf, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fastest of the levels that the rule offers, unfitted, on the whole model."""
    model, target = Model(case.model, case.name), Target(threads=1)
    sizes = bind(model).sizes
    timer = Timer(target, Cache(None))
    said = propose_levels(Facts(model, sizes), [rule_named(rule)], {rule: dict(settings)})
    trials = {
        s.title: timer.models(model, apply(model, [s.unfitted]), sizes, PLAN) for s in said if isinstance(s, Level)
    }
    known = {title: t.comparison for title, t in trials.items() if t.comparison is not None}
    title = max(known, key=lambda t: known[t].speedup, default=None)
    best = None if title is None else _plain(known[title], samples=True)
    faster = title is not None and known[title].verdict == "faster"
    return {
        "rule": rule,
        "case": case.name,
        "status": "faster" if faster else "nothing to gain",
        "whole": best if faster else None,
        "best_region": best,
        "kept": [title] if faster else [],
        "reasons": [s.reason for s in said if isinstance(s, Decline)],
        "unfitted": {t: _plain(c) for t, c in known.items()},
    }


def _plain(comparison: Comparison, *, samples: bool = False) -> dict[str, Any]:
    names = ("speedup", "low", "high", "noise", "verdict")
    found = {name: getattr(comparison, name) for name in names}
    series = {name: getattr(comparison, name).tolist() for name in ("before", "after")} if samples else {}
    return found | series


def markdown(results: dict[str, Any]) -> str:
    setting = f"{results['device']}, 1 thread, batch 1, ONNX Runtime {results['versions']['onnxruntime']}."
    lines = [
        f"{setting} Whole small model, original over result, 99 % interval; what was not kept shows its best region.",
        "Rules that need calibration data: the fastest of their levels, not fitted; its form stands behind the ratio.",
        "",
        "| rule | case | kept | not kept |",
        "|---|---|---|---|",
    ]
    for row in results["cases"]:
        kept = f"**{_ratio(row['whole'])}**" if row["whole"] else ""
        if kept and "unfitted" in row:
            kept += f" {row['kept'][0]}"
        other = "" if row["whole"] else _ratio(row["best_region"]) if row["best_region"] else "not tried"
        lines.append(f"| {row['rule']} | {row['case']} | {kept} | {other} |")
    return "\n".join(lines) + "\n"


def _ratio(comparison: dict[str, Any]) -> str:
    return f"{comparison['speedup']:.2f}x [{comparison['low']:.2f}, {comparison['high']:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rules.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {"device": cpu_name(), "cores": os.cpu_count(), "versions": versions(), "cases": []}
    if arguments.rules and arguments.output.exists():
        before = json.loads(arguments.output.read_text())
        if all(before[k] == results[k] for k in ("device", "cores", "versions")):
            results["cases"] = [c for c in before["cases"] if c["rule"] not in arguments.rules]
    for rule, case in discover(arguments.rules):
        results["cases"].append(run(rule, case))
        print(markdown(results).splitlines()[-1], flush=True)
    results["cases"].sort(key=lambda c: str(c["rule"]))
    arguments.output.write_text(json.dumps(results))
    arguments.output.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
