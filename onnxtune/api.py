"""`onnxtune.optimize`: the main job as one Python call. Prints nothing."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import onnx

from onnxtune import isolated, provenance
from onnxtune import model as models
from onnxtune.cache import Cache, cache_path, fits_path
from onnxtune.calibrate.dataset import open_dataset
from onnxtune.calibrate.points import Calibration, Point, described
from onnxtune.calibrate.points import pareto as front
from onnxtune.calibrate.preprocess import parse as parse_preprocess
from onnxtune.calibrate.store import FitStore
from onnxtune.catalog import catalog, choose
from onnxtune.errors import ModelError, UsageError
from onnxtune.feeds import Case, Feeds
from onnxtune.free_size import with_free_size
from onnxtune.mapped import embedded
from onnxtune.model import Model
from onnxtune.profile import profile
from onnxtune.ranges import check_inside, checked_ranges
from onnxtune.report import Report
from onnxtune.rule import Rule
from onnxtune.runtime import Target, resolve
from onnxtune.sizes import unfed
from onnxtune.tune import DecideFunction, NotifyFunction, Objective, Options, tune

HEAD_RULE = "replace_fc_head"
HEADS = ("auto", "gap", "pyramid", "maps", "low_rank")


@dataclass(frozen=True, eq=False)
class Result:
    """What `optimize` gives back: the model to deploy and the report on how it came about."""

    report: Report
    _loaded: Model

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model with all its weights in memory. (Those of a large model come there when this is asked for.)"""
        return embedded(self._loaded.proto)

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
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    inputs: Sequence[Feeds] = (),
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    exact_only: bool = False,
    rules: Sequence[str | os.PathLike[str]] = (),
    plugins: bool = True,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    force_rules: Sequence[str] = (),
    head: str = "auto",
    objective: Objective = "latency",
    dynamic_size: bool = False,
    calibration_data: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    metric: str | None = None,
    max_drop: str | float = "0.5%",
    confidence: float = 0.9,
    crop_border: int = 0,
    resume: bool = False,
    pareto: str | os.PathLike[str] | None = None,
    min_speedup: float = 1.02,
    rtol: float | None = None,
    atol: float | None = None,
    time_budget: float = 120.0,
    measure: bool = True,
    seed: int = 0,
    cache: bool | Path = True,
    notify: NotifyFunction | None = None,
    decide: DecideFunction | None = None,
    isolate: bool = False,
) -> Result:
    """Rewrite a CNN so that it runs faster on ONNX Runtime, or give it back as it was.

    Args:
        model: path of an ONNX file, or a ModelProto (not changed).
        providers: `auto` (CUDA when it works, else CPU), `cpu`, `cuda`, `cuda:1`, an ONNX Runtime
            name, or a comma-separated list of which the first that works is taken.
        provider_options: ONNX Runtime options of that provider.
        threads: CPU threads of a session; 0 leaves the choice to ONNX Runtime.
        input_shapes: input name -> shape to measure at, for inputs with dynamic dimensions.
        input_ranges: input name -> lowest and highest value that a caller will ever feed. Rewrites may rely on
            it (a channel that can never be above 0 before Relu is left out); it stands in report and result.
        inputs: feeds (input name -> array) that the result is verified on, beside generated ones.
        only, skip: names of rules to use exclusively, or to leave out.
        exact_only: use only rules that keep the function the same in real arithmetic.
        rules: folders with further rules. plugins: use rules that installed packages offer.
        settings: overrides of rules' settings, e.g. {"pad_channels": {"policy": "pow2"}}.
        force_rules: rules whose rewrites are kept although they are not faster.
        head: form of fully connected layers to insist on: gap, pyramid, maps or low_rank. Where it costs more than
            `max_drop` allows, the report's status is "over budget" and the original comes back, unless
            `force_rules` names replace_fc_head. auto: whichever form saves most within the budget; if none keeps it
            and `force_rules` names the rule, the one that costs least.
        objective: latency: time of one inference; size: bytes of weights, as far as nothing gets slower (calibrated
            rewrites only); throughput: time of a batch of 32, where the model leaves the batch open.
        dynamic_size: leave height and width of the result's images open, where it is fit for any size (a note says
            so, or why not).
        calibration_data: samples that calibrated rules may refit weights to: NPZ, NPY, a folder of these, an image
            folder, or `module:function` yielding feeds. Without it only exact rules run.
        labels: class numbers (NPY, NPZ, CSV) or target arrays for these samples.
        preprocess: how 8-bit images become inputs: resize, crop, scale, mean, std, channel_order, layout.
        metric: top1, top5, agreement, psnr, relative_error or `module:function`; None: by the outputs.
        max_drop: most of the metric that may be lost: a share ("0.5%", 0.005), dB for psnr.
        confidence: one-sided, with which the loss must lie within `max_drop`.
        crop_border: pixels at the border of dense outputs that psnr and relative_error leave out.
        resume: use the fits that an interrupted run on the same model and data has left in the cache folder.
        pareto: folder for the models of the front: the calibrated sets that were tried and that no other beats in
            both latency and loss, whether or not they passed the gate.
        min_speedup: least whole-model speed-up (ratio) for which the model is changed.
        rtol, atol: override the derived tolerances (relative to an output's largest magnitude; absolute).
        time_budget: seconds after which nothing new is measured; the last comparison, of the whole model, has as long
            again. 0: nothing at all is measured, so that only the rewrites of `force_rules` (and measurements in the
            cache) count.
        measure: False: nothing is timed, and no measurement of the cache is used. Exact rewrites are kept that do less
            work as counted (multiply-accumulates, values written, nodes) and verify; the result is the same bytes on
            every machine and with any number of threads. Excludes calibration data.
        seed: of everything random.
        cache: keep measurements in the user's cache folder; or a path of an SQLite file; False: do not.
        notify: called with (stage, done, total) as work proceeds.
        decide: called with every decision when it falls: a Kept, Rejected or Decline of `onnxtune.report`, or a remark
            in words. What is kept may be dropped later; the report has the last word.
        isolate: do the work in a child process, as the command line does: when ONNX Runtime, a provider's compiler
            or a rule's library aborts, the candidate or rule is left out and the work starts again; `decide` hears
            of it. Arguments must be plain data (functions are named as `module:function`). By default the work is
            done in this process, and a crash ends it.

    Returns:
        Result with `.model` (ModelProto), `.report`, `.save(path)`.

    Raises:
        ModelError: the file is missing, not ONNX, or ONNX Runtime cannot run it.
        DataError: calibration data or labels cannot be used.
        ProviderError: the provider does not work here. UsageError: an argument does not fit.
        OnnxtuneError: with `isolate`, the child died of what could not be left out.
    """
    given = dict(locals())
    call = _call(given)
    if isolate:
        arguments = {k: v for k, v in given.items() if k not in ("notify", "decide", "isolate")}
        done, report = isolated.optimize(arguments, {"notify": notify, "decide": decide})
        return Result(replace(report, reproduce=call), done)
    _check_numbers(min_speedup=min_speedup, rtol=rtol, atol=atol, time_budget=time_budget, threads=threads, seed=seed)
    loaded = models.load(model)
    available = catalog([Path(r) for r in rules], plugins=plugins)
    choose(available, force_rules, exact_only=exact_only)  # the names must exist, and may be used
    chosen = choose(available, only, skip, exact_only=exact_only)
    if objective not in get_args(Objective):
        raise UsageError(f"--objective {objective}: must be one of {', '.join(get_args(Objective))}")
    if head not in HEADS:
        raise UsageError(f"--head {head}: must be one of {', '.join(HEADS)}")
    if not measure and calibration_data is not None:
        raise UsageError("--no-measure: calibrated rewrites are chosen by time; leave --calibration-data out")
    if head != "auto":
        if calibration_data is None:
            raise UsageError(f"--head {head}: needs --calibration-data, to refit the layers and to judge them")
        settings = {**(settings or {}), HEAD_RULE: {**(settings or {}).get(HEAD_RULE, {}), "form": head}}
    insisted = head != "auto" or (calibration_data is not None and HEAD_RULE in force_rules)
    _check_settings(available, settings or {})
    target = resolve(providers, provider_options, threads)
    options = Options(
        min_speedup=min_speedup,
        time_budget=time_budget if measure else 0.0,
        measure=measure,
        seed=seed,
        rtol=rtol,
        atol=atol,
        sizes=dict(input_shapes or {}),
        ranges=checked_ranges(loaded, input_ranges or {}),
        settings=dict(settings or {}),
        force=tuple(force_rules),
        objective=objective,
        insist=(HEAD_RULE,) if insisted else (),
    )
    store = Cache(None if cache is False or not measure else cache_path() if cache is True else Path(cache))
    for i, feeds in enumerate(inputs):
        check_inside(feeds, options.ranges, f"user input {i + 1}")
    extra = [Case(f"user input {i + 1}", dict(f)) for i, f in enumerate(inputs)]
    quiet: NotifyFunction = lambda stage, done, total: None  # noqa: E731
    tell: DecideFunction = decide or (lambda decision: None)
    how = parse_preprocess(preprocess or {})
    tried: list[Point] = []
    folder = None if pareto is None else models.writable_folder(Path(pareto))
    with contextlib.ExitStack() as stack:
        calibration = None
        if calibration_data is not None:
            if not 0.5 <= confidence < 1:
                raise UsageError(f"confidence must be from 0.5 to below 1, not {confidence:g}")
            source = os.fspath(calibration_data)
            data = stack.enter_context(open_dataset(source, loaded, preprocess=how, labels=_path(labels)))
            fits = FitStore(None if store.path is None else fits_path(store.path), resume=resume)
            heard = _heard(tried, tell)
            calibration = Calibration(data, str(max_drop), metric, confidence, fits, heard, crop_border)
        result, report = tune(
            loaded,
            chosen,
            target,
            options,
            cache=store,
            extra_cases=extra,
            calibration=calibration,
            notify=notify or quiet,
            decide=tell,
        )
    if folder is not None:
        _save_front(tried, folder)
    if calibration is not None:
        calibration.store.tidy()
    if dynamic_size and report.status != "over budget" and unfed(loaded) is None:
        free = with_free_size(result, target, seed)
        said = f"the size stays fixed: {free}" if isinstance(free, str) else "height and width are free now"
        report = replace(report, notes=(*report.notes, said))
        if isinstance(free, Model):
            entries = {k: v for k, v in provenance.read(result).items() if k not in ("version", "graph_sha256")}
            result = provenance.stamp(free, entries)
    report = replace(report, reproduce=call)
    if measure and time_budget and "measured_sizes" in report.settings:  # else it came back at once
        report = _profiled(report, loaded, result, target, seed)
    return Result(report, result)


