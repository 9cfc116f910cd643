"""Finding rules: our own, a user's `--rules DIR`, and plug-in packages. No registry to edit.

A rule is `<name>.toml` beside the others with `<name>.py` in `onnxtune/rulebook/` (own rules) or in the
same folder (a user's or a plug-in's). Packages offer rules in the entry-point group `onnxtune.rules`;
the entry point may name a module with its TOML beside it, an `onnxscript.rewriter` rule or rule set,
or a callable `ModelProto -> ModelProto`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxtune.errors import RuleError, UsageError, one_line
from onnxtune.rule import Card, Rule, make_rule, read_card

GROUP = "onnxtune.rules"


def rules_folder() -> Path:
    """Our rules' TOML files: inside the installed package, else in the checkout."""
    package = Path(__file__).parent
    installed = package / "_rules"
    return installed if installed.is_dir() else package.parent / "rules"


def cards(folders: Sequence[Path] = (), *, plugins: bool = True) -> list[Card]:
    """What all rules say of themselves, without importing any rule's code (plug-ins excepted)."""
    found = {rule.name: rule.card for rule in _plugins()} if plugins else {}
    found.update((card.name, card) for card, _ in [*_own_files(), *_user_files(folders)])
    return sorted(found.values(), key=lambda c: (c.order, c.name))


def catalog(folders: Sequence[Path] = (), *, plugins: bool = True) -> list[Rule]:
    """All rules, ready to run, in the order in which they are tried. Later sources override earlier.

    Raises RuleError for a rule that is malformed; UsageError when a folder does not exist.
    """
    found = {rule.name: rule for rule in _plugins()} if plugins else {}
    for card, path in _own_files():
        module = importlib.import_module(f"onnxtune.rulebook.{card.name}")
        found[card.name] = make_rule(card, module, str(path))
    for card, path in _user_files(folders):
        beside = path.with_suffix(".py")
        if beside.exists():
            found[card.name] = make_rule(card, _import_file(beside), str(path))
        elif card.name in found:
            found[card.name] = found[card.name].with_card(card, str(path))
        else:
            raise RuleError(f"{path}: no {beside.name} beside it, and onnxtune has no rule of that name")
    return sorted(found.values(), key=lambda r: (r.card.order, r.name))


def own_rule(name: str) -> Rule:
    """One rule of ours, without loading the others. Raises RuleError when there is none of that name."""
    path = rules_folder() / f"{name}.toml"
    return make_rule(read_card(path), importlib.import_module(f"onnxtune.rulebook.{name}"), str(path))


def choose(
    rules: Iterable[Rule], only: Sequence[str] = (), skip: Sequence[str] = (), *, exact_only: bool = False
) -> list[Rule]:
    """The rules that `--only`, `--skip` and `--exact-only` leave.

    Raises UsageError for a name that does not exist, or one in `only` that `exact_only` forbids.
    """
    rules = list(rules)
    names = {r.name for r in rules}
    for name in (*only, *skip):
        if name not in names:
            raise UsageError(f"unknown rule '{name}'; `onnxtune rules list` shows them all")
    for rule in rules:
        if exact_only and rule.name in only and rule.card.safety != "exact":
            raise UsageError(f"rule '{rule.name}' is {rule.card.safety}, which --exact-only leaves out")
    chosen = [r for r in rules if (r.name in only if only else r.card.default) and r.name not in skip]
    return [replace(r, levels=None) for r in chosen if r.card.safety == "exact"] if exact_only else chosen


def _own_files() -> list[tuple[Card, Path]]:
    return [(read_card(path), path) for path in sorted(rules_folder().glob("*.toml"))]


def _user_files(folders: Sequence[Path]) -> list[tuple[Card, Path]]:
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--rules {folder}: no such folder")
        found += [(read_card(path, str(folder)), path) for path in sorted(folder.glob("*.toml"))]
    return found


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"onnxtune_user_rule_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RuleError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        raise RuleError(f"{path}: cannot be imported ({type(error).__name__}: {one_line(error)})") from None
    return module


def _plugins() -> list[Rule]:
    found = []
    for point in importlib.metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist else point.value
        try:
            target = point.load()
        except Exception as error:  # somebody else's package may raise anything
            raise RuleError(f"plug-in {package}: '{point.value}' cannot be imported ({one_line(error)})") from None
        found.append(plugin_rule(point.name, target, package))
    return found


def plugin_rule(name: str, target: Any, package: str) -> Rule:
    """A Rule from what an entry point names. Raises RuleError when it is none of the known kinds."""
    if isinstance(target, ModuleType) and target.__file__:
        path = Path(target.__file__).with_suffix(".toml")
        return make_rule(read_card(path, package), target, str(path))
    from onnxtune.foreign import adopt

    return adopt(name, target, package)
