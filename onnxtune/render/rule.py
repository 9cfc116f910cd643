"""A rule in words, from its TOML and its docstring. Pure function of values."""

from __future__ import annotations

import textwrap

from onnxtune.rule import Rule


def explain(rule: Rule) -> str:
    """Everything a user may want to know about a rule, as plain text."""
    card = rule.card
    kind = "enabling: kept only where it saves time or lets another rule fire" if card.enabling else "kept where faster"
    parts = [f"{card.code} {card.name}", card.summary, "", _wrap(card.why), ""]
    parts += [f"Safety: {card.safety}; {kind}"]
    if card.guidelines:
        parts += [f"Guideline: {', '.join(map(str, card.guidelines))}"]
    for heading, items in (("Fires on", card.fires), ("Declines", card.declines)):
        if items:
            parts += ["", f"{heading}:", *(f"  - {item}" for item in items)]
    if card.pattern:
        parts += ["", "Pattern (ONNX text syntax):", textwrap.indent(card.pattern.text, "  ")]
    if card.settings:
        parts += ["", "Settings ([rules." + card.name + "] in onnxtune.toml):"]
        parts += [f"  {key} = {value!r}  {card.help.get(key, '')}".rstrip() for key, value in card.settings.items()]
    if rule.algebra:
        parts += ["", "Algebra:", textwrap.indent(rule.algebra, "  ")]
    if card.references:
        parts += ["", "References:", *(f"  - {r}" for r in card.references)]
    return "\n".join(parts)


def _wrap(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 96)
