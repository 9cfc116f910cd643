"""Options that several commands share. Each also reads the environment variable ONNXTUNE_<NAME>."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxtune.cli.config import load_defaults
from onnxtune.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """click.option with its environment variable and default shown in the help."""
    long = next(n for n in names if n.startswith("--")).split("/")[0]
    settings.setdefault("envvar", "ONNXTUNE_" + long.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_default", True)
    return click.option(*names, **settings)


def target_options(command: F) -> F:
    """--providers, --provider-option, --threads, --input-shapes, --seed."""
    for decorate in reversed(
        [
            option(
                "--providers",
                default="auto",
                metavar="NAMES",
                help="Execution provider to tune for: auto (CUDA when it works, else CPU), cpu, cuda, cuda:1,"
                " tensorrt, an ONNX Runtime name, or a list of which the first that works is taken.",
            ),
            option("--provider-option", multiple=True, metavar="K=V", help="ONNX Runtime option of the provider."),
            option(
                "--threads",
                default=0,
                type=click.IntRange(0),
                metavar="N",
                help="CPU threads of a session; 0: ONNX Runtime's choice.",
            ),
            option(
                "--input-shapes",
                multiple=True,
                metavar="NAME:1x3x224x224",
                help="Shape to measure at, for an input with dynamic dimensions.",
            ),
            option("--seed", default=0, type=click.IntRange(0), metavar="N", help="Seed of everything random."),
        ]
    ):
        command = decorate(command)
    return command


def rule_options(command: F) -> F:
    """--only, --skip, --exact-only, --rules, --no-plugins."""
    for decorate in reversed(
        [
            option("--only", multiple=True, metavar="RULE", help="Use only this rule (repeatable, or a,b)."),
            option("--skip", multiple=True, metavar="RULE", help="Leave this rule out (repeatable, or a,b)."),
            option(
                "--exact-only",
                is_flag=True,
                help="Use only rules that keep the function the same in real arithmetic.",
            ),
            option("--rules", multiple=True, metavar="DIR", help="Folder with further rules (repeatable)."),
            option("--plugins/--no-plugins", default=True, help="Use rules that installed packages offer."),
        ]
    ):
        command = decorate(command)
    return command


def config_option(command: F) -> F:
    return click.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        envvar="ONNXTUNE_CONFIG",
        callback=load_defaults,
        help="Defaults for these options [default: onnxtune.toml, or [tool.onnxtune] in pyproject.toml].",
    )(command)


def words(values: tuple[str, ...]) -> tuple[str, ...]:
    """("a,b", "c") -> ("a", "b", "c")."""
    return tuple(w.strip() for value in values for w in value.split(",") if w.strip())


def pairs(values: tuple[str, ...], flag: str) -> dict[str, str]:
    """("a=1", "b=2") -> {"a": "1", "b": "2"}. Raises UsageError."""
    found = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise UsageError(f"{flag} {value}: expected KEY=VALUE")
        found[key.strip()] = text.strip()
    return found
