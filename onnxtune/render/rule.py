"""A rule in words, from its TOML and its docstring. Pure function of values."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from onnxtune.guidelines import GUIDELINES
from onnxtune.rule import Card, Drawing, Rule


def explain(rule: Rule, found_by: Sequence[str] = ()) -> str:
    """Everything a user may want to know about a rule, as plain text. found_by: codes of the checks that advise it."""
    card = rule.card
    kind = "enabling: kept only where it saves time or lets another rule fire" if card.enabling else "kept where faster"
    parts = [f"{card.code} {card.name}", card.summary, "", _wrap(card.why), ""]
    parts += [f"Safety: {card.safety}; {kind}"]
    if card.guidelines:
        parts += [f"Guideline: {', '.join(f'{g} ({GUIDELINES[g]})' for g in card.guidelines)}"]
    if found_by:
        parts += [f"Advised by `onnxtune check`: {', '.join(found_by)}"]
    for heading, items in (("Fires on", card.fires), ("Declines", card.declines)):
        if items:
            parts += ["", f"{heading}:", *(f"  - {item}" for item in items)]
    if card.drawing:
        for heading, drawing in (("Before", card.drawing.before), ("After", card.drawing.after)):
            parts += ["", f"{heading}:", textwrap.indent(drawing, "  ")]
    if card.pattern:
        parts += ["", "Pattern (ONNX text syntax):", textwrap.indent(card.pattern.text, "  ")]
    if card.settings:
        parts += ["", "Settings ([rules." + card.name + "] in onnxtune.toml):"]
        parts += [f"  {key} = {value!r}  {card.help.get(key, '')}".rstrip() for key, value in card.settings.items()]
    if rule.algebra:
        parts += ["", "Algebra:", textwrap.indent(rule.algebra, "  ")]
    if card.references:
        parts += ["", "References:", *(f"  - {r}" for r in card.references)]
    if card.history:
        parts += ["", "History:", *(f"  - {h}" for h in card.history)]
    if card.source != "onnxtune":
        parts += ["", f"From: {card.source}"]
    return "\n".join(parts)


def plain(card: Card) -> dict[str, Any]:
    """A card as plain data for JSON."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        if field.name == "pattern":
            value = None if value is None else value.text
        elif isinstance(value, Drawing):
            value = dataclasses.asdict(value)
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        found[field.name] = value
    return found


def _wrap(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 96)
