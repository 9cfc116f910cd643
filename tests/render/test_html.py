"""The HTML page: self-contained, well formed, every part there when it has something to say and absent otherwise."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from sample_reports import (
    HOSTILE,
    already_tuned,
    calibration,
    chain,
    enormous,
    hostile,
    kept,
    nothing_to_gain,
    over_budget,
    report,
)

from onnxtune.proposal import Decline
from onnxtune.render.html import to_html
from onnxtune.report import Kept, Report, Rewrite
from onnxtune.subgraph import Subgraph

VOID = {"meta", "br", "img", "link", "input", "hr"}
SVG_VOID = {"path", "rect", "line", "circle", "polyline"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "div", "span", "p"),
    *("h1", "h2", "h3", "b", "i", "small", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
    *("details", "summary", "figure", "figcaption", "svg", "g", "text", *SVG_VOID),
}


class Page(HTMLParser):
    """Checks that tags nest, and collects headings, text by section, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.headings: list[str] = []
        self.sections: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append("")
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert tag in SVG_VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self.headings[-1] += data
        elif "section" in self.open and "title" not in self.open:
            self.sections[-1] += data


REPORTS = {
    "faster": report(),
    "calibrated": report(calibration=calibration()),
    "no set passed": replace(report(), calibration={**calibration(), "gate": None, "veto": None}),
    "nothing to gain": nothing_to_gain(),
    "own result": already_tuned(),
    "over budget": over_budget(),
    "smaller": report(status="smaller"),
    "hostile": hostile(),
    "nothing at all": Report("m", "nothing to gain", report().before, report().before, None, (), {}, (), {}, {}, {}),
}


@pytest.mark.parametrize("found", REPORTS.values(), ids=REPORTS)
def test_well_formed_self_contained_and_no_empty_part(found: Report) -> None:
    text = to_html(found)
    page = Page(text)
    assert page.tags <= ALLOWED, page.tags - ALLOWED
    assert not {a for a in page.attributes if a.startswith("on") or a in ("src", "href", "srcset")}
    assert "default-src 'none'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert len(page.headings) == len(page.sections)
    for heading, body in zip(page.headings, page.sections, strict=True):
        assert len(" ".join(body.split())) > 15, f"nothing under '{heading}'"


def test_what_a_reader_wants_is_there() -> None:
    text = to_html(report(calibration=calibration()))
    page = Page(text)
    assert page.headings == [
        "Latency",
        "Accuracy",
        "Where the time went and goes",
        "What was rewritten (1)",
        "Tried and not kept (1)",
        "Declined (1)",
        "How to get this again",
    ]
    for words in (
        "1.50x",
        "0.40%, at most 0.70%",
        "optimize net.onnx --threads 1",
        "84.00% → 83.60%",
        "height was",
    ):
        assert words in text, words
    assert text.count("<svg") == 4  # distributions, front, before, after


def test_nothing_to_gain_has_no_accuracy_and_no_rewrites() -> None:
    headings = Page(to_html(nothing_to_gain())).headings
    assert headings == ["Where the time goes", "Tried and not kept (1)", "Declined (1)", "How to get this again"]


def test_names_are_escaped_everywhere() -> None:
    text = to_html(hostile())
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("<title>") == text.count("</title>")
    assert HOSTILE.split("|")[0] not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&amp;lt;" not in text, "escaped twice"


def test_a_very_large_model_is_cut_with_a_note() -> None:
    text = to_html(enormous())
    Page(text)
    assert len(text.encode()) < 3_000_000
    assert "more rewrites; the JSON report holds them all" in text
    assert "more; the JSON report holds them all" in text
    assert "9,985 more nodes" in text
    assert "What was rewritten (2500)" in text


def test_equal_rewrites_share_a_drawing() -> None:
    same = [kept(node=f"n{i}") for i in range(3)]
    other = replace(kept(node="m"), after=chain("Conv", "Relu"))
    text = to_html(report(*same, other))
    assert text.count('class="graph"') == 4
    assert "×3" in text
    assert "<code>n2</code>" in text


def test_a_rewrite_of_the_whole_model_lists_operators() -> None:
    whole = Rewrite("simplify", "24 -> 22 nodes", "", 0, "exact", True, {}, {"operators": {"Dropout": [2, 0]}})
    text = to_html(report(Kept(whole, None, None, "lets other rules fire")))
    assert re.search(r"<td>Dropout</td><td class=\"n\">2</td><td class=\"n\">0</td>", text)


def test_a_no_op_that_was_taken_out_is_drawn_as_a_line() -> None:
    gone = replace(kept(), after=Subgraph((), {}, {"a": "x"}))
    assert to_html(report(gone)).count('class="tensor"') >= 4


def test_declines_are_grouped_by_reason_with_their_places() -> None:
    declines = [Decline("fuse", f"n{i}", f"'n{i}' is a graph output") for i in range(40)]
    text = to_html(report(kept(), *declines))
    assert "×40: a tensor is a graph output" in text
    assert "… and 10 more" in text


def test_samples_that_the_machine_held_up_do_not_stretch_the_axis() -> None:
    from onnxtune.render.charts import distributions

    calm = report().comparison
    assert calm is not None
    held = np.where(np.arange(len(calm.before)) % 3 == 0, 20 * calm.before, calm.before)
    drawn = distributions(replace(calm, before=held))
    assert f"{(np.arange(len(held)) % 3 == 0).sum()} slower samples beyond" in drawn
    assert "slower" not in distributions(calm)
