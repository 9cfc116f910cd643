"""A rule: what its TOML says, joined with the arithmetic of its Python file.

The TOML is read strictly (an unknown key is an error that names file and key) and holds everything
that a user reads or tunes. The Python file defines exactly one of

    rewrite(match, new, settings) -> str | tuple[str, ...] | Decline reason
    propose(facts, settings)      -> iterable of Proposal or Decline
    transform(proto, settings)    -> ModelProto | None (nothing to do)
    levels(facts, settings)       -> iterable of Level or Decline (a calibrated rule)

and for pattern rules may define `variants(match, settings)`, an iterable of settings to try. A rule with an exact
form may define `levels` beside it, for the calibrated forms of the same idea.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from onnxtune.errors import RuleError
from onnxtune.patterntext import Pattern
from onnxtune.tomlfile import read_toml

OWN = "onnxtune"
"""Where our own rules come from, as cards say."""
Safety = Literal["exact", "calibrated", "advice"]
Kind = Literal["pattern", "graph", "model", "levels"]
ENTRY: Mapping[str, Kind] = {"rewrite": "pattern", "propose": "graph", "transform": "model", "levels": "levels"}


class No(str):
    """Returned by `rewrite` instead of a replacement: the reason why this match is left alone."""

    __slots__ = ()


@dataclass(frozen=True)
class Drawing:
    """What a rule changes, drawn in text: operators and arrows from input to output."""

    before: str
    after: str


@dataclass(frozen=True)
class Card:
    """What the TOML of a rule says."""

    name: str
    code: str
    summary: str
    why: str
    safety: Safety = "exact"
    enabling: bool = False
    pays_alone: bool = True
    default: bool = True
    late: bool = False
    order: int = 100
    min_opset: int = 7
    guidelines: tuple[int, ...] = ()
    fires: tuple[str, ...] = ()
    declines: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    drawing: Drawing | None = None
    pattern: Pattern | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    help: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    source: str = OWN


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule ready to run. `entry` is the function of its Python file that `kind` names."""

    card: Card
    kind: Kind
    entry: Callable[..., Any]
    variants: Callable[..., Any] | None = None
    levels: Callable[..., Any] | None = None
    algebra: str = ""

    @property
    def name(self) -> str:
        return self.card.name

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """The rule's settings with the user's overrides. Raises RuleError for unknown or ill-typed ones."""
        merged = dict(self.card.settings)
        for key, value in (overrides or {}).items():
            if key not in merged:
                known = ", ".join(sorted(merged)) or "none"
                raise RuleError(f"rule {self.name}: unknown setting '{key}' (known: {known})")
            whole = type(value) is int and isinstance(merged[key], float)
            if type(value) is not type(merged[key]) and not whole:
                raise RuleError(f"rule {self.name}: setting '{key}' must be a {type(merged[key]).__name__}")
            merged[key] = value
        return MappingProxyType(merged)

    def with_card(self, card: Card, path: str) -> Rule:
        """The same arithmetic under another card (a user's TOML without a Python file)."""
        _join(card, self.kind, path)
        return replace(self, card=card)


_TEXT = {"name", "code", "summary", "why"}
_LISTS: Mapping[str, type] = {"guidelines": int, "fires": str, "declines": str, "references": str, "history": str}
_OTHER: Mapping[str, type] = {
    "safety": str,
    "enabling": bool,
    "pays_alone": bool,
    "default": bool,
    "late": bool,
    "order": int,
    "min_opset": int,
}
_TABLES = {"pattern", "settings", "help", "drawing"}
_NAMES = ("constants", "optional", "optional_nodes")


def read_card(path: Path, source: str = OWN) -> Card:
    """Read a rule's TOML. Raises RuleError with the file and the key for anything unexpected."""
    return _card(read_toml(path, RuleError), path, source)


