"""onnxtune: structural rewrites of exported CNNs, each verified and measured, for ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxtune._version import __version__
from onnxtune.errors import DataError, GateError, ModelError, OnnxtuneError, ProviderError, RuleError, UsageError

if TYPE_CHECKING:
    from onnxtune.api import Result, optimize
    from onnxtune.checking import check
    from onnxtune.finding import CheckReport, Finding
    from onnxtune.report import Report

_LAZY = {
    "check": "onnxtune.checking",
    "CheckReport": "onnxtune.finding",
    "Finding": "onnxtune.finding",
    "optimize": "onnxtune.api",
    "Result": "onnxtune.api",
    "Report": "onnxtune.report",
}

__all__ = [
    "CheckReport",
    "DataError",
    "Finding",
    "GateError",
    "ModelError",
    "OnnxtuneError",
    "ProviderError",
    "Report",
    "Result",
    "RuleError",
    "UsageError",
    "__version__",
    "check",
    "optimize",
]


def __getattr__(name: str) -> Any:
    """Heavy modules are imported on first use, so that `import onnxtune` costs nothing."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'onnxtune' has no attribute '{name}'")
