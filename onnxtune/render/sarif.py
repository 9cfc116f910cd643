"""Findings as SARIF 2.1.0, which code hosts show beside the code.

A finding is one result at the model's file; the nodes are logical locations. Levels: error, warning, and note for
advice and info (the severity itself is among the properties).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from onnxtune._version import __version__
from onnxtune.checks import checkers
from onnxtune.finding import REMEDIES, Checker, CheckReport, Finding, plain
from onnxtune.render.check_text import to_do, worth

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Mapping[str, str] = {"error": "error", "warning": "warning", "advice": "note", "info": "note"}
NODES = 20
"""Logical locations of a result, at most."""


def sarif(reports: Sequence[tuple[str, CheckReport]]) -> str:
    """The log of one run. reports: (path of the model as given, its report)."""
    every = checkers()
    index = {c.card.code: i for i, c in enumerate(every)}
    driver = {
        "name": "onnxtune",
        "semanticVersion": __version__,
        "rules": [_rule(c) for c in every],
    }
    results = [_result(path, f, index[f.code]) for path, report in reports for f in report.findings]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "utf16CodeUnits"}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False)


def _rule(checker: Checker) -> dict[str, Any]:
    card = checker.card
    return {
        "id": card.code,
        "name": "".join(word.capitalize() for word in card.name.split("-")),
        "shortDescription": {"text": card.summary},
        "fullDescription": {"text": " ".join(checker.explanation.split())},
        "help": {"text": f"{REMEDIES[card.remedy]}: {card.action}"},
        "defaultConfiguration": {"level": LEVELS[card.severity]},
        "properties": {"tags": [f"guideline-{g}" for g in card.guidelines]},
    }


def _result(path: str, finding: Finding, index: int) -> dict[str, Any]:
    value = worth(finding.worth)
    text = f"{finding.message}. {to_do(finding)}." + (f" Worth: {value}." if value else "")
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": quote(PurePath(path).as_posix())}, "region": {"startLine": 1}}
    }
    if finding.nodes:
        names = finding.nodes[:NODES]
        location["logicalLocations"] = [{"name": n, "fullyQualifiedName": n, "kind": "element"} for n in names]
    identity = json.dumps([path, finding.code, list(finding.nodes)])
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [location],
        "partialFingerprints": {"onnxtune/v1": hashlib.sha256(identity.encode()).hexdigest()},
        "properties": {"severity": finding.severity, "numbers": plain(finding.numbers)},
    }
