"""Data flows one way: no module imports one of a later stage."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "onnxtune"

ORDER = (
    "errors",
    "_version",
    "temporary",
    "wellformed",
    "domains",
    "crashes",
    "supervise",
    "timebox",
    "tomlfile",
    "external",
    "mapped",
    "model",
    "shapes",
    "devices",
    "blas",
    "library",
    "binding",
    "runtime",
    "gpu",
    "later",
    "facts",
    "costs",
    "patterntext",
    "rule",
    "proposal",
    "fragment",
    "draft",
    "apply",
    "pattern",
    "channels",
    "heads",
    "windows",
    "convolution",
    "fully_connected",
    "grids",
    "monotone",
    "taps",
    "stencil",
    "linear",
    "branches",
    "operands",
    "sizes",
    "ranges",
    "feeds",
    "exchange",
    "comparison",
    "accuracy",
    "choose",
    "calibrate",
    "pointwise",
    "phases",
    "winograd",
    "resizing",
    "uniform",
    "elementwise",
    "lowrank",
    "permutations",
    "reordering",
    "unfolding",
    "foreign",
    "catalog",
    "propose",
    "region",
    "measure",
    "cache",
    "alike",
    "trial",
    "memory",
    "profile",
    "subgraph",
    "verify",
    "localcheck",
    "steps",
    "select",
    "report",
    "provenance",
    "numerics",
    "tune",
    "free_size",
    "scene",
    "finding",
    "findings",
    "checks",
    "guidelines",
    "seen",
    "worth",
    "checking",
    "isolated",
    "api",
    "worker",
    "exactness",
    "testing",
    "demo",
    "bench",
    "render",
    "cli",
    "entry",
)
"""A module imports only what stands before it (a package: itself too). Add a new module where it belongs."""

FREE = {"__init__", "__main__"}
"""The package's public names and `python -m`: they import from anywhere."""

TYPES_ONLY = {("patterntext", "facts")}
"""A pattern wraps its nodes as the graph's nodes are wrapped; imported only when a pattern is used."""

RULEBOOK_MAY = {
    "calibrate",
    "branches",
    "channels",
    "convolution",
    "costs",
    "elementwise",
    "errors",
    "later",
    "facts",
    "fragment",
    "grids",
    "heads",
    "monotone",
    "linear",
    "operands",
    "pattern",
    "phases",
    "winograd",
    "pointwise",
    "proposal",
    "resizing",
    "rule",
    "shapes",
    "taps",
    "stencil",
    "uniform",
    "lowrank",
    "permutations",
    "reordering",
    "unfolding",
    "windows",
}
RULEBOOK_LIBRARIES = {"numpy", "onnx", "scipy", "onnxslim"}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "rulebook" not in p.parts and p.stem not in FREE)


def stage(path: Path) -> str:
    """`onnxtune/cli/rules.py` belongs to the stage `cli`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import; write the full name"
            base = node.module or ""
            found.update(f"{base}.{a.name}" for a in node.names) if base == "onnxtune" else found.add(base)
    return found


def test_every_module_has_its_place() -> None:
    assert {stage(p) for p in modules()} <= set(ORDER), "a new module: add it to ORDER where it belongs"
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_earlier_stages(path: Path) -> None:
    own = stage(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "onnxtune" or len(parts) == 1 or parts[1] == "rulebook":
            continue
        if parts[1] == own or (own, parts[1]) in TYPES_ONLY:
            continue
        assert parts[1] in ORDER, f"{name} is not in ORDER"
        assert ORDER.index(parts[1]) < ORDER.index(own), f"{own} imports the later stage {parts[1]}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "rulebook").glob("*.py")), ids=lambda p: p.stem)
def test_rules_import_only_what_rules_may(path: Path) -> None:
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "onnxtune":
            assert len(parts) > 1, f"{path.name}: imports the whole package"
            assert parts[1] in RULEBOOK_MAY or parts[1] == "rulebook", f"{path.name} imports {name}"
        else:
            assert parts[0] in RULEBOOK_LIBRARIES or parts[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_rules_do_not_know_each_other_by_registry() -> None:
    """The spine never names a rule: rules are found, not listed."""
    names = {p.stem for p in (PACKAGE / "rulebook").glob("*.py")} - {"__init__"}
    for path in modules():
        for name in imported(path):
            assert name.rpartition(".")[2] not in names, f"{path.name} imports the rule {name}"
