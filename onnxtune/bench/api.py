"""`onnxtune.benchmark`: latency of models as one Python call. Prints nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune import model as models_io
from onnxtune.bench.machine import machine
from onnxtune.bench.plan import plan
from onnxtune.bench.report import BenchmarkReport
from onnxtune.bench.run import Notify, Opener, Setup, Wish, run
from onnxtune.bench.statistics import PERCENTILES
from onnxtune.errors import UsageError
from onnxtune.gpu import Wishes, copies_note, refined, with_copies
from onnxtune.runtime import Target, resolve

Source = str | os.PathLike[str] | onnx.ModelProto
Shapes = Mapping[str, tuple[int, ...]]


def benchmark(
    models: Source | Sequence[Source],
    *,
    providers: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    threads: int = 0,
    batch: Sequence[int] = (),
    input_shapes: Shapes | Sequence[Shapes] = (),
    inputs: Mapping[str, NDArray[Any]] | None = None,
    warmup: float = 0.2,
    duration: float | None = None,
    iterations: int | None = None,
    percentiles: Sequence[float] = PERCENTILES,
    memory: bool = True,
    seed: int = 0,
    wishes: Wishes | None = None,
    include_copies: bool = False,
    opener: Opener | None = None,
    notify: Notify | None = None,
) -> BenchmarkReport:
    """Measure the latency of one model, or of several in the same rounds, each against the first.

    Args:
        models: path of an ONNX file or a ModelProto; or a list of these, which must take the same inputs.
        providers, provider_options, threads: as for `optimize`.
        batch: batch sizes to measure at, each a case of its own. A model that fixes its batch is measured with the
            batch made free, where its outputs then stay the same.
        input_shapes: input name -> shape; a list of such is one case each.
        inputs: feeds (input name -> array) to measure on; random ones where None.
        warmup: seconds for which each model runs before anything counts, and longer until its times are steady.
        duration: seconds to measure each case for. None: until the answer is clear or precise.
        iterations: how often to measure each model, in place of a duration.
        percentiles: of the latency, each from 0 to 100.
        memory: load each model once more in a process of its own, to see how much memory that takes.
        seed: of inputs and order.
        wishes: how to run on a GPU: CUDA graph, TF32, channels last, cuDNN's algorithm search.
        include_copies: on a GPU, measure end to end: from host arrays to host arrays.
        opener: (model, feeds) -> function that makes a session and returns its call, for sessions with settings of
            one's own. None: ONNX Runtime's defaults.
        notify: called with (stage, done, total) as work proceeds.

    Returns:
        BenchmarkReport with a case for each batch and shape: samples, statistics, comparisons, what speaks against
        them; `.to_json()`.

    Raises:
        UsageError: an argument does not fit, or the models do not take the same inputs.
        ModelError: a model cannot be loaded or run, or does not fit at any of the batches.
        ProviderError: the provider does not work here.
    """
    sources = [models] if isinstance(models, (str, os.PathLike, onnx.ModelProto)) else list(models)
    if not sources:
        raise UsageError("no model to measure")
    shapes = [input_shapes] if isinstance(input_shapes, Mapping) else list(input_shapes)
    _check(warmup, duration, iterations, percentiles, batch, threads, seed)
    wished = cases(batch, shapes)
    if inputs is not None and (batch or shapes):
        raise UsageError("--data fixes the sizes of the inputs: it does not go with --batch or --input-shapes")
    how = plan(warmup=warmup, duration=duration, iterations=iterations, cases=len(wished), seed=seed)
    loaded = [models_io.load(s) for s in sources]
    names = short(
        [m.name if isinstance(s, onnx.ModelProto) else os.fspath(s) for s, m in zip(sources, loaded, strict=True)]
    )
    target = refined(resolve(providers, provider_options, threads), wishes or Wishes())
    if include_copies and opener is not None:
        raise UsageError("include_copies and opener: give one of them")
    if include_copies:
        opener = partial(with_copies, target)
    setup = Setup(
        target=target,
        plan=how,
        machine=machine(target),
        percentiles=tuple(percentiles),
        memory=memory,
        feeds=None if inputs is None else {n: np.asarray(a) for n, a in inputs.items()},
        open=opener,
        notify=notify or (lambda stage, done, total: None),
    )
    settings = {
        "providers": providers,
        **_target(target),
        "batch": list(batch),
        "input_shapes": [{n: list(s) for n, s in given.items()} for given in shapes],
        "include_copies": include_copies,
        "inputs": "random" if inputs is None else "given",
        "duration": duration,
        "iterations": iterations,
        "percentiles": list(percentiles),
        "seed": seed,
        "plan": {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(how).items()},
    }
    report = run(loaded, names, wished, setup, settings)
    return replace(report, notes=(*report.notes, copies_note(target))) if include_copies else report


def cases(batch: Sequence[int], shapes: Sequence[Shapes]) -> tuple[Wish, ...]:
    """Every batch at every set of shapes; one case without a label where neither has several."""
    several = len(batch) * max(len(shapes), 1) > 1 or len(shapes) > 1
    found = []
    for given in shapes or [{}]:
        drawn = ", ".join(f"{n}:{'x'.join(map(str, s))}" for n, s in given.items()) if len(shapes) > 1 else ""
        sizes: Sequence[int | None] = batch or [None]
        for size in sizes:
            label = " ".join(filter(None, (f"batch {size}" if size else "", drawn)))
            found.append(Wish(label if several else "", size, given))
    return tuple(found)


def short(names: Sequence[str]) -> list[str]:
    """File names where these tell the models apart, else the paths as they are."""
    files = [PurePath(n).name for n in names]
    return files if len(set(files)) == len(set(names)) else list(names)


def _target(target: Target) -> dict[str, Any]:
    return {"provider": target.provider, "provider_options": dict(target.options), "threads": target.threads}


def _check(
    warmup: float,
    duration: float | None,
    iterations: int | None,
    percentiles: Sequence[float],
    batch: Sequence[int],
    threads: int,
    seed: int,
) -> None:
    """Raises UsageError naming the argument."""
    most = 4 * (os.cpu_count() or 1)
    wrong = [
        (not 0 <= warmup < math.inf, f"warmup must be a number from 0 on, not {warmup:g}"),
        (duration is not None and not 0 < duration < math.inf, f"duration must be above 0, not {duration}"),
        (iterations is not None and iterations < 1, f"iterations must be at least 1, not {iterations}"),
        (not percentiles, "no percentile named"),
        (not all(0 <= p <= 100 for p in percentiles), f"percentiles lie from 0 to 100, not {_shown(percentiles)}"),
        (not all(b >= 1 for b in batch), f"batch sizes are at least 1, not {_shown(batch)}"),
        (len(set(batch)) != len(batch), f"a batch size is named twice: {_shown(batch)}"),
        (threads < 0 or seed < 0, "threads and seed are numbers from 0 on"),
        (
            threads > max(most, 64),
            f"threads: {threads} is more than this machine can use ({os.cpu_count()} logical cores)",
        ),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise UsageError(message)


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
