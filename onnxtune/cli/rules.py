"""`onnxtune rules list` and `onnxtune rules explain NAME`: the catalogue, from the rules' own TOML files."""

from __future__ import annotations

from pathlib import Path

import click

from onnxtune.cli.options import complete_rules, option


@click.group("rules", short_help="List the rewrites, or explain one.")
def command() -> None:
    """The catalogue of rewrites."""


folders = option("--rules", "rules", multiple=True, metavar="DIR", help="Folder with further rules (repeatable).")
plugins = option("--plugins/--no-plugins", default=True, help="Include rules that installed packages offer.")


@command.command("list")
@folders
@plugins
@option("--json", "as_json", is_flag=True, help="Everything that the rules say of themselves, as JSON.")
def list_rules(rules: tuple[str, ...], plugins: bool, as_json: bool) -> None:
    """One line per rule: code, name, safety class, what it does, and where it comes from if not from onnxtune."""
    from onnxtune.catalog import cards

    found = cards([Path(r) for r in rules], plugins=plugins)
    if as_json:
        import json

        from onnxtune.render.rule import plain

        click.echo(json.dumps({"schema": 1, "rules": [plain(c) for c in found]}, indent=1))
        return
    width = max(len(c.name) for c in found)
    for card in found:
        source = "" if card.source == "onnxtune" else f"  [{card.source}]"
        click.echo(f"{card.code:7}{card.name:{width}}  {card.safety:10}  {card.summary}{source}")


@command.command("explain")
@click.argument("name", shell_complete=complete_rules)
@folders
@plugins
def explain(name: str, rules: tuple[str, ...], plugins: bool) -> None:
    """What a rule changes and why, when it fires, when it declines, its settings and its algebra."""
    from onnxtune.catalog import catalog, choose
    from onnxtune.checks import checkers
    from onnxtune.render.rule import explain as text

    available = catalog([Path(r) for r in rules], plugins=plugins)
    rule = choose(available, [name])[0]
    click.echo(text(rule, [c.card.code for c in checkers() if rule.name in c.card.rules]))
