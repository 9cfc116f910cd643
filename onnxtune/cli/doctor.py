"""`onnxtune doctor`: what works here, what does not, and how to get it."""

from __future__ import annotations

import os

import click


@click.command("doctor", short_help="Say which providers really work here.")
def command() -> None:
    """Run a small convolution on every provider of this ONNX Runtime and say what works."""
    from onnxtune.cache import Cache, cache_path
    from onnxtune.runtime import REMEDIES, Target, cpu_features, cpu_name, ort, resolve, trouble, versions

    for name, version in versions().items():
        click.echo(f"{name:12} {version}")
    simd = next((f for f in ("avx512f", "avx2", "avx", "asimd") if f in cpu_features()), "unknown")
    click.echo(f"{'cpu':12} {cpu_name()}, {os.cpu_count()} logical cores, widest vectors: {simd}")
    for provider in ort().get_available_providers():
        target = Target(provider)
        problem = trouble(target)
        if problem is None:
            click.echo(f"works        {provider} ({target.device})")
        else:
            remedy = f"; {REMEDIES[provider]}" if provider in REMEDIES else ""
            click.echo(f"not usable   {provider}: {problem}{remedy}")
    click.echo(f"{'auto':12} {resolve('auto').provider}")
    found = Cache(cache_path()).info()
    click.echo(f"{'cache':12} {found['path']} ({found['entries']} measurements)")
