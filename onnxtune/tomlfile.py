"""TOML from anywhere: parsed within limits, and whatever is wrong with it said in one line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from onnxtune.errors import UsageError, one_line

LARGEST = 2**20
"""Bytes that a rule or a configuration may have."""
DEEPEST = 32
"""Parts that one dotted key may have. (The standard library takes quadratic time for them.)"""
_DOTTED = re.compile(rf"(?<![\w.-])(?:(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{DEEPEST},}}+")
"""Possessive, and tried at the start of a word only: it is itself linear in the text."""


def read_toml(path: Path, error: type[UsageError]) -> dict[str, Any]:
    """The table in the file. Raises `error` naming the file: unreadable, too large, not TOML, nested beyond reason."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise error(f"{path}: larger than {LARGEST} bytes, which no rule or configuration is")
        text = data.decode("utf-8")
        if _DOTTED.search(text):
            raise error(f"{path}: not valid TOML (a key of more than {DEEPEST} parts)")
        return tomllib.loads(text)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except RecursionError:
        raise error(f"{path}: not valid TOML (nested too deeply)") from None
    except ValueError as problem:  # TOMLDecodeError, UnicodeDecodeError, and numbers that Python does not convert
        raise error(f"{path}: not valid TOML ({one_line(problem)})") from None
