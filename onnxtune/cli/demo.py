"""`onnxtune demo`: the main job on a small real CNN and real images that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

from onnxtune.cli.options import option, target_options
from onnxtune.cli.reports import Reports, command_line, report_options


@click.command("demo", short_help="Run the main job on a small real CNN.")
@option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the result.")
@target_options
@report_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    output: Path | None,
    providers: str,
    provider_option: tuple[str, ...],
    threads: int,
    input_shapes: tuple[str, ...],
    seed: int,
    json_file: str | None,
    markdown: str | None,
    html: str | None,
) -> None:
    """Optimise a handwritten-digit CNN (trained on scikit-learn's digits) and check it on its test images."""
    from dataclasses import replace

    from onnxtune.api import optimize
    from onnxtune.cli.options import pairs
    from onnxtune.cli.progress import progress
    from onnxtune.demo import accuracy, held_out_images, model_path
    from onnxtune.render.terminal import show
    from onnxtune.sizes import parse_shapes

    reports = Reports(json_file, markdown, html)
    reports.check([] if output is None else [output])
    images, labels = held_out_images()
    with progress(show=True) as notify:
        result = optimize(
            model_path(),
            providers=providers,
            provider_options=pairs(provider_option, "--provider-option"),
            threads=threads,
            input_shapes=parse_shapes(input_shapes),
            inputs=[{"image": images[:64]}],
            seed=seed,
            notify=notify,
        )
    if output is not None:
        result.save(output)
    report = replace(result.report, reproduce=command_line(ctx))
    reports.write(report)
    if reports.on_stdout:
        return
    show(report, output)
    before, after = accuracy(model_path(), images, labels), accuracy(result.model, images, labels)
    click.echo(f"Accuracy on {len(labels)} test images the model was not trained on: {before:.2%} -> {after:.2%}")
    click.echo("Now your own: onnxtune optimize model.onnx")