def _profiled(report: Report, before: Model, after: Model, target: Target, seed: int) -> Report:
    """The report with where the time of an inference goes; the result only where it differs from the original."""
    sizes = {name: tuple(shape) for name, shape in report.settings["measured_sizes"].items()}
    try:
        first = profile(before, target, sizes, seed=seed)
        second = profile(after, target, sizes, seed=seed) if report.kept else None
    except ModelError as error:  # it does not run on random inputs, such as a Reshape whose target is fed
        return replace(report, notes=(*report.notes, f"where the time goes could not be measured: {error}"))
    return replace(report, profile_before=first, profile_after=second)


def _call(arguments: Mapping[str, Any]) -> str:
    """The call as Python text: what differs from the defaults. Models and feeds in memory stand as `...`."""
    words = []
    for name, parameter in inspect.signature(optimize).parameters.items():
        value = arguments[name]
        if name in ("notify", "decide", "resume") or (value is parameter.default and name != "model"):
            continue
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        shown = "..." if name == "inputs" or isinstance(value, onnx.ModelProto) else repr(value)
        if parameter.default is inspect.Parameter.empty:
            words.append(shown)
        elif value != parameter.default:
            words.append(f"{name}={shown}")
    return f"onnxtune.optimize({', '.join(words)})"


def _heard(tried: list[Point], tell: DecideFunction) -> Callable[[Point], None]:
    """Collect every calibrated set that was judged, and tell of it."""

    def on_point(point: Point) -> None:
        tried.append(point)
        loss = f"loses {point.drop.estimate:.3g} on the samples that choose"
        if point.gate is not None:
            loss = f"loses {point.gate.estimate:.3g}, at most {point.gate.bound:.3g}, on samples it has not seen"
        titles = ", ".join(o.timed.level.title for o in point.options)
        tell(f"calibrated set of {len(point.options)} ({titles}): {loss}")

    return on_point


def _save_front(tried: Sequence[Point], folder: Path) -> None:
    """point-1.onnx is the fastest; front.json says what each costs."""
    rows = []
    for number, point in enumerate(front(tried), 1):
        name = f"point-{number}.onnx"
        models.save(point.model(), folder / name)
        rows.append({"file": name, **described(point)})
    models.write_text(folder / "front.json", json.dumps(rows, indent=1))


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


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
