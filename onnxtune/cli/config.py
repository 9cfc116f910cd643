"""Defaults from `onnxtune.toml` or `[tool.onnxtune]` in pyproject.toml: below flags and environment.

Keys are the flags' names (`time-budget` or `time_budget`); `[rules.NAME]` tables set rules' settings,
`[preprocess]` says how images become inputs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from onnxtune.errors import UsageError


def read(path: Path | None) -> tuple[dict[str, Any], str]:
    """The configuration table and where it came from; empty when there is no file. Raises UsageError."""
    if path is not None:
        return _table(path), str(path)
    for candidate in (Path("onnxtune.toml"), Path("pyproject.toml")):
        if candidate.is_file() and (table := _table(candidate)):
            return table, str(candidate)
    return {}, ""


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from None
    if path.name == "pyproject.toml":
        table = table.get("tool", {}).get("onnxtune", {})
    return table


def load_defaults(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Eager click callback of `--config`: puts the file's values below flags and environment."""
    del parameter
    table, source = read(Path(value) if value else None)
    rules, preprocess = table.pop("rules", {}), table.pop("preprocess", {})
    known = {p.name for p in ctx.command.params if p.name}
    defaults = {_key(k): v for k, v in table.items() if not isinstance(v, Mapping) or _key(k) in known}
    unknown = [k for k in table if _key(k) not in known]
    if unknown and (strange := [k for k in unknown if _key(k) not in _known_elsewhere(ctx)]):
        raise UsageError(f"{source}: unknown key '{min(strange)}' (known: {_names(known)})")
    if not isinstance(rules, Mapping) or not all(isinstance(v, Mapping) for v in rules.values()):
        raise UsageError(f"{source}: 'rules' must hold tables such as [rules.pad_channels]")
    if not isinstance(preprocess, Mapping):
        raise UsageError(f"{source}: 'preprocess' must be a table, such as [preprocess] with mean and std")
    ctx.meta["onnxtune.config"] = source
    ctx.meta["onnxtune.preprocess"] = {_key(k): v for k, v in preprocess.items()}
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta["onnxtune.rules"] = {name: dict(settings) for name, settings in rules.items()}


def _known_elsewhere(ctx: click.Context) -> set[str]:
    """Keys that some other command knows: one file may serve them all."""
    root = ctx.find_root()
    group = root.command
    if not isinstance(group, click.Group):
        return set()
    commands = (group.get_command(root, name) for name in group.list_commands(root))
    return {p.name for command in commands if command for p in command.params if p.name}


def _key(name: str) -> str:
    return name.replace("-", "_")


def _names(known: Iterable[str]) -> str:
    return ", ".join(sorted(k.replace("_", "-") for k in known - {"config", "model"}))  # type: ignore[operator]
