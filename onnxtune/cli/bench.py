"""`onnxtune bench`: latency of a model, or of several in interleaved rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from onnxtune.cli.options import config_option, gpu_options, option, pairs, wishes


@click.command("bench", short_help="Measure latency, of several models in interleaved rounds.")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@option("--providers", default="auto", metavar="NAMES", help="Execution provider, as for `optimize`.")
@option("--provider-option", multiple=True, metavar="K=V", help="ONNX Runtime option of the provider.")
@option("--threads", default=0, type=click.IntRange(0), metavar="N", help="CPU threads; 0: ONNX Runtime's choice.")
@gpu_options
@option("--batch", metavar="N,N,...", help="Batch sizes to measure at, each as a case of its own.")
@option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Shape of an input. Given several times for one input: a case each.",
)
@option("--data", metavar="FILE", help="Inputs to measure on: NPZ with arrays named like the inputs [default: random].")
@option("--warmup", default=200.0, type=click.FloatRange(0), metavar="MS", help="Milliseconds of warming up, at least.")
@option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Seconds to measure each case for [default: until the answer is clear or precise].",
)
@option("--iterations", type=click.IntRange(1), metavar="N", help="Samples of each model, in place of a duration.")
@option("--percentile", default="50,90,95,99", metavar="P,P,...", help="Percentiles of the latency.")
@option("--memory/--no-memory", default=True, help="Load each model in a fresh process to see what memory it takes.")
@option("--profile", is_flag=True, help="Show where the time goes, node by node, against the device's measured limits.")
@option(
    "--tune-runtime",
    is_flag=True,
    help="Try settings of ONNX Runtime (threads, optimisation level, arena, ...) on the one MODEL; the best as code.",
)
@option("--seed", default=0, type=click.IntRange(0), metavar="N", help="Seed of inputs and order.")
@option("--json", "json_file", metavar="FILE|-", help="Write all samples and figures as JSON; - prints it alone.")
@option("--csv", "csv_file", metavar="FILE|-", help="Write a row per case and model; - prints it alone.")
@option("--markdown", "markdown_file", metavar="FILE|-", help="Write tables as Markdown; - prints it alone.")
@option("--export-benchmark", metavar="FILE", help="Write medians for github-action-benchmark (customSmallerIsBetter).")
@option("--baseline", metavar="FILE", help="JSON of an earlier run to compare with; see --fail-slower.")
@option(
    "--fail-slower",
    default="5%",
    metavar="SHARE",
    help="Exit with 1 when a model is slower than in --baseline by more than this, beyond all noise.",
)
@option("--force", is_flag=True, help="Compare with a baseline of another machine all the same.")
@config_option
@option("-q", "--quiet", is_flag=True, help="Print errors only.")
@option("-v", "--verbose", count=True, show_default=False, help="Show all nodes of --profile; -vv shows tracebacks.")
def command(models: tuple[Path, ...], quiet: bool, verbose: int, **flags: Any) -> int:
    """Measure each MODEL on the same inputs, in the same rounds; say which are faster or slower than the first.

    Models run in random order in blocks of fresh sessions, two of each, so that luck, drift and other work on the
    machine are told apart from a difference between the models. "no measurable change" is an answer.
    """
    from onnxtune.bench.api import benchmark
    from onnxtune.bench.baseline import check_machine
    from onnxtune.bench.inputs import read_inputs
    from onnxtune.bench.insight import check_single, extras, insights
    from onnxtune.bench.machine import machine
    from onnxtune.bench.request import numbers, shape_cases
    from onnxtune.cli.bench_output import checked, give
    from onnxtune.cli.bench_sections import sections
    from onnxtune.cli.progress import progress
    from onnxtune.runtime import resolve

    outputs = checked(models, flags, quiet=quiet)
    shapes, batch = shape_cases(flags["input_shapes"]), numbers(flags["batch"], "--batch", int)
    if flags["tune_runtime"]:
        check_single(len(models), max(len(batch), 1) * max(len(shapes), 1))
    inputs = None if flags["data"] is None else read_inputs(Path(flags["data"]))
    gpu = wishes(flags)
    given = pairs(flags["provider_option"], "--provider-option")
    if outputs.baseline is not None and not flags["force"]:  # before a long measurement, not after it
        here = machine(resolve(flags["providers"], given, flags["threads"]))
        check_machine(outputs.baseline.get("machine", {}), here, outputs.named)
    with progress(show=not quiet) as notify:
        report = benchmark(
            models,
            providers=flags["providers"],
            provider_options=given,
            threads=flags["threads"],
            wishes=gpu,
            include_copies=flags["include_copies"],
            batch=batch,
            input_shapes=shapes,
            inputs=inputs,
            warmup=flags["warmup"] / 1e3,
            duration=flags["duration"],
            iterations=flags["iterations"],
            percentiles=numbers(flags["percentile"], "--percentile", float),
            memory=flags["memory"],
            seed=flags["seed"],
            notify=notify,
        )
        profiles, tuning = insights(
            models,
            profiled=flags["profile"],
            tuned=flags["tune_runtime"],
            providers=flags["providers"],
            provider_options=given,
            threads=flags["threads"],
            wishes=gpu,
            batch=batch,
            input_shapes=shapes,
            inputs=inputs,
            seed=flags["seed"],
            notify=notify,
        )
    report = replace(report, extras={**report.extras, **extras(profiles, tuning)})
    return give(report, outputs, sections(profiles, tuning, verbose))
