"""Finding the checks: one file each in `onnxtune/findings/`, no registry to edit. Its docstring is the explanation."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache

from onnxtune import findings
from onnxtune.errors import UsageError
from onnxtune.finding import Checker


@cache
def checkers() -> tuple[Checker, ...]:
    """All checks, in the order of their codes."""
    found = []
    for info in pkgutil.iter_modules(findings.__path__):
        module = importlib.import_module(f"{findings.__name__}.{info.name}")
        explanation = (module.__doc__ or "").strip()
        hooks = [getattr(module, name, None) for name in ("measure", "sweep", "asks")]
        found.append(Checker(module.CHECK, module.find, explanation, *hooks))
    return tuple(sorted(found, key=lambda c: c.card.code))


def chosen(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Checker, ...]:
    """The checks whose code or name is selected (all when nothing is), less those ignored. Prefixes of codes count.

    Raises UsageError for one that matches no check.
    """
    every = checkers()
    for text in (*select, *ignore):
        if not any(_matches(c, [text]) for c in every):
            raise UsageError(f"unknown check '{text}'; `onnxtune check --list` shows them all")
    return tuple(c for c in every if (not select or _matches(c, select)) and not _matches(c, ignore))


def check_named(text: str) -> Checker:
    """The check with this code or name. Raises UsageError."""
    for checker in checkers():
        if text.upper() == checker.card.code or text == checker.card.name:
            return checker
    raise UsageError(f"unknown check '{text}'; `onnxtune check --list` shows them all")


def _matches(checker: Checker, texts: Iterable[str]) -> bool:
    return any(checker.card.code.startswith(t.upper()) or checker.card.name == t for t in texts if t)
