"""`onnxtune cache info|clear`: measurements, and the fits of calibrated runs."""

from __future__ import annotations

import click


@click.group("cache", short_help="Show or clear measurements and fits.")
def command() -> None:
    """Measurements are kept, so that the same region is not timed twice on the same machine; weights that were
    fitted to calibration data, so that an interrupted run can go on (--resume)."""


@command.command("info")
def info() -> None:
    """Where the cache is and how much it holds."""
    from onnxtune.cache import Cache, cache_path, fits_path
    from onnxtune.calibrate.store import FitStore

    for what, found in (
        ("measurements", Cache(cache_path()).info()),
        ("fits", FitStore(fits_path(cache_path())).info()),
    ):
        click.echo(f"{found['path']}: {found['entries']} {what}, {found['bytes'] / 1e6:.2f} MB")


@command.command("clear")
def clear() -> None:
    """Forget all measurements and fits (those too that a run under way has made: it then ends with an error)."""
    from onnxtune.cache import Cache, cache_path, fits_path
    from onnxtune.calibrate.store import FitStore
    from onnxtune.errors import UsageError

    store, fits = Cache(cache_path()), FitStore(fits_path(cache_path()))
    freed = (store.info()["bytes"] + fits.info()["bytes"]) / 1e6
    try:
        dropped = store.clear(), fits.clear()
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be removed ({error.strerror})") from None
    click.echo(f"{dropped[0]} measurements and {dropped[1]} fits dropped, {freed:.2f} MB")
