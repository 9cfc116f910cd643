"""Pages that are made from the package itself: a page per rule, the guideline table, the command line's help."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from onnxtune.catalog import catalog
from onnxtune.cli import cli
from onnxtune.rule import Rule

ROOT = Path(__file__).parents[1]
RELIABILITY = "reliability.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A page on reliability is part of the navigation where it has been written."""
    if (Path(config.docs_dir) / RELIABILITY).exists():
        config.nav.append({"Reliability": RELIABILITY})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    rules = catalog(plugins=False)
    made = {f"rules/{rule.name}.md": rule_page(rule) for rule in rules}
    made["rules/index.md"] = rules_index(rules)
    made["cli.md"] = "\n".join(command_pages())
    made["guidelines.md"] = guidelines()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Comments that name a part of the repository give way to it."""
    del config, files
    return with_parts(markdown) if page.file.src_uri == "ci.md" else markdown


def with_parts(markdown: str) -> str:
    """The guide for CI with the example workflow and the action's inputs and outputs."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    workflow = (ROOT / "examples" / "workflow.yml").read_text(encoding="utf-8").rstrip()
    inputs = ["| input | default | |", "|---|---|---|"]
    for name, told in action["inputs"].items():
        default = "required" if told.get("required") else f"`{told['default']}`" if told["default"] else "empty"
        inputs.append(f"| `{name}` | {default} | {told['description']} |")
    outputs = ["| output | |", "|---|---|"]
    outputs += [f"| `{name}` | {told['description']} |" for name, told in action["outputs"].items()]
    parts = {
        "examples/workflow.yml": f'```yaml title=".github/workflows/onnxtune.yml"\n{workflow}\n```',
        "action.yml inputs": "\n".join(inputs),
        "action.yml outputs": "\n".join(outputs),
    }
    for name, text in parts.items():
        assert f"<!-- {name} -->" in markdown, name
        markdown = markdown.replace(f"<!-- {name} -->", text)
    return markdown


def rules_index(rules: list[Rule]) -> str:
    lines = [
        "# Rules",
        "",
        "In the order in which they are tried. `onnxtune rules explain NAME` prints these pages.",
        "",
    ]
    lines += ["| code | rule | safety | what it does |", "|---|---|---|---|"]
    lines += [f"| {r.card.code} | [`{r.name}`]({r.name}.md) | {r.card.safety} | {r.card.summary} |" for r in rules]
    return "\n".join(lines)


def rule_page(rule: Rule) -> str:
    """All that the rule's TOML and docstring say."""
    card = rule.card
    kept = "kept where it saves time or lets another rule fire" if card.enabling else "kept where it is faster"
    parts = [f"# {card.name}", "", f"**{card.code}** · {card.safety} · {kept}", "", f"**{card.summary}.**", ""]
    parts += [" ".join(card.why.split()), ""]
    for heading, items in (("Fires on", card.fires), ("Declines", card.declines)):
        if items:
            parts += [f"## {heading}", "", *(f"- {item}" for item in items), ""]
    if card.drawing is not None:
        parts += ["## Before and after", "", *_fenced(card.drawing.before), "", *_fenced(card.drawing.after), ""]
    if card.pattern is not None:
        parts += ["## Pattern", "", "In ONNX's own text syntax:", "", *_fenced(card.pattern.text), ""]
    if card.settings:
        parts += ["## Settings", "", f"In `onnxtune.toml`, table `[rules.{card.name}]`:", ""]
        parts += ["| key | default | |", "|---|---|---|"]
        parts += [f"| `{k}` | `{v!r}` | {card.help.get(k, '').replace('|', '/')} |" for k, v in card.settings.items()]
        parts += [""]
    if rule.algebra:
        parts += ["## Algebra", "", *_fenced(rule.algebra), ""]
    for heading, items in (("References", card.references), ("History", card.history)):
        if items:
            parts += [f"## {heading}", "", *(f"- {item}" for item in items), ""]
    return "\n".join(parts)


def guidelines() -> str:
    from onnxtune.checks import checkers
    from onnxtune.guidelines import guideline_table
    from onnxtune.render.check_table import check_table
    from onnxtune.render.guidelines import guideline_markdown

    said = (
        "What is known about choosing the shapes of convolutional networks, and what onnxtune does about each after"
        " training: rewrites that keep the function, rewrites that are refitted to data, and findings of"
        " `onnxtune check`."
    )
    finds = "What `onnxtune check` finds; `onnxtune check --explain CODE` says when a check fires, when not, and why."
    tables = [guideline_markdown(guideline_table()), "", "## Checks", "", finds, "", check_table(checkers())]
    return "\n".join(["# Guidelines", "", said, "", *tables])


def command_pages() -> Iterator[str]:
    """The help of every command, as the command line prints it."""
    yield "# Command line\n"
    yield (
        "Every option is also an environment variable (`ONNXTUNE_THREADS=1`) and a key of `onnxtune.toml` or of"
        " `[tool.onnxtune]` in pyproject.toml. Flags win over the environment, which wins over the file.\n"
    )
    context = click.Context(cli, info_name="onnxtune")
    for path, command in _commands(cli, context):
        yield f"## {path}\n"
        inner = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
        yield "\n".join(_fenced(command.get_help(inner)))
        yield ""


def _commands(
    group: click.Group, context: click.Context, path: str = "onnxtune"
) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from _commands(command, context, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _fenced(text: str) -> list[str]:
    return ["```text", *textwrap.dedent(text).strip("\n").splitlines(), "```"]
