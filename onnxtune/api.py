"""`onnxtune.optimize`: the main job as one Python call. Prints nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxtune import model as models
from onnxtune.cache import Cache, cache_path
from onnxtune.catalog import catalog, choose
from onnxtune.errors import UsageError
from onnxtune.feeds import Case, Feeds
from onnxtune.model import Model
from onnxtune.report import Report
from onnxtune.rule import Rule
from onnxtune.runtime import resolve
from onnxtune.tune import NotifyFunction, Options, tune


@dataclass(frozen=True, eq=False)
class Result:
    """What `optimize` gives back: the model to deploy and the report on how it came about."""

    model: onnx.ModelProto
    report: Report
    _loaded: Model

    def save(self, path: str | os.PathLike[str], *, external: bool | None = None) -> None:
        """Write the model whole or not at all, with its weights in `<path>.data` when `external`.

        None keeps the way the model came (always apart above 2 GiB). Raises ModelError when the
        folder cannot be written.
        """
        models.save(self._loaded, path, external=external)


def optimize(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    providers: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    threads: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: Sequence[Feeds] = (),
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    exact_only: bool = False,
    rules: Sequence[str | os.PathLike[str]] = (),
    plugins: bool = True,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    force_rules: Sequence[str] = (),
    min_speedup: float = 1.02,
    rtol: float | None = None,
    atol: float | None = None,
    time_budget: float = 120.0,
    seed: int = 0,
    cache: bool | Path = True,
    notify: NotifyFunction | None = None,
) -> Result:
    """Rewrite a CNN so that it runs faster on ONNX Runtime, or give it back as it was.

    Args:
        model: path of an ONNX file, or a ModelProto (not changed).
        providers: `auto` (CUDA when it works, else CPU), `cpu`, `cuda`, `cuda:1`, an ONNX Runtime
            name, or a comma-separated list of which the first that works is taken.
        provider_options: ONNX Runtime options of that provider.
        threads: CPU threads of a session; 0 leaves the choice to ONNX Runtime.
        input_shapes: input name -> shape to measure at, for inputs with dynamic dimensions.
        inputs: feeds (input name -> array) that the result is verified on, beside generated ones.
        only, skip: names of rules to use exclusively, or to leave out.
        exact_only: use only rules that keep the function the same in real arithmetic.
        rules: folders with further rules. plugins: use rules that installed packages offer.
        settings: overrides of rules' settings, e.g. {"pad_channels": {"policy": "pow2"}}.
        force_rules: rules whose rewrites are kept although they are not faster.
        min_speedup: least whole-model speed-up (ratio) for which the model is changed.
        rtol, atol: override the derived tolerances (relative to an output's largest magnitude; absolute).
        time_budget: seconds after which nothing new is measured; 0: nothing at all, so that only the
            rewrites of `force_rules` (and measurements in the cache) count.
        seed: of everything random.
        cache: keep measurements in the user's cache folder; or a path of an SQLite file; False: do not.
        notify: called with (stage, done, total) as work proceeds.

    Returns:
        Result with `.model` (ModelProto), `.report`, `.save(path)`.

    Raises:
        ModelError: the file is missing, not ONNX, or ONNX Runtime cannot run it.
        ProviderError: the provider does not work here. UsageError: an argument does not fit.
    """
    _check_numbers(min_speedup=min_speedup, rtol=rtol, atol=atol, time_budget=time_budget, threads=threads, seed=seed)
    loaded = models.load(model)
    available = catalog([Path(r) for r in rules], plugins=plugins)
    choose(available, force_rules, exact_only=exact_only)  # the names must exist, and may be used
    chosen = choose(available, only, skip, exact_only=exact_only)
    _check_settings(available, settings or {})
    target = resolve(providers, provider_options, threads)
    options = Options(
        min_speedup=min_speedup,
        time_budget=time_budget,
        seed=seed,
        rtol=rtol,
        atol=atol,
        sizes=dict(input_shapes or {}),
        settings=dict(settings or {}),
        force=tuple(force_rules),
    )
    store = Cache(None if cache is False else cache_path() if cache is True else cache)
    extra = [Case(f"user input {i + 1}", dict(f)) for i, f in enumerate(inputs)]
    quiet: NotifyFunction = lambda stage, done, total: None  # noqa: E731
    result, report = tune(loaded, chosen, target, options, cache=store, extra_cases=extra, notify=notify or quiet)
    return Result(result.proto, report, result)


def _check_numbers(**numbers: float | None) -> None:
    """Not-a-number compares with nothing: it must not reach a gate."""
    for name, value in numbers.items():
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} must be a number from 0 on, not {value:g}")
    threads, most = numbers["threads"] or 0, 4 * (os.cpu_count() or 1)
    if threads > max(most, 64):
        raise UsageError(f"threads: {threads:g} is more than this machine can use ({os.cpu_count()} logical cores)")


def _check_settings(available: Sequence[Rule], settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Unknown rules and settings are refused before any work is done."""
    choose(available, tuple(settings))
    for rule in available:
        rule.settings(settings.get(rule.name))
