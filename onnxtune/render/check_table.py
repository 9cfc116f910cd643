"""All checks as a Markdown table: which guideline and which item of the list of advice each one watches."""

from __future__ import annotations

from collections.abc import Iterable

from onnxtune.finding import Checker


def check_table(checkers: Iterable[Checker]) -> str:
    """| code | name | severity | says | guidelines | advice | rules |"""
    lines = [
        "| code | name | severity | what it finds | guidelines | advice | rules |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in (c.card for c in checkers):
        guidelines = ", ".join(map(str, card.guidelines)) or "-"
        rules = ", ".join(f"`{r}`" for r in card.rules) or "-"
        items = ", ".join(card.items) or "-"
        lines.append(
            f"| `{card.code}` | {card.name} | {card.severity} | {card.summary} | {guidelines} | {items} | {rules} |"
        )
    return "\n".join(lines)
