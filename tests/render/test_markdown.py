"""Markdown for pull requests: the headline first, details folded, nothing that a name holds gets out of its place."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from sample_reports import (
    HOSTILE,
    already_tuned,
    calibration,
    enormous,
    hostile,
    kept,
    nothing_to_gain,
    over_budget,
    report,
)

from onnxtune.render.markdown import name, text, to_markdown


def html(markdown: str) -> str:
    """As GitHub shows it, raw HTML included."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def test_the_headline_comes_first() -> None:
    lines = to_markdown(report()).splitlines()
    assert lines[0] == "### `net.onnx`: 1.50x faster"
    assert lines[2].startswith("2 → 1.33 ms per inference; 99% interval")
    assert "Same function: largest relative difference 3e-07 on 2 kinds of input" in lines


def test_loss_with_its_bound_when_calibrated() -> None:
    shown = to_markdown(report(calibration=calibration()))
    assert "Loss of top1: **0.40%**, at most **0.70%** (90% confidence, 1600 samples; budget 1.00%)" in shown
    assert "**taken:** Conv 5x5 as cp; prune" in shown
    assert "Same function" not in shown


def test_figures_and_details() -> None:
    shown = to_markdown(report())
    assert "| weights | 4.00 MB | 2.00 MB | -50.0% |" in shown
    for summary in ("1 rewrites kept", "1 tried and not kept", "1 declined", "How to get this again"):
        assert f"<details><summary>{summary}</summary>" in shown
    assert shown.count("<details>") == shown.count("</details>")
    assert "onnxtune optimize net.onnx --threads 1" in shown
    assert "> height was assumed to be 224" in shown


@pytest.mark.parametrize(
    ("found", "title"),
    [
        (nothing_to_gain(), "nothing to gain, the original is kept"),
        (already_tuned(), "already tuned, this is onnxtune's own result under these settings"),
        (over_budget(), "not written, what was asked for costs more than the budget allows"),
        (report(status="smaller"), "50% smaller 1.50x in time"),
    ],
)
def test_other_statuses(found: object, title: str) -> None:
    shown = to_markdown(found)  # type: ignore[arg-type]
    assert shown.splitlines()[0] == f"### `net.onnx`: {title}"
    assert not re.search(r"<details><summary>[^<]*</summary>\n\n+</details>", shown), "an empty part"


def test_nothing_escapes() -> None:
    shown = html(to_markdown(hostile()))
    tags = set(re.findall(r"</?([a-zA-Z][a-zA-Z0-9]*)", shown))
    allowed = {"h3", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "blockquote"}
    assert tags <= allowed | {"strong", "pre"}, tags
    assert "href" not in shown
    rows = re.findall(r"<tr>.*?</tr>", shown, re.DOTALL)
    assert {len(re.findall(r"<t[dh]", r)) for r in rows} <= {2, 3, 4, 5}, "no bar opened another column"


@pytest.mark.parametrize("value", [HOSTILE, "`", "``a`", "a|b", "a\nb", " ", "x" * 500, "\\", "é漢"])
def test_names_are_code(value: str) -> None:
    shown = html(f"| a |\n|---|\n| {name(value)} |\n")
    cells = re.findall(r"<td>(.*?)</td>", shown, re.DOTALL)
    if value.strip():
        assert len(cells) == 1
        assert re.fullmatch(r"<code>[^<]*</code>", cells[0]), cells
        assert len(cells[0]) < 400


def test_text_does_not_notify_or_link() -> None:
    shown = text("@team see https://example.org/#1 and **x** <b>")
    assert "@team" not in shown
    assert "https://" not in shown
    assert "<strong>" not in html(shown)
    assert "<b>" not in shown


def test_a_very_large_model_stays_small() -> None:
    shown = to_markdown(enormous())
    assert len(shown.encode()) < 60_000
    assert "more; the JSON report holds them all" in shown
    assert "2,500 rewrites kept" in shown


def test_equal_rewrites_share_a_row() -> None:
    shown = to_markdown(report(*(kept(node=f"n{i}") for i in range(3))))
    assert "`n0` (+2 more)" in shown


def test_the_profile_of_one_model() -> None:
    shown = to_markdown(replace(nothing_to_gain(), comparison=None))
    assert "| `Relu` | 2 | 1.2 ms |" in shown
    assert "| operator | kernels | time |" in shown
