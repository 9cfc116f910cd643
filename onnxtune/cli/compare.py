"""`onnxtune compare`: numerics and accuracy of a second model against a first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxtune.cli.options import (
    PREPROCESS,
    config_option,
    option,
    pairs,
    preprocess_options,
    report_path,
    target_options,
)


@click.command("compare", short_help="Say whether a second model computes what a first computes.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@option(
    "--data",
    metavar="PATH",
    help="Samples to feed: NPZ or NPY (arrays named like the inputs), a folder of these, an image folder, or"
    " module:function yielding feeds. Without it: random and extreme inputs.",
)
@option("--labels", metavar="PATH", help="Class numbers of the samples (NPY, NPZ, CSV): shows both models' accuracy.")
@option("--samples", type=click.IntRange(1), metavar="N", help="Samples of --data at most [default: all].")
@preprocess_options
@target_options
@option(
    "--input-range",
    multiple=True,
    metavar="NAME:LOW:HIGH",
    help="Lowest and highest value to feed this input (repeatable) [default: what B was made for].",
)
@option(
    "--rtol",
    type=click.FloatRange(0),
    metavar="R",
    help="Tolerance relative to an output's largest magnitude [default: by type and lengths of the sums].",
)
@option(
    "--atol",
    type=click.FloatRange(0),
    metavar="A",
    help="Absolute tolerance [default: by how far A's outputs move with the last bit of its inputs].",
)
@option(
    "--min-agreement",
    metavar="SHARE",
    help="Of outputs that rank classes, in the tolerance's place: least share of samples with the same first class,"
    " such as 99%. Needs --data.",
)
@option("--json", "json_file", metavar="FILE|-", help="Write the result as JSON; - prints it alone.")
@config_option
@option("-q", "--quiet", is_flag=True, help="Print errors only.")
@option("-v", "--verbose", count=True, show_default=False, help="Show every case; -vv shows tracebacks.")
@click.pass_context
def command(ctx: click.Context, /, a: Path, b: Path, json_file: str | None, **flags: Any) -> int:
    """Compare model B with model A: errors of every output, agreement of classes, where a difference begins.

    Both run in ONNX Runtime, unoptimised on the CPU and as deployed on the provider. Exit code 0: every output lies
    within the tolerance; 1: some do not.
    """
    from onnxtune.bench.request import share
    from onnxtune.model import write_text
    from onnxtune.numerics.api import compare
    from onnxtune.ranges import parse_ranges
    from onnxtune.sizes import parse_shapes

    report = report_path(json_file, (a, b))
    given = {name: flags[name] for name in PREPROCESS if flags[name] is not None}
    result = compare(
        a,
        b,
        data=flags["data"],
        labels=flags["labels"],
        samples=flags["samples"],
        preprocess={**ctx.meta.get("onnxtune.preprocess", {}), **given},
        providers=flags["providers"],
        provider_options=pairs(flags["provider_option"], "--provider-option"),
        threads=flags["threads"],
        input_shapes=parse_shapes(flags["input_shapes"]),
        input_ranges=parse_ranges(flags["input_range"]) or None,
        rtol=flags["rtol"],
        atol=flags["atol"],
        min_agreement=None if flags["min_agreement"] is None else share(flags["min_agreement"], "--min-agreement"),
        seed=flags["seed"],
    )
    if json_file == "-":
        click.echo(result.to_json())
    elif report is not None:
        write_text(report, result.to_json())
    if not flags["quiet"] and json_file != "-":
        from onnxtune.render.numerics import show

        show(result, verbose=flags["verbose"])
    return 0 if result.within else 1
