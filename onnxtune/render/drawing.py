"""A subgraph as SVG: boxes for nodes with what they are and what they give, pills for tensors from and to outside.

Colours come from the page's style sheet by class, so that the drawing follows light, dark and print. Names of a
model may hold anything: all text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from unicodedata import east_asian_width

from onnxtune.render.layout import place
from onnxtune.subgraph import Subgraph, SubgraphNode

SHOWN = 24
"""Nodes that are drawn; a longer subgraph ends in a note."""
SIZE = {"b": 12.5, "s": 11.5}
"""Font sizes of operator names (bold) and of small text, as the style sheet has them."""
LINE, PADDING, LEAST, LONGEST = 16.0, 9.0, 84.0, 30


@dataclass(frozen=True)
class _Box:
    """Lines of text with their class; `title`: the full name, shown on hovering."""

    kind: str
    lines: tuple[tuple[str, str], ...]
    title: str

    @property
    def size(self) -> tuple[float, float]:
        widest = max((_width(text, kind) for kind, text in self.lines), default=0.0)
        return max(widest + 2 * PADDING, LEAST if self.kind == "op" else 0.0), LINE * len(self.lines) + PADDING


def draw(graph: Subgraph, label: str) -> str:
    """The drawing as an <svg> element; `label` says to a screen reader what it shows."""
    boxes, edges = _parts(graph)
    placed = place({name: box.size for name, box in boxes.items()}, edges)
    parts = [f'<path class="edge" d="{_path(course)}"/>' for course in placed.courses]
    for name, box in boxes.items():
        parts.append(_drawn(box, *placed.centres[name]))
    more = graph.left_out + max(len(graph.nodes) - SHOWN, 0)
    height = placed.height
    if more:
        height += 24
        parts.append(f'<text class="s" x="4" y="{height - 4:.0f}">… and {more} more nodes</text>')
    width = max(placed.width, 160.0 if more else 40.0) + 4
    return (
        f'<svg class="graph" role="img" aria-label="{escape(label)}" viewBox="-2 -2 {width:.0f} {height + 10:.0f}"'
        f' width="{width:.0f}" height="{height + 10:.0f}">{"".join(parts)}</svg>'
    )


def _parts(graph: Subgraph) -> tuple[dict[str, _Box], list[tuple[str, str]]]:
    """Boxes by name, and edges between them. Names carry a letter: a tensor and a node may share theirs."""
    nodes = graph.nodes[:SHOWN]
    made = {o: node.key for node in nodes for o in node.outputs}
    read = {i for node in nodes for i in node.inputs}
    boxes = {f"n{node.key}": _node(node, graph.shapes) for node in nodes}
    edges: dict[tuple[str, str], None] = {}

    def source(tensor: str) -> str:
        if tensor in made:
            return f"n{made[tensor]}"
        boxes.setdefault(f"i{tensor}", _tensor(tensor, graph.shapes.get(tensor)))
        return f"i{tensor}"

    for node in nodes:
        for tensor in node.inputs:
            edges[source(tensor), f"n{node.key}"] = None
    for tensor, instead in graph.aliases.items():
        name = f"o{tensor}"
        boxes[name] = _tensor(tensor, None)
        edges[source(instead), name] = None
    cut = len(nodes) < len(graph.nodes)
    for node in nodes:
        for tensor in node.outputs:
            if tensor not in read and not cut:
                boxes[f"o{tensor}"] = _tensor(tensor, None)
                edges[f"n{node.key}", f"o{tensor}"] = None
    return boxes, list(edges)


def _node(node: SubgraphNode, shapes: Mapping[str, tuple[int, ...]]) -> _Box:
    lines = [("b", _cut(node.operator)), *(("s", _cut(text)) for text in details(node))]
    shape = shapes.get(node.outputs[0]) if node.outputs else None
    if shape is not None:
        lines.append(("s", f"→ {times(shape)}"))
    return _Box("op", tuple(lines), node.key)


def _tensor(name: str, shape: tuple[int, ...] | None) -> _Box:
    lines = [("s", _cut(name, tail=True))]
    if shape is not None:
        lines.append(("s", times(shape)))
    return _Box("tensor", tuple(lines), name)


def details(node: SubgraphNode) -> list[str]:
    """What a node is, in lines: its weights, its window, how it moves."""
    found: dict[str, Any] = dict(node.attributes)
    lines = []
    weights = [w for w in node.weights if w is not None and len(w) > 1]
    if weights:
        lines.append("weights " + " and ".join(times(w) for w in weights[:2]))
    window = found.pop("kernel_shape", None)
    if window and not weights:
        lines.append(f"window {times(window)}")
    words = []
    if strides := found.pop("strides", None):
        words.append(f"stride {_same(strides)}")
    if dilations := found.pop("dilations", None):
        words.append(f"dilation {_same(dilations)}")
    if group := found.pop("group", None):
        words.append(f"{group} groups")
    if pads := found.pop("pads", None):
        words.append(f"pads {_same(pads)}")
    words += [f"{key} {value}" for key, value in found.items()]
    lines += [", ".join(words[i : i + 2]) for i in range(0, len(words), 2)]
    return lines


def times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _same(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ",".join(map(str, values))


def _width(text: str, kind: str) -> float:
    """Of text in the widest of the common fonts (DejaVu Sans), rather too much than too little."""

    def ems(character: str) -> float:
        if east_asian_width(character) in "WF" or ord(character) > 0x2FFF:
            return 1.05
        if character in "mwMW@%—…→&":
            return 1.0
        return 0.79 if character.isupper() else 0.4 if character in "ijl|!.,:;'/\\ ()[]" else 0.66

    return SIZE[kind] * (1.1 if kind == "b" else 1.0) * sum(map(ems, text))


def _cut(text: str, *, tail: bool = False) -> str:
    """At most LONGEST characters; of tensors' names the end tells more."""
    text = " ".join(text.split())
    if len(text) <= LONGEST:
        return text
    return "…" + text[-LONGEST + 1 :] if tail else text[: LONGEST - 1] + "…"


def _drawn(box: _Box, x: float, y: float) -> str:
    width, height = box.size
    radius = 5 if box.kind == "op" else min(height / 2, 14)
    left, top = x - width / 2, y - height / 2
    text = "".join(
        f'<text class="{kind}" x="{x:.1f}" y="{top + PADDING / 2 + LINE * (i + 0.75):.1f}">{escape(words)}</text>'
        for i, (kind, words) in enumerate(box.lines)
    )
    frame = f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:.0f}"/>'
    return f'<g class="{box.kind}"><title>{escape(box.title)}</title>{frame}{text}</g>'


def _path(course: Sequence[tuple[float, float]]) -> str:
    """A smooth line through the points, vertical at each."""
    x, y = course[0]
    words = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in course[1:]:
        middle = (y + to_y) / 2
        words.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(words)
