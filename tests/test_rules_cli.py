"""`rules list` and `rules explain`: everything that TOML and docstring of a rule say, from one source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxtune.catalog import cards, own_rule
from onnxtune.cli import main
from onnxtune.errors import RuleError
from onnxtune.rule import read_card

OURS = cards(plugins=False)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["rules", *map(str, words)])
    return int(stop.value.code or 0)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--no-plugins") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(OURS)
    for line, card in zip(lines, OURS, strict=True):
        assert line.split()[:3] == [card.code, card.name, card.safety]
        assert card.summary in line


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--no-plugins", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1
    by_name = {r["name"]: r for r in said["rules"]}
    assert by_name.keys() == {c.name for c in OURS}
    pads = by_name["pad_channels"]
    assert pads["guidelines"] == [4]
    assert pads["settings"]["policy"] == "auto"
    assert pads["drawing"]["before"].startswith("x -> Conv (63 channels)")
    assert by_name["replace_lrn"]["pattern"].startswith("normalise")


@pytest.mark.parametrize("name", [c.name for c in OURS])
def test_explain_tells_everything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", name) == 0
    out = capsys.readouterr().out
    rule = own_rule(name)
    assert out.startswith(f"{rule.card.code} {name}\n{rule.card.summary}")
    headings = ("Fires on:", "Declines:", "Before:", "After:", "Algebra:", "References:", "History:")
    places = [out.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    assert rule.algebra.splitlines()[0] in out
    for item in (*rule.card.fires, *rule.card.declines, *rule.card.references, *rule.card.history):
        assert item in out
    assert rule.card.drawing is not None
    for text in (rule.card.drawing.before, rule.card.drawing.after):
        assert all(line in out for line in text.splitlines())


def test_explain_links_guidelines_and_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "replace_fc_head") == 0
    out = capsys.readouterr().out
    assert "Guideline: 6 (Global Average Pooling instead of fully connected layers)" in out
    assert "Advised by `onnxtune check`: CK401" in out


CARD = 'name = "mine"\ncode = "U1"\nsummary = "s"\nwhy = "w"\n'


def test_a_rule_from_elsewhere_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(CARD)
    (tmp_path / "mine.py").write_text("def propose(facts, settings):\n    return ()\n")
    assert run("list", "--rules", tmp_path, "--no-plugins") == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if " mine " in x)
    assert line.endswith(f"[{tmp_path}]")
    assert run("explain", "mine", "--rules", tmp_path) == 0
    out = capsys.readouterr().out
    assert f"From: {tmp_path}" in out
    assert "Before:" not in out, "a drawing is no must"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[drawing]\nbefore = "x"\n', "key 'drawing.after' is missing"),
        ('[drawing]\nbefore = "x"\nafter = 1\n', "key 'drawing.after' must be a str"),
        ('[drawing]\nbefore = "x"\nafter = "y"\ncolour = "z"\n', "unknown key 'drawing.colour'"),
        ('history = "0.1"\n', "key 'history' must be a list"),
    ],
)
def test_a_wrong_drawing(more: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(CARD + more)
    with pytest.raises(RuleError, match=said):
        read_card(path)
