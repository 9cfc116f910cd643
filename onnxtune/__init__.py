"""onnxtune: structural rewrites of exported CNNs, each verified and measured, for ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxtune._version import __version__
from onnxtune.errors import DataError, GateError, ModelError, OnnxtuneError, ProviderError, RuleError, UsageError

if TYPE_CHECKING:
    from onnxtune.api import Result, optimize
    from onnxtune.bench.api import benchmark
    from onnxtune.bench.report import BenchmarkReport
    from onnxtune.checking import check
    from onnxtune.finding import CheckReport, Finding
    from onnxtune.numerics.api import compare
    from onnxtune.numerics.result import Numerics
    from onnxtune.render.html import to_html
    from onnxtune.render.markdown import to_markdown
    from onnxtune.report import Report

_LAZY = {
    "BenchmarkReport": "onnxtune.bench.report",
    "CheckReport": "onnxtune.finding",
    "Finding": "onnxtune.finding",
    "Numerics": "onnxtune.numerics.result",
    "Report": "onnxtune.report",
    "Result": "onnxtune.api",
    "benchmark": "onnxtune.bench.api",
    "check": "onnxtune.checking",
    "compare": "onnxtune.numerics.api",
    "optimize": "onnxtune.api",
    "to_html": "onnxtune.render.html",
    "to_markdown": "onnxtune.render.markdown",
}

__all__ = [
    "BenchmarkReport",
    "CheckReport",
    "DataError",
    "Finding",
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
    "check",
    "compare",
    "optimize",
    "to_html",
    "to_markdown",
]


def __getattr__(name: str) -> Any:
    """Heavy modules are imported on first use, so that `import onnxtune` costs nothing."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'onnxtune' has no attribute '{name}'")
