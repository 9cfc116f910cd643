"""`onnxtune.check`: the design guidelines as a linter. Says what could be better and what it is worth; changes
nothing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from onnxtune import model as models
from onnxtune.cache import Cache, cache_path
from onnxtune.calibrate.dataset import open_dataset
from onnxtune.calibrate.preprocess import parse as parse_preprocess
from onnxtune.catalog import catalog, own_rule
from onnxtune.checks import chosen
from onnxtune.errors import UsageError
from onnxtune.facts import Facts
from onnxtune.finding import SEVERITIES, Checker, CheckReport, Finding, Found, Severity, Worth
from onnxtune.model import Model
from onnxtune.runtime import Target, resolve, versions
from onnxtune.scene import Scene
from onnxtune.seen import energies
from onnxtune.shapes import describe
from onnxtune.sizes import bind
from onnxtune.trial import Timer
from onnxtune.tune import NotifyFunction
from onnxtune.worth import Scales, estimated, folded

WORTH_SAYING = 1.01
"""Measured speed-up below which advice is only good to know."""
GPU_WORDS = ("cuda", "gpu", "trt", "tensorrt")


def check(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    measure: bool = False,
    providers: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    threads: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    calibration_data: str | os.PathLike[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    time_budget: float = 60.0,
    seed: int = 0,
    cache: bool | Path = True,
    notify: NotifyFunction | None = None,
) -> CheckReport:
    """Hold a CNN against the design guidelines; changes nothing.

    Args:
        model: path of an ONNX file, or a ModelProto.
        select, ignore: codes of checks (or their beginnings, "CK2") or names to run, or to leave out.
        measure: time what each finding would be worth, with random weights where fitting is needed; without it,
            some findings carry an estimate.
        providers, provider_options, threads: what to measure on, and whose kernels to please; as for `optimize`.
        input_shapes: input name -> shape to count costs and measure at, for inputs with dynamic dimensions.
        calibration_data: samples that tell what weights cannot: energies of residual branches, spread of offsets.
        preprocess: how 8-bit images become inputs, as for `optimize`.
        time_budget: seconds after which nothing new is measured.
        seed: of everything random. cache: as for `optimize`.
        notify: called with (stage, done, total) as work proceeds.

    Returns:
        CheckReport with `.findings`, the gravest first, and `.to_json()`.

    Raises:
        ModelError: the file is missing or not ONNX. DataError: the samples cannot be used.
        ProviderError: the provider does not work here. UsageError: an argument does not fit.
    """
    start = time.perf_counter()
    checks = chosen(select, ignore)
    if not 0 <= time_budget < math.inf:
        raise UsageError(f"time_budget must be a number of seconds from 0 on, not {time_budget:g}")
    stored = models.load(model)
    binding = bind(stored, input_shapes or {})
    runs = measure or calibration_data is not None
    target = resolve(providers, provider_options, threads) if runs else None
    frozen = _frozen(stored)
    scene = Scene(
        Facts(frozen, binding.sizes),
        _kernels(providers, target),
        assumed=_assumed(stored, input_shapes or {}),
    )
    if calibration_data is not None and target is not None:
        with open_dataset(os.fspath(calibration_data), stored, preprocess=parse_preprocess(preprocess or {})) as data:
            asked = set().union(*(c.asks(scene) for c in checks if c.asks is not None))
            scene = replace(scene, seen=energies(frozen, asked, data, target, seed))
    whole = scene if frozen is stored else replace(scene, facts=Facts(stored, binding.sizes), _said={})
    found = [(c, f) for c in checks for f in c.find(whole if c.card.as_stored else scene)]
    found.sort(key=lambda pair: -SEVERITIES.index(pair[1].severity or pair[0].card.severity))  # measured in that order
    latency = None
    if measure and target is not None:
        store = Cache(None if cache is False else cache_path() if cache is True else cache)
        timer = Timer(target, store, seed, time.monotonic() + time_budget)
        latency = timer.latency(stored, binding.sizes)
        findings = _measured(checks, found, scene, whole, timer, latency, notify or (lambda stage, done, total: None))
    else:
        findings = [_finding(c, f, estimated(f)) for c, f in found]
    scene.facts.forget()
    return CheckReport(
        model=stored.name,
        findings=tuple(sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.code))),
        notes=(*binding.assumed, *_uncounted(scene)),
        totals={"nodes": len(scene.facts.nodes), "macs": scene.total_macs, "weight_bytes": scene.weight_bytes},
        settings={
            "select": list(select),
            "ignore": list(ignore),
            "measure": measure,
            "kernels": scene.provider,
            "threads": threads,
            "seed": seed,
            "sizes": {k: list(v) for k, v in binding.sizes.items()},
            "calibration_data": None if calibration_data is None else os.fspath(calibration_data),
        },
        environment={} if target is None else {**versions(), "device": target.device, "provider": target.provider},
        seconds=time.perf_counter() - start,
        latency=latency,
    )


def _measured(
    checks: Sequence[Checker],
    found: Sequence[tuple[Checker, Found]],
    scene: Scene,
    whole: Scene,
    timer: Timer,
    latency: float,
    notify: NotifyFunction,
) -> list[Finding]:
    """The findings with what they would be worth, and those that only measuring brings. `latency`: of `whole`."""
    rules = catalog(plugins=False)
    frozen = latency if scene is whole else timer.latency(scene.facts.model, scene.facts.sizes)
    known, ready = {r.name: r for r in rules}, folded(scene.facts, rules)
    scales = Scales(scene, known, timer, ready, frozen, lambda stage: notify(stage, 0, 0))
    on_whole = replace(scales, scene=whole, latency=latency)
    findings = [_finding(c, f, (on_whole if c.card.as_stored else scales).worth(c, f)) for c, f in found]
    swept = [(c, f) for c in checks if c.sweep is not None for f in c.sweep(scene, timer)]
    return findings + [_finding(c, f, None) for c, f in swept]


def _kernels(providers: str, target: Target | None) -> str:
    """Whose kernels to please; a named provider need not work here when nothing is measured."""
    if target is None and providers.strip().lower() != "auto":
        words = (w.partition(":")[0].strip().lower() for w in providers.split(","))
        return "cuda" if any(w.startswith(GPU_WORDS) for w in words) else "cpu"
    target = target or resolve(providers)
    return "cuda" if target.on_gpu else "cpu"


def _frozen(model: Model) -> Model:
    """The model with its weights constant; itself when they are."""
    stored = model.initializer_names
    if not any(i.name in stored for i in model.proto.graph.input):
        return model
    changed = own_rule("freeze_initializers").entry(model.proto, {})
    return model if changed is None else model.adopt(changed)


def _uncounted(scene: Scene) -> list[str]:
    """A note on layers whose arithmetic is not known."""
    layers = [n for n in scene.facts.nodes if n.is_op("Conv", "ConvTranspose", "Gemm", "MatMul")]
    unknown = sum(n.key not in scene.macs for n in layers)
    if not unknown:
        return []
    return [f"the sizes of {unknown} of {len(layers)} layers are computed at run time; shares and sums leave them out"]


def _assumed(model: Model, given: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Image inputs whose height or width is open and not given."""
    shapes = {v.name: info.shape for v in model.inputs if (info := describe(v)) is not None}
    free = (n for n, shape in shapes.items() if not all(isinstance(d, int) for d in (shape or ())[2:]))
    return frozenset(free) - given.keys()


def _severity(checker: Checker, found: Found, worth: Worth | None) -> Severity:
    severity = found.severity or checker.card.severity
    no_gain = (
        worth is not None and worth.kind == "measured" and worth.speedup is not None and worth.speedup < WORTH_SAYING
    )
    return "info" if no_gain and checker.card.only_speed and severity in ("advice", "warning") else severity


def _finding(checker: Checker, found: Found, worth: Worth | None) -> Finding:
    card = checker.card
    return Finding(
        code=card.code,
        name=card.name,
        severity=_severity(checker, found, worth),
        message=found.message,
        nodes=found.names or tuple(n.proto.name or n.key for n in found.nodes),
        numbers=found.numbers,
        remedy=found.remedy or card.remedy,
        action=found.action or card.action,
        rules=card.rules if found.rules is None else found.rules,
        guidelines=card.guidelines,
        worth=worth,
        details=found.details,
    )
