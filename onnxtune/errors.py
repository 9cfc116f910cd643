"""Everything onnxtune raises on purpose.

OnnxtuneError                 base; `exit_code` is what the command line returns
├── GateError            (1)  a gate that the user asked for failed (accuracy, numerics, --strict)
├── UsageError           (2)  wrong flag, argument or configuration
│   └── RuleError        (2)  a rule's TOML, Python file or plug-in is wrong
├── ModelError           (3)  a model file that cannot be used
├── DataError            (3)  a data file that cannot be used
└── ProviderError        (4)  the requested execution provider or device does not work here

Each message is one line: what, where, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class OnnxtuneError(Exception):
    """Base of all errors that onnxtune raises on purpose."""

    exit_code: ClassVar[int] = 1


class GateError(OnnxtuneError):
    """A gate that the user asked for failed."""


class UsageError(OnnxtuneError):
    """Wrong flag, argument or configuration."""

    exit_code = 2


class RuleError(UsageError):
    """A rule's TOML, Python file or plug-in is wrong."""


class ModelError(OnnxtuneError):
    """A model that cannot be used: missing, truncated, not ONNX, unsupported."""

    exit_code = 3


class DataError(OnnxtuneError):
    """A data file that cannot be used."""

    exit_code = 3


class ProviderError(OnnxtuneError):
    """The requested execution provider or device does not work here."""

    exit_code = 4


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The first meaningful line of a library's message, shortened to `limit` characters."""
    lines = [part.strip() for part in str(error).splitlines() if part.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
