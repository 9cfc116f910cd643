"""Where each rule wins and where it loses: small models made for it, one rule at a time.

    python -m benchmarks.rules [RULE ...] --output benchmarks/results/rules.json

Cases are in benchmarks/cases/, one file per rule. Every case runs `onnxtune.optimize(only=rule)` with an empty
cache on one CPU thread and prints what the whole model gained, or the best of what was tried and not kept.
Writes JSON (with all samples) and Markdown; rows of rules that are not named stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import onnxtune
from benchmarks.cases import CaseOf, discover
from onnxtune.devices import cpu_name
from onnxtune.runtime import versions


def run(rule: str, case: CaseOf) -> dict[str, Any]:
    """What the rule did to the case, with all samples."""
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


def markdown(results: dict[str, Any]) -> str:
    setting = f"{results['device']}, 1 thread, batch 1, ONNX Runtime {results['versions']['onnxruntime']}."
    lines = [
        f"{setting} Whole small model, original over result, 99 % interval; what was not kept shows its best region.",
        "",
        "| rule | case | kept | not kept |",
        "|---|---|---|---|",
    ]
    for row in results["cases"]:
        kept = f"**{_ratio(row['whole'])}**" if row["whole"] else ""
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
