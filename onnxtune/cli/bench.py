"""`onnxtune bench`: latency of a model, or of two in interleaved rounds."""

from __future__ import annotations

from pathlib import Path

import click

from onnxtune.cli.options import config_option, option, pairs


@click.command("bench", short_help="Measure latency, of two models in interleaved rounds.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@option("--providers", default="auto", metavar="NAMES", help="Execution provider, as for `optimize`.")
@option("--provider-option", multiple=True, metavar="K=V", help="ONNX Runtime option of the provider.")
@option("--threads", default=0, type=click.IntRange(0), metavar="N", help="CPU threads; 0: ONNX Runtime's choice.")
@option("--input-shapes", multiple=True, metavar="NAME:1x3x224x224", help="Shape of a dynamic input.")
@config_option
def command(
    model: Path,
    other: Path | None,
    providers: str,
    provider_option: tuple[str, ...],
    threads: int,
    input_shapes: tuple[str, ...],
) -> int:
    """Measure MODEL on random inputs; with OTHER, say whether OTHER is faster."""
    from onnxtune.bench.run import measure_models
    from onnxtune.model import load
    from onnxtune.render.bench import table
    from onnxtune.runtime import resolve
    from onnxtune.sizes import parse_shapes

    target = resolve(providers, pairs(provider_option, "--provider-option"), threads)
    first = load(model)
    second = first if other is None else load(other)
    result = measure_models(first, second, parse_shapes(input_shapes), target)
    click.echo(f"{target.label}, {target.device}")
    click.echo(table([str(model)] if other is None else [str(model), str(other)], result))
    return 0
