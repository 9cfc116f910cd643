"""The documentation: it builds without a warning, its generated pages say what the package says, its commands exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from onnxtune.catalog import catalog
from onnxtune.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
HAVE = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))
needs_mkdocs = pytest.mark.skipif(not HAVE, reason="mkdocs is not installed (extra [docs]): not built")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra [docs]): no generated pages")
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_mkdocs
@pytest.mark.slow
def test_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for rule in catalog(plugins=False):
        assert (tmp_path / "rules" / rule.name / "index.html").exists()
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert "onnxtune.optimize" in api
    assert "min_speedup" in api
    assert "fonts.googleapis" not in api
    command_line = (tmp_path / "cli" / "index.html").read_text(encoding="utf-8")
    assert "--calibration-data" in command_line


def test_a_page_for_every_rule_with_all_that_its_card_says(hooks: ModuleType) -> None:
    for rule in catalog(plugins=False):
        page = hooks.rule_page(rule)
        for text in (rule.card.code, rule.card.summary, *rule.card.fires, *rule.card.declines, *rule.card.references):
            assert text in page, (rule.name, text)
        for key in rule.card.settings:
            assert f"`{key}`" in page, (rule.name, key)
        assert page.count("```") % 2 == 0


def test_the_guide_for_ci_holds_the_workflow_and_the_inputs(hooks: ModuleType) -> None:
    page = hooks.with_parts((ROOT / "docs" / "ci.md").read_text(encoding="utf-8"))
    assert "uses: onnxtune/onnxtune@" in page
    assert "| `fail-slower` | `5%` |" in page
    assert "<!--" not in page


def commands(text: str) -> list[list[str]]:
    """Words of every `onnxtune ...` command in the shell blocks of a page."""
    found = []
    for language, block in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language.split(" ")[0] not in ("", "sh", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ").partition(" | ")[0]
            if line.startswith("onnxtune "):
                found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    """Every command is parsed as the command line would parse it, and not run."""
    for words in commands(page.read_text(encoding="utf-8")):
        command: click.Command = cli
        context = click.Context(cli, info_name="onnxtune")
        rest = words
        while isinstance(command, click.Group):
            inner = command.get_command(context, rest[0])
            assert inner is not None, words
            command, rest = inner, rest[1:]
        try:
            command.make_context("onnxtune", list(rest), resilient_parsing=False)
        except click.exceptions.Exit:
            pass
        except click.UsageError as error:
            pytest.fail(f"{page.name}: onnxtune {' '.join(words)}: {error.format_message()}")


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_in_the_pages_compiles(page: Path) -> None:
    for block in re.findall(r"```python[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(block, page.name, "exec")


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Its files and its commands in order, with small budgets (so that the calibrated step finds little)."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for title, block in re.findall(r'```python title="([\w.]+)"\n(.*?)```', text, re.DOTALL):
        (tmp_path / title).write_text(block, encoding="utf-8")
    small = {"ONNXTUNE_TIME_BUDGET": "0.5", "ONNXTUNE_ITERATIONS": "4", "ONNXTUNE_MEMORY": "false"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **small, "PYTHONPATH": path}
    said = {}
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        words = shlex.split(block.replace("\\\n", " "))
        if words[0] == "pip":
            continue
        module = ["-m", "onnxtune"] if words[0] == "onnxtune" else []
        command = [sys.executable, *module, *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        said[" ".join(words[:2])] = done.stdout
    assert list(said) == [
        "python prepare.py",
        "onnxtune check",
        "onnxtune optimize",
        "onnxtune compare",
        "onnxtune bench",
        "python deploy.py",
    ]
    assert "CK301" in said["onnxtune check"]
    assert said["python deploy.py"].startswith("digits.onnx 100.00%")
    assert "calibration.npz" in said["onnxtune optimize"]
    assert (tmp_path / "calibrated.html").exists()