def _card(table: Mapping[str, Any], path: Path, source: str) -> Card:
    known = _TEXT | set(_LISTS) | set(_OTHER) | _TABLES
    _refuse_unknown(table, known, path, "")
    missing = _TEXT - table.keys()
    if missing:
        raise RuleError(f"{path}: key '{min(missing)}' is missing")
    for key in _TEXT:
        _expect(table, key, str, path)
        if not all(c.isprintable() or c in "\n\t" for c in table[key]):
            raise RuleError(f"{path}: key '{key}' holds control characters")
    if table["name"] != path.stem:
        raise RuleError(f"{path}: name '{table['name']}' must equal the file's name '{path.stem}'")
    for key, kind in _OTHER.items():
        _expect(table, key, kind, path)
    if table.get("safety", "exact") not in get_args(Safety):
        raise RuleError(f"{path}: safety must be one of {', '.join(get_args(Safety))}")
    for key, kind in _LISTS.items():
        _expect_list(table, key, kind, path)
    for key in _TABLES:
        _expect(table, key, dict, path)
    _refuse_unknown(table.get("help", {}), set(table.get("settings", {})), path, "help.")
    for key in table.get("help", {}):
        _expect(table["help"], key, str, path, "help.")
    lists: dict[str, Any] = {k: tuple(table[k]) for k in _LISTS if k in table}
    tables: dict[str, Any] = {k: MappingProxyType(table[k]) for k in ("settings", "help") if k in table}
    plain: dict[str, Any] = {k: table[k] for k in (*_TEXT, *_OTHER) if k in table}
    drawing, pattern = _drawing(table.get("drawing"), path), _pattern(table.get("pattern"), path)
    return Card(**plain, **lists, **tables, drawing=drawing, pattern=pattern, source=source)


def _drawing(table: Mapping[str, Any] | None, path: Path) -> Drawing | None:
    if table is None:
        return None
    keys = ("before", "after")
    _refuse_unknown(table, set(keys), path, "drawing.")
    for key in keys:
        if key not in table:
            raise RuleError(f"{path}: key 'drawing.{key}' is missing")
        _expect(table, key, str, path, "drawing.")
    return Drawing(*(table[key].strip("\n") for key in keys))


def _pattern(table: Mapping[str, Any] | None, path: Path) -> Pattern | None:
    if table is None:
        return None
    _refuse_unknown(table, {"graph", "any_of", *_NAMES}, path, "pattern.")
    if "graph" not in table:
        raise RuleError(f"{path}: key 'pattern.graph' is missing")
    _expect(table, "graph", str, path, "pattern.")
    for key in _NAMES:
        _expect_list(table, key, str, path, "pattern.")
    _expect(table, "any_of", dict, path, "pattern.")
    for key in table.get("any_of", {}):
        _expect_list(table["any_of"], key, str, path, "pattern.any_of.")
    return Pattern(
        table["graph"].strip(),
        tuple(table.get("constants", [])),
        tuple(table.get("optional", [])),
        tuple(table.get("optional_nodes", [])),
        {k: tuple(v) for k, v in table.get("any_of", {}).items()},
    )


def _refuse_unknown(table: Mapping[str, Any], known: set[str], path: Path, prefix: str) -> None:
    unknown = table.keys() - known
    if unknown:
        raise RuleError(f"{path}: unknown key '{prefix}{min(unknown)}' (known: {', '.join(sorted(known))})")


def _expect(table: Mapping[str, Any], key: str, kind: type, path: Path, prefix: str = "") -> None:
    if key in table and not _is(table[key], kind):
        raise RuleError(f"{path}: key '{prefix}{key}' must be a {kind.__name__}")


def _expect_list(table: Mapping[str, Any], key: str, kind: type, path: Path, prefix: str = "") -> None:
    _expect(table, key, list, path, prefix)
    if not all(_is(v, kind) for v in table.get(key, [])):
        raise RuleError(f"{path}: key '{prefix}{key}' must be a list of {kind.__name__}")


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def make_rule(card: Card, module: Any, path: str) -> Rule:
    """Join a card with its Python module. Raises RuleError when the module lacks a single entry point."""
    found = [name for name in ENTRY if callable(getattr(module, name, None))]
    levels = getattr(module, "levels", None)
    if len(found) > 1 and "levels" in found:
        found.remove("levels")
    if len(found) != 1:
        has = ", ".join(found) or "none"
        raise RuleError(f"{path}: its Python file must define exactly one of {', '.join(ENTRY)} (it has {has})")
    kind = ENTRY[found[0]]
    _join(card, kind, path)
    algebra = (module.__doc__ or "").strip()
    return Rule(card, kind, getattr(module, found[0]), getattr(module, "variants", None), levels, algebra)


def _join(card: Card, kind: Kind, path: str) -> None:
    """Raise RuleError when the card is not one for a rule of this kind."""
    if (card.pattern is not None) != (kind == "pattern"):
        raise RuleError(f"{path}: a rule with 'rewrite' needs a [pattern] in its TOML, others have none")
    if card.pattern is not None:
        try:
            card.pattern.validate()
        except RuleError as error:
            raise RuleError(f"{path}: {error}") from None
