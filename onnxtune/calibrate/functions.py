"""The user's own code, named as `module:function` on the command line.

Whatever it raises, while it is imported or when it runs, becomes one line that names it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onnxtune.errors import OnnxtuneError, UsageError, one_line


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Modules in the working folder can be imported meanwhile."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop(0)


@contextlib.contextmanager
def users_code(what: str, wrong: type[OnnxtuneError]) -> Iterator[None]:
    """What is raised meanwhile becomes `wrong`, also an exit (`sys.exit()` in a script that was named by mistake);
    only Ctrl-C passes."""
    try:
        yield
    except (OnnxtuneError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise wrong(f"{what}: it raised {type(error).__name__}: {one_line(error)}") from None


def named(flag: str, name: str) -> Callable[..., Any]:
    """The function that `flag` names. Raises UsageError when there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"{flag} {name}: expected module:function")
    with importable(), users_code(f"{flag} {name}: cannot be imported", UsageError):
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"{flag} {name}: cannot be imported ({one_line(error)})") from None
    try:
        found: Any = getattr(imported, attribute)
    except AttributeError:
        raise UsageError(f"{flag} {name}: module '{module}' has no '{attribute}'") from None
    if not callable(found):
        raise UsageError(f"{flag} {name}: is not a function")
    result: Callable[..., Any] = found
    return result
