"""The user's own code, named as `module:function` on the command line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onnxtune.errors import UsageError, one_line


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Modules in the working folder can be imported meanwhile."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop(0)


def named(flag: str, name: str) -> Callable[..., Any]:
    """The function that `flag` names. Raises UsageError when there is none."""
    module, _, attribute = name.partition(":")
    try:
        with importable():
            found: Any = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UsageError(f"{flag} {name}: cannot be imported ({one_line(error)})") from None
    except AttributeError:
        raise UsageError(f"{flag} {name}: module '{module}' has no '{attribute}'") from None
    if not callable(found):
        raise UsageError(f"{flag} {name}: is not a function")
    result: Callable[..., Any] = found
    return result
