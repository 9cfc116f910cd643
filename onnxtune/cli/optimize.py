"""`onnxtune optimize`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onnxtune.report import Report
    from onnxtune.tune import DecideFunction

from onnxtune.cli.options import (
    PREPROCESS,
    calibration_options,
    config_option,
    option,
    pairs,
    rule_options,
    target_options,
    words,
)
from onnxtune.cli.reports import Reports, command_line, report_options


@click.command("optimize", short_help="Rewrite a model so that it runs faster.")
@click.argument("model", type=click.Path(path_type=Path, readable=False))
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the result [default: MODEL.tuned.onnx beside the input].",
)
@target_options
@rule_options
@calibration_options
@option(
    "--input-range",
    multiple=True,
    metavar="NAME:LOW:HIGH",
    help="Lowest and highest value that this input will ever hold (repeatable). Rewrites may rely on it.",
)
@option("--force-rules", multiple=True, metavar="RULE", help="Keep this rule's rewrites even when they are not faster.")
@option(
    "--head",
    default="auto",
    type=click.Choice(["auto", "gap", "pyramid", "maps", "low_rank"]),
    help="Form of fully connected layers to insist on, with calibration data. Over --max-drop nothing is written,"
    " unless --force-rules replace_fc_head is given.",
)
@option(
    "--objective",
    default="latency",
    type=click.Choice(["latency", "size", "throughput"]),
    help="What calibrated rewrites are chosen by: time, bytes of weights, or (all rewrites) time of a batch of 32.",
)
@option("--dynamic-size", is_flag=True, help="Leave height and width of the images open, where the result allows it.")
@option(
    "--pad-channels",
    metavar="POLICY",
    help="Channel counts to pad to: auto, multiple:N or pow2 [default: auto].",
)
@option(
    "--keep-initializers-as-inputs",
    is_flag=True,
    help="Keep weights that are also graph inputs feedable (ONNX Runtime then fuses and folds little).",
)
@option(
    "--min-speedup",
    default=1.02,
    type=click.FloatRange(1.0),
    metavar="RATIO",
    help="Least whole-model speed-up for which the model is changed.",
)
@option("--strict", is_flag=True, help="Exit with 1 when --min-speedup is not reached.")
@option("--rtol", type=click.FloatRange(0), metavar="R", help="Tolerance relative to an output's largest magnitude.")
@option("--atol", type=click.FloatRange(0), metavar="A", help="Absolute tolerance.")
@option(
    "--time-budget",
    default=120.0,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Seconds after which nothing new is measured. The last comparison has as long again.",
)
@option(
    "--measure/--no-measure",
    default=True,
    help="Without: time nothing; keep exact rewrites that do less work as counted. The same bytes on every machine.",
)
@option("--dry-run", is_flag=True, help="Do everything but write the result.")
@option("--cache/--no-cache", default=True, help="Use measurements that were taken before.")
@option("--save-as-external-data", is_flag=True, help="Weights into FILE.data beside the result.")
@report_options
@config_option
@option("-q", "--quiet", is_flag=True, help="Print errors only.")
@option(
    "-v",
    "--verbose",
    count=True,
    show_default=False,
    help="Tell every decision as it falls (on stderr), and list all; -vv shows tracebacks.",
)
@click.pass_context
def command(ctx: click.Context, /, model: Path, output: Path | None, **flags: Any) -> int:
    """Rewrite MODEL so that it runs faster on ONNX Runtime, or say that nothing was to be gained.

    Every rewrite is verified (same outputs) and measured (faster here); the rest is declined with a
    reason. When nothing pays, the result is the original.
    """
    from dataclasses import replace

    from onnxtune.api import optimize
    from onnxtune.cli.logs import logs
    from onnxtune.cli.progress import progress
    from onnxtune.errors import GateError
    from onnxtune.ranges import parse_ranges
    from onnxtune.sizes import parse_shapes

    target = output or model.with_suffix(".tuned.onnx")
    reports = Reports(flags["json_file"], flags["markdown"], flags["html"])
    _check_output(None if flags["dry_run"] else target)
    reports.check([model, *([] if flags["dry_run"] else [target])])
    with logs(flags["verbose"]), progress(show=not flags["quiet"]) as notify:
        result = optimize(
            model,
            providers=flags["providers"],
            provider_options=pairs(flags["provider_option"], "--provider-option"),
            threads=flags["threads"],
            input_shapes=parse_shapes(flags["input_shapes"]),
            input_ranges=parse_ranges(flags["input_range"]),
            only=words(flags["only"]),
            skip=(*words(flags["skip"]), *(["freeze_initializers"] if flags["keep_initializers_as_inputs"] else [])),
            exact_only=flags["exact_only"],
            rules=flags["rules"],
            plugins=flags["plugins"],
            settings=_settings(ctx, flags),
            force_rules=words(flags["force_rules"]),
            head=flags["head"],
            objective=flags["objective"],
            dynamic_size=flags["dynamic_size"],
            calibration_data=flags["calibration_data"],
            labels=flags["labels"],
            preprocess={**ctx.meta.get("onnxtune.preprocess", {}), **_given(flags, PREPROCESS)},
            metric=flags["metric"],
            max_drop=flags["max_drop"],
            confidence=flags["confidence"],
            crop_border=flags["crop_border"],
            resume=flags["resume"],
            pareto=flags["pareto"],
            min_speedup=flags["min_speedup"],
            rtol=flags["rtol"],
            atol=flags["atol"],
            time_budget=flags["time_budget"],
            measure=flags["measure"],
            seed=flags["seed"],
            cache=flags["cache"],
            notify=notify,
            decide=_teller(flags["verbose"]),
        )
    report = replace(result.report, reproduce=command_line(ctx))
    over = report.status == "over budget"
    before = _mark(target)
    try:
        if not (flags["dry_run"] or over):
            result.save(target, external=True if flags["save_as_external_data"] else None)
        reports.write(report)
        if not flags["quiet"] and not reports.on_stdout:
            from onnxtune.render.terminal import show

            show(report, None if flags["dry_run"] or over else target, verbose=flags["verbose"])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{target} is written and whole" if _mark(target) != before else "") from None
    if over:
        raise GateError(_over(model, flags["head"], flags["max_drop"], report))
    if flags["strict"] and not _reached(report, flags["min_speedup"]):
        raise GateError(f"{model}: no speed-up of at least {flags['min_speedup']:g} was found (--strict)")
    return 0


def _mark(path: Path) -> tuple[int, int] | None:
    """Changes when the file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _over(model: Path, head: str, allowed: str, report: Report) -> str:
    """What a form that was insisted on costs, and what to do about it."""
    found = report.calibration or {}
    factor, suffix = found["unit"]["factor"], found["unit"]["suffix"]
    gate = found["gate"]
    loss, bound = (f"{factor * gate[k]:.2f}{suffix}" for k in ("estimate", "bound"))
    return (
        f"{model}: --head {head} costs {loss} of {gate['metric']} (at most {bound} at {100 * gate['confidence']:.4g}%"
        f" confidence, on {gate['samples']} samples), over --max-drop {allowed}: nothing"
        " was written; --force-rules replace_fc_head writes it all the same, --head auto looks for a form that fits"
    )


def _teller(verbose: int) -> DecideFunction | None:
    """With -v every decision goes to stderr when it falls."""
    if not verbose:
        return None
    from onnxtune.render.decision import line

    return lambda decision: click.echo(line(decision), err=True)


def _given(flags: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: flags[name] for name in names if flags[name] is not None}


def _check_output(target: Path | None) -> None:
    """Refuse before any work what could not be written."""
    from onnxtune.errors import ModelError, UsageError
    from onnxtune.model import check_writable

    try:
        if target is not None:
            check_writable(target)
    except ModelError as error:
        raise UsageError(str(error)) from None


def _reached(report: Report, least: float) -> bool:
    """Is the result at least that much faster (or onnxtune's own result, which was)?"""
    return report.status == "already tuned" or (report.speedup or 0.0) >= least


def _settings(ctx: click.Context, flags: dict[str, Any]) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {k: dict(v) for k, v in ctx.meta.get("onnxtune.rules", {}).items()}
    if flags["pad_channels"]:
        settings.setdefault("pad_channels", {})["policy"] = flags["pad_channels"]
    return settings
