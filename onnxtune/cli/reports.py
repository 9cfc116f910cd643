"""--json, --markdown and --html: checked before any work is done, written whole or not at all, `-` alone on stdout."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from onnxtune.cli.options import option

if TYPE_CHECKING:
    from onnxtune.report import Report

F = TypeVar("F", bound=Callable[..., Any])
OUTPUTS = ("json_file", "markdown", "html", "quiet", "verbose", "resume")
"""Parameters that do not change the result."""


def report_options(command: F) -> F:
    """--json, --markdown, --html."""
    for decorate in reversed(
        [
            option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON; - prints it alone."),
            option(
                "--markdown",
                metavar="FILE|-",
                help="Write the report as Markdown for a pull request or $GITHUB_STEP_SUMMARY; - prints it alone.",
            ),
            option("--html", metavar="FILE", help="Write the report with pictures, as one HTML file of its own."),
        ]
    ):
        command = decorate(command)
    return command


@dataclass(frozen=True)
class Reports:
    """Where the report goes: file names as given; None: nowhere."""

    json: str | None
    markdown: str | None
    html: str | None

    @property
    def on_stdout(self) -> bool:
        """Does a report take stdout for itself?"""
        return "-" in (self.json, self.markdown)

    def check(self, models: Iterable[Path]) -> None:
        """Refuse before any work what could not be written, would overwrite a model, or another report.

        Raises UsageError.
        """
        from onnxtune.errors import ModelError, UsageError
        from onnxtune.model import check_writable

        if self.json == self.markdown == "-":
            raise UsageError("--json - and --markdown -: only one of them can have stdout")
        if self.html == "-":
            raise UsageError("--html -: give the page a file; --json and --markdown can be printed")
        files = [file for path in models for file in (path, path.with_name(path.name + ".data"))]
        taken = {file.resolve(): "the model" for file in files}
        for flag, name in (("--json", self.json), ("--markdown", self.markdown), ("--html", self.html)):
            if name is None or name == "-":
                continue
            path = Path(name)
            if path.resolve() in taken:
                raise UsageError(f"{flag} {name}: that is {taken[path.resolve()]}; give the report a file of its own")
            taken[path.resolve()] = f"the file of {flag}"
            try:
                check_writable(path)
            except ModelError as error:
                raise UsageError(str(error)) from None

    def write(self, report: Report) -> None:
        from onnxtune.model import write_text

        for name, render in (
            (self.json, report.to_json),
            (self.markdown, _markdown(report)),
            (self.html, _html(report)),
        ):
            if name == "-":
                click.echo(render())
            elif name is not None:
                write_text(name, render())


def _markdown(report: Report) -> Callable[[], str]:
    def render() -> str:
        from onnxtune.render.markdown import to_markdown

        return to_markdown(report)

    return render


def _html(report: Report) -> Callable[[], str]:
    def render() -> str:
        from onnxtune.render.html import to_html

        return to_html(report)

    return render


def command_line(ctx: click.Context) -> str:
    """The command that gives the same result: every parameter that was given, by flag, environment or file.

    Tables of a configuration file ([rules.NAME], [preprocess]) have no flags: the file is named instead.
    """
    words = ["onnxtune", *(ctx.info_name or "").split()]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        value = ctx.params.get(name)
        if name in OUTPUTS or source in (None, ParameterSource.DEFAULT) or value is None:
            continue
        words += _words(parameter, value)
    config = ctx.meta.get("onnxtune.config")
    if config and (ctx.meta.get("onnxtune.rules") or ctx.meta.get("onnxtune.preprocess")):
        words += ["--config", config]
    return shlex.join(words)


def _words(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(parameter, click.Argument):
        return [str(value)]
    assert isinstance(parameter, click.Option), "commands take arguments and options"
    flag = next(o for o in parameter.opts if o.startswith("--"))
    if parameter.is_flag:
        return [flag] if value else list(parameter.secondary_opts)[:1]
    values = value if parameter.multiple else [value]
    return [word for v in values for word in (flag, str(v))]
