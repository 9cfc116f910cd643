"""A report as one HTML page of its own: no script, no network, light and dark, for phone, screen and paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from onnxtune.profile import NodeTime, Profile, by_operator
from onnxtune.render import charts, drawing, words
from onnxtune.render.classes import RULE as CLASSES
from onnxtune.render.classes import channel_classes
from onnxtune.report import Kept, Report
from onnxtune.subgraph import Subgraph, SubgraphNode

if TYPE_CHECKING:
    from jinja2 import Template

GROUPS, PLACES, BARS = 80, 30, 15
"""Groups of outcomes, places named in a group, and bars of a chart that are shown before the rest is counted."""


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart: seconds before and after (None: not there), lengths in per cent of the longest."""

    label: str
    note: str
    before: float | None
    after: float | None
    before_length: float
    after_length: float


@dataclass(frozen=True)
class Group:
    """Equal rewrites: the one that saved most with its drawings, and where the others are."""

    first: Kept
    count: int
    others: tuple[Kept, ...]
    left: int
    before: str
    after: str
    operators: tuple[tuple[str, int, int], ...]


def to_html(report: Report) -> str:
    """The page as text. Every name from the model is escaped; long lists end in a count of what is left out."""
    from markupsafe import Markup

    same = words.grouped(words.by_saving(report.kept), _kind)
    beaten = [r for r in report.rejected if r.stage == "select"]
    tried = words.grouped(report.rejected, lambda r: (r.rewrite.rule, words.what(r.rewrite), r.stage))
    said = words.declines(d for d in report.declined if d.rule != CLASSES)
    comparison = report.comparison
    found = report.calibration
    context: dict[str, Any] = {
        "report": report,
        "head": words.headline(report),
        "words": words,
        "comparison": comparison,
        "latencies": words.latencies(comparison) if comparison is not None else [],
        "distributions": Markup(charts.distributions(comparison)) if comparison is not None else "",
        "sizes": words.sizes(report),
        "operator_bars": _operator_bars(report.profile_before, report.profile_after),
        "node_bars": _node_bars(report.profile_before, report.profile_after),
        "front": Markup(charts.front(found)) if found and found["points"] else "",
        "kept": [_group(items) for items in same[:GROUPS]],
        "kept_left": sum(len(items) for items in same[GROUPS:]),
        "tried": tried[:GROUPS],
        "tried_left": sum(len(g) for g in tried[GROUPS:]),
        "beaten": len(beaten),
        "declines": said[:GROUPS],
        "declines_left": sum(len(g) for g in said[GROUPS:]),
        "declined": sum(len(g) for g in said),
        "classes": channel_classes(report)[:GROUPS],
        "settings": _settings(report),
        "PLACES": PLACES,
        "markup": Markup,
    }
    return _template().render(context)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("onnxtune.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _group(items: Sequence[Kept]) -> Group:
    """Rewrites with the same rule, title and drawing, of which the first saves most."""
    first, *others = items
    title = f"{first.rewrite.rule}: {first.rewrite.title}"
    return Group(
        first,
        len(items),
        tuple(others[:PLACES]),
        max(len(others) - PLACES, 0),
        drawing.draw(first.before, f"before {title}") if first.before is not None else "",
        drawing.draw(first.after, f"after {title}") if first.after is not None else "",
        tuple((k, v[0], v[1]) for k, v in first.rewrite.details.get("operators", {}).items()),
    )


def _kind(kept: Kept) -> object:
    return kept.rewrite.rule, kept.rewrite.title, kept.reason, _look(kept.before), _look(kept.after)


def _look(graph: Subgraph | None) -> object:
    """What a drawing looks like without names."""

    if graph is None:
        return None

    def look(node: SubgraphNode) -> object:
        return node.operator, repr(node.attributes), node.weights, tuple(graph.shapes.get(o) for o in node.outputs)

    return tuple(look(n) for n in graph.nodes)


def _operator_bars(before: Profile | None, after: Profile | None) -> list[Bar]:
    """Time by operator, in both models."""
    if before is None:
        return []
    was = {name: (count, seconds) for name, count, seconds in by_operator(before.nodes)}
    now = {name: (count, seconds) for name, count, seconds in by_operator(after.nodes)} if after else {}
    names = sorted({*was, *now}, key=lambda n: -max(was.get(n, (0, 0.0))[1], now.get(n, (0, 0.0))[1]))
    longest = max((seconds for found in (was, now) for _, seconds in found.values()), default=0.0) or 1.0
    bars = []
    for name in names[:BARS]:
        one, other = was.get(name), now.get(name)
        counts = [f"{one[0] if one else 0}"] + ([f"{other[0] if other else 0}"] if after else [])
        bars.append(
            Bar(
                name,
                "×" + " → ".join(dict.fromkeys(counts)),
                one[1] if one else None,
                other[1] if other else None,
                100 * one[1] / longest if one else 0.0,
                100 * other[1] / longest if other else 0.0,
            )
        )
    return bars


def _node_bars(before: Profile | None, after: Profile | None) -> list[tuple[str, str, list[Bar], int, float]]:
    """The most expensive nodes of each model on one scale: (class, whose, bars, how many are left, their seconds)."""
    found = []
    models = [("before", "Original", before), ("after", "Result", after)]
    longest = max((n.seconds for _, _, p in models if p for n in p.nodes), default=0.0) or 1.0
    for kind, title, profile in models:
        if profile is None:
            continue
        shown = sorted(profile.nodes, key=lambda n: -n.seconds)
        rest = shown[BARS:]
        bars = [_node_bar(node, kind, longest) for node in shown[:BARS]]
        found.append((kind, title, bars, len(rest), sum(n.seconds for n in rest)))
    return found


def _node_bar(node: NodeTime, kind: str, longest: float) -> Bar:
    length = 100 * node.seconds / longest
    if kind == "before":
        return Bar(node.name, node.operator, node.seconds, None, length, 0.0)
    return Bar(node.name, node.operator, None, node.seconds, 0.0, length)


def _settings(report: Report) -> list[tuple[str, str]]:
    """Settings that were recorded, without the long list of rules and what stands elsewhere."""
    skipped = {"rules", "calibration", "device", "provider"}
    return [
        (k.replace("_", " "), _said(v))
        for k, v in report.settings.items()
        if k not in skipped and v not in ({}, [], None)
    ]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_said(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "×".join(map(str, value)) if all(isinstance(v, int) for v in value) else ", ".join(map(str, value))
    return str(value)
