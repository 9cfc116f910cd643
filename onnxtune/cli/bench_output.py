"""Where the results of `bench` go, checked before anything is measured; and the gate of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxtune.errors import GateError, ModelError, UsageError

if TYPE_CHECKING:
    from onnxtune.bench.baseline import Change
    from onnxtune.bench.report import BenchmarkReport

FILES = {
    "json_file": "--json",
    "csv_file": "--csv",
    "markdown_file": "--markdown",
    "export_benchmark": "--export-benchmark",
}


@dataclass(frozen=True)
class Outputs:
    """`files`: by name of the flag's value, "-" for stdout. `baseline`: an earlier report, as JSON."""

    files: Mapping[str, str]
    baseline: Mapping[str, Any] | None
    named: str
    allowed: float
    quiet: bool


def checked(models: tuple[Path, ...], flags: Mapping[str, Any], *, quiet: bool) -> Outputs:
    """Refuse before any work what could not be written, and what would overwrite a model or the baseline."""
    from onnxtune.bench.baseline import read_baseline
    from onnxtune.bench.request import share
    from onnxtune.model import check_writable

    files = {key: flags[key] for key in FILES if flags[key]}
    if sum(f == "-" for f in files.values()) > 1:
        raise UsageError("only one of --json, --csv and --markdown can go to - (stdout)")
    taken = {p.resolve(): str(p) for p in [*models, *filter(None, [_path(flags["data"])])]}
    for key, file in files.items():
        if file == "-" and key != "export_benchmark":
            continue
        path = Path(file)
        try:
            check_writable(path)
        except ModelError as error:
            raise UsageError(str(error)) from None
        if path.resolve() in taken:
            raise UsageError(f"{FILES[key]} {file}: that is {taken[path.resolve()]}; give it a file of its own")
        taken[path.resolve()] = f"what {FILES[key]} writes"
    baseline = None if flags["baseline"] is None else read_baseline(Path(flags["baseline"]))
    allowed = share(flags["fail_slower"], "--fail-slower")
    return Outputs(files, baseline, str(flags["baseline"]), allowed, quiet)


def give(report: BenchmarkReport, outputs: Outputs, sections: Sequence[Callable[[], None]] = ()) -> int:
    """Write and print everything, `sections` last; then the gate.

    Raises GateError when a model is slower than the baseline allows.
    """
    from onnxtune.bench.baseline import changes
    from onnxtune.bench.report import BenchmarkReport
    from onnxtune.model import write_text
    from onnxtune.render.bench import text
    from onnxtune.render.bench_files import as_benchmark_action, as_csv, as_markdown

    found = () if outputs.baseline is None else changes(outputs.baseline, report, outputs.named)
    makers: dict[str, Callable[[BenchmarkReport], str]] = {
        "json_file": BenchmarkReport.to_json,
        "csv_file": as_csv,
        "markdown_file": as_markdown,
        "export_benchmark": as_benchmark_action,
    }
    for key, file in outputs.files.items():
        made = makers[key](report).rstrip("\n")
        if file == "-":
            click.echo(made)
        else:
            write_text(file, made + "\n")
    if not outputs.quiet and "-" not in outputs.files.values():
        click.echo(f"{report.settings['provider'].removesuffix('ExecutionProvider')}, {report.machine['device']}")
        click.echo(text(report))
        for change in found:
            click.echo(change.text)
        for section in sections:
            click.echo()
            section()
    _gate(found, outputs)
    return 0


def _gate(found: tuple[Change, ...], outputs: Outputs) -> None:
    slower = [c for c in found if c.slower(outputs.allowed)]
    if slower:
        worst = max(slower, key=lambda c: c.ratio)
        more = f" and {len(slower) - 1} more" if len(slower) > 1 else ""
        raise GateError(f"{worst.text}{more}: slower than --fail-slower {outputs.allowed:.3g} allows")


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)
