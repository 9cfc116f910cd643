"""`onnxtune cache info|clear`: the measurement cache."""

from __future__ import annotations

import click


@click.group("cache", short_help="Show or clear the measurement cache.")
def command() -> None:
    """Measurements are kept, so that the same region is not timed twice on the same machine."""


@command.command("info")
def info() -> None:
    """Where the cache is and how much it holds."""
    from onnxtune.cache import Cache, cache_path

    found = Cache(cache_path()).info()
    click.echo(f"{found['path']}: {found['entries']} measurements, {found['bytes'] / 1e6:.2f} MB")


@command.command("clear")
def clear() -> None:
    """Forget all measurements."""
    from onnxtune.cache import Cache, cache_path

    click.echo(f"{Cache(cache_path()).clear()} measurements dropped")
