"""`onnxtune check`: the design guidelines as a linter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxtune.cli.options import (
    PREPROCESS,
    complete_checks,
    config_option,
    data_options,
    option,
    pairs,
    target_options,
    words,
)

if TYPE_CHECKING:
    from onnxtune.finding import CheckReport


@click.command("check", short_help="Hold models against the design guidelines; changes nothing.")
@click.argument("models", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="MODEL...")
@option(
    "--select",
    multiple=True,
    metavar="CODE",
    shell_complete=complete_checks,
    help="Only these checks: CK401, CK4, a name (repeatable, or a,b).",
)
@option(
    "--ignore",
    multiple=True,
    metavar="CODE",
    shell_complete=complete_checks,
    help="Leave these checks out (repeatable, or a,b).",
)
@option(
    "--fail-on",
    default="never",
    type=click.Choice(["info", "advice", "warning", "error", "never"]),
    help="Exit with 1 when there is a finding of at least this severity.",
)
@option(
    "--measure", is_flag=True, help="Time what each finding would be worth (unfitted weights where data is needed)."
)
@option(
    "--time-budget",
    default=60.0,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Seconds for each model after which nothing new is measured.",
)
@target_options
@data_options
@option("--cache/--no-cache", default=True, help="Use measurements that were taken before.")
@option("--json", "json_file", metavar="FILE|-", help="Write the reports as JSON; - prints them alone.")
@option("--markdown", "markdown_file", metavar="FILE|-", help="Write a table for each model; - prints them alone.")
@option("--sarif", "sarif_file", metavar="FILE|-", help="Write SARIF 2.1.0, for code hosts.")
@option(
    "--explain", metavar="CODE", shell_complete=complete_checks, help="Say what a check is about, and do nothing else."
)
@option("--list", "list_all", is_flag=True, help="List all checks, and do nothing else.")
@config_option
@option("-q", "--quiet", is_flag=True, help="Print errors only.")
@option("-v", "--verbose", count=True, show_default=False, help="All nodes, all details; -vv shows tracebacks.")
@click.pass_context
def command(ctx: click.Context, /, models: tuple[Path, ...], **flags: Any) -> int:
    """Say what could be better in MODELs, with the numbers behind it, and what to do: run `optimize`, calibrate,
    train or export again."""
    from onnxtune.checks import check_named, chosen

    if flags["explain"]:
        from onnxtune.render.check_text import explain

        click.echo(explain(check_named(flags["explain"])))
        return 0
    if flags["list_all"]:
        from onnxtune.render.check_text import listing

        click.echo(listing(chosen(words(flags["select"]), words(flags["ignore"]))))
        return 0
    if not models:
        raise click.UsageError("Missing argument 'MODEL...'.", ctx)
    files = {name: flags[f"{name}_file"] for name in ("json", "markdown", "sarif")}
    _check_files(files, models)
    reports, worst = _all(ctx, models, flags)
    _write(reports, files)
    if not flags["quiet"] and "-" not in files.values():
        _show(reports, flags["verbose"])
    failed = flags["fail_on"] != "never" and any(r.at_least(flags["fail_on"]) for _, r in reports)
    return worst or int(failed)


def _all(
    ctx: click.Context, models: tuple[Path, ...], flags: dict[str, Any]
) -> tuple[list[tuple[str, CheckReport]], int]:
    """The reports, and the largest exit code: of several models, one that cannot be used does not hide the others."""
    from onnxtune.errors import DataError, ModelError

    reports, worst = [], 0
    for path in models:
        try:
            reports.append((str(path), _checked(ctx, path, flags)))
        except (ModelError, DataError) as error:
            if len(models) == 1:
                raise
            click.echo(f"onnxtune: {error}", err=True)
            worst = max(worst, error.exit_code)
    return reports, worst


def _checked(ctx: click.Context, path: Path, flags: dict[str, Any]) -> CheckReport:
    from onnxtune.checking import check
    from onnxtune.cli.progress import progress
    from onnxtune.sizes import parse_shapes

    preprocess = {k: flags[k] for k in PREPROCESS if flags[k] is not None}
    with progress(show=not flags["quiet"]) as notify:
        return check(
            path,
            select=words(flags["select"]),
            ignore=words(flags["ignore"]),
            measure=flags["measure"],
            providers=flags["providers"],
            provider_options=pairs(flags["provider_option"], "--provider-option"),
            threads=flags["threads"],
            input_shapes=parse_shapes(flags["input_shapes"]),
            calibration_data=flags["calibration_data"],
            preprocess={**ctx.meta.get("onnxtune.preprocess", {}), **preprocess},
            time_budget=flags["time_budget"],
            seed=flags["seed"],
            cache=flags["cache"],
            notify=notify,
        )


def _write(reports: list[tuple[str, CheckReport]], files: dict[str, str | None]) -> None:
    import json

    from onnxtune.model import write_text
    from onnxtune.render.check_markdown import markdown
    from onnxtune.render.sarif import sarif

    texts = {
        "json": lambda: json.dumps({"schema": 1, "reports": [r.to_dict() for _, r in reports]}, indent=1),
        "markdown": lambda: markdown([r for _, r in reports]),
        "sarif": lambda: sarif(reports),
    }
    for name, path in files.items():
        if path == "-":
            click.echo(texts[name]())
        elif path:
            write_text(path, texts[name]())


def _show(reports: list[tuple[str, CheckReport]], verbose: int) -> None:
    from onnxtune.render.check_terminal import show

    for i, (_, report) in enumerate(reports):
        if i:
            click.echo()
        show(report, verbose=verbose)
    first = next((f for _, r in reports for f in r.findings), None)
    if first is not None:
        click.echo(f"\n`onnxtune check --explain {first.code}` says what is behind a finding.")


def _check_files(files: dict[str, str | None], models: tuple[Path, ...]) -> None:
    """Refuse before any work what cannot be written, and a report that would overwrite a model."""
    from onnxtune.errors import ModelError, UsageError
    from onnxtune.model import check_writable

    if list(files.values()).count("-") > 1:
        raise UsageError("only one of --json, --markdown and --sarif can be printed alone (-)")
    paths = [Path(text).resolve() for text in files.values() if text and text != "-"]
    if len(set(paths)) < len(paths):
        raise UsageError("--json, --markdown and --sarif need files of their own")
    for name, text in files.items():
        if not text or text == "-":
            continue
        path = Path(text)
        if path.resolve() in [m.resolve() for m in models]:
            raise UsageError(f"--{name} {path}: that is a model; give the report a file of its own")
        try:
            check_writable(path)
        except ModelError as error:
            raise UsageError(str(error)) from None
