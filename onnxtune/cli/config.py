"""Defaults from `onnxtune.toml` or `[tool.onnxtune]` in pyproject.toml: below flags and environment.

Keys are the flags' names (`time-budget` or `time_budget`); those of other commands are left to them. `[rules.NAME]`
tables set rules' settings, `[preprocess]` says how images become inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from onnxtune.errors import UsageError
from onnxtune.tomlfile import read_toml


def read(path: Path | None) -> tuple[dict[str, Any], str]:
    """The configuration table and where it came from; empty when there is no file. Raises UsageError."""
    if path is not None:
        return _table(path), str(path)
    for candidate in (Path("onnxtune.toml"), Path("pyproject.toml")):
        if candidate.is_file() and (table := _table(candidate)):
            return table, str(candidate)
    return {}, ""


def _table(path: Path) -> dict[str, Any]:
    table = read_toml(path, UsageError)
    if path.name == "pyproject.toml":
        table = table.get("tool", {}).get("onnxtune", {})
    return table


def load_defaults(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Eager click callback of `--config`: puts the file's values below flags and environment."""
    del parameter
    table, source = read(Path(value) if value else None)
    rules, preprocess = table.pop("rules", {}), table.pop("preprocess", {})
    known = _options(ctx.command)
    named = {_key(k): v for k, v in table.items() if not isinstance(v, Mapping) or _key(k) in known}
    unknown = [k for k in table if _key(k) not in known and _key(k) not in _of_other_commands(ctx)]
    if unknown:
        raise UsageError(f"{source}: unknown key '{min(unknown)}' (known: {_names(known)})")
    defaults = {known[k]: v for k, v in named.items() if k in known}
    if not isinstance(rules, Mapping) or not all(isinstance(v, Mapping) for v in rules.values()):
        raise UsageError(f"{source}: 'rules' must hold tables such as [rules.pad_channels]")
    if not isinstance(preprocess, Mapping):
        raise UsageError(f"{source}: 'preprocess' must be a table, such as [preprocess] with mean and std")
    ctx.meta["onnxtune.config"] = source
    ctx.meta["onnxtune.preprocess"] = {_key(k): v for k, v in preprocess.items()}
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta["onnxtune.rules"] = {name: dict(settings) for name, settings in rules.items()}


def _options(command: click.Command) -> dict[str, str]:
    """What a key may be called: an option's long name -> its parameter."""
    options = [p for p in command.params if isinstance(p, click.Option) and p.name and p.name != "config"]
    return {_key(o.removeprefix("--")): p.name for p in options for o in p.opts if o.startswith("--") and p.name}


def _of_other_commands(ctx: click.Context) -> set[str]:
    """One file serves all commands: each takes what is its own."""
    group = ctx.parent.command if ctx.parent else None
    if not isinstance(group, click.Group):
        return set()
    commands = (group.get_command(ctx, name) for name in group.list_commands(ctx))
    return {key for command in commands if command for key in _options(command)}


def _key(name: str) -> str:
    return name.replace("-", "_")


def _names(known: Iterable[str]) -> str:
    return ", ".join(sorted(k.replace("_", "-") for k in known))
