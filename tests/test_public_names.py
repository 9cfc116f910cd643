"""The public surface: exact names, and an import that costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import onnxtune
from onnxtune import errors

NAMES = {
    "BenchmarkReport",
    "CheckReport",
    "Finding",
    "check",
    "DataError",
    "GateError",
    "ModelError",
    "Numerics",
    "OnnxtuneError",
    "ProviderError",
    "Report",
    "Result",
    "RuleError",
    "UsageError",
    "__version__",
    "benchmark",
    "compare",
    "optimize",
    "to_html",
    "to_markdown",
}


def test_exact_list() -> None:
    assert set(onnxtune.__all__) == NAMES
    assert len(onnxtune.__all__) == len(NAMES)
    assert all(getattr(onnxtune, name) is not None for name in NAMES)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        onnxtune.optimise  # noqa: B018


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after the statement."""
    code = f"import sys; {statement}; print(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    return set(answer.stdout.split())


@pytest.mark.parametrize("statement", ["import onnxtune", "import onnxtune.cli"])
def test_import_is_light(statement: str) -> None:
    assert not loaded_by(statement) & {"onnx", "onnxruntime", "numpy", "scipy", "onnx_graphsurgeon", "rich"}


def test_exit_codes_follow_the_tree_in_the_docstring() -> None:
    codes = {e.__name__: e.exit_code for e in vars(errors).values() if isinstance(e, type)}
    assert codes == {
        "OnnxtuneError": 1,
        "GateError": 1,
        "UsageError": 2,
        "RuleError": 2,
        "ModelError": 3,
        "DataError": 3,
        "ProviderError": 4,
    }
    assert issubclass(onnxtune.RuleError, onnxtune.UsageError)
    assert all(issubclass(getattr(errors, name), onnxtune.OnnxtuneError) for name in codes)


@pytest.mark.parametrize(
    ("text", "short"),
    [("a\nb", "a"), ("\n  \n b \n", "b"), ("x" * 400, "x" * 299 + "…"), ("", "str")],
)
def test_one_line(text: str, short: str) -> None:
    assert errors.one_line(text) == short


def test_one_line_of_an_empty_error_is_its_class() -> None:
    assert errors.one_line(KeyError()) == "KeyError"
