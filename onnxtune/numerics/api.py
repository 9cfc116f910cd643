"""`onnxtune.compare`: numerics of a second model against a first, as one Python call. Prints nothing."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from onnxtune import provenance
from onnxtune.calibrate.dataset import open_dataset
from onnxtune.calibrate.preprocess import parse as parse_preprocess
from onnxtune.errors import UsageError
from onnxtune.feeds import Feeds, cases
from onnxtune.model import Model, load
from onnxtune.numerics.result import Numerics
from onnxtune.numerics.run import Batch, batches_of, check_same_interface, common_sizes, run_both, user_cases
from onnxtune.ranges import Ranges, checked_ranges
from onnxtune.runtime import resolve, versions
from onnxtune.sizes import bind


def compare(
    a: str | os.PathLike[str] | onnx.ModelProto,
    b: str | os.PathLike[str] | onnx.ModelProto,
    *,
    data: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    samples: int | None = None,
    preprocess: Mapping[str, Any] | None = None,
    inputs: Sequence[Feeds] = (),
    providers: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    threads: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    min_agreement: float | None = None,
    seed: int = 0,
) -> Numerics:
    """Does `b` compute what `a` computes? Both run in ONNX Runtime, unoptimised and as deployed.

    Args:
        a, b: paths of ONNX files, or ModelProtos (not changed), with the same inputs and outputs.
        data: samples to feed: NPZ, NPY, a folder of these, an image folder, or `module:function`. Without it seeded
            random and extreme inputs are fed, and other sizes where `a` leaves them open.
        labels: class numbers of these samples (NPY, NPZ, CSV): the accuracy of both models is given, too.
        samples: how many of them at most.
        preprocess: how 8-bit images become inputs: resize, crop, scale, mean, std, channel_order, layout.
        inputs: further feeds (input name -> array).
        providers, provider_options, threads: where the models run as deployed, as for `optimize`.
        input_shapes: input name -> shape, for inputs with dynamic dimensions.
        input_ranges: input name -> lowest and highest value to feed; None: those that `b` was made for, if onnxtune
            made it for some.
        rtol: tolerance relative to an output's largest magnitude. None: what the type and the lengths of the sums
            allow. atol: absolute tolerance. None: what `a` itself moves when its inputs move in the last bit.
        min_agreement: for outputs that rank classes, in the tolerance's place: the least share of samples whose
            first class must be the same. Needs `data`.
        seed: of everything random.

    Returns:
        Numerics: `.within`, `.reason`, `.differences`, `.origin`, `.to_json()`.

    Raises:
        UsageError: the models have different inputs or outputs, or an argument does not fit.
        ModelError: a model cannot be loaded or run. DataError: the data cannot be used.
        ProviderError: the provider does not work here.
    """
    for name, value in {"rtol": rtol, "atol": atol}.items():
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} must be a number from 0 on, not {value:g}")
    if samples is not None and samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise UsageError(f"--min-agreement: must be a share from 0 to 1, not {min_agreement:g}")
    if data is None and (min_agreement is not None or labels is not None):
        raise UsageError(f"{'--labels' if min_agreement is None else '--min-agreement'}: needs --data")
    first, second = load(a), load(b)
    check_same_interface(first, second)
    target = resolve(providers, provider_options, threads)
    binding = bind(first, input_shapes)
    sizes = common_sizes(binding.sizes, second)
    ranges, said = _ranges(second, input_ranges)
    with contextlib.ExitStack() as stack:
        fed: Iterable[Batch] = user_cases(inputs)
        if data is not None:
            how, truth = parse_preprocess(preprocess or {}), None if labels is None else os.fspath(labels)
            found = stack.enter_context(
                open_dataset(os.fspath(data), first, preprocess=how, labels=truth, flag="--data")
            )
            fed = itertools.chain(fed, batches_of(found, samples))
        elif not inputs:
            fed = (Batch(case) for case in cases(first, sizes, seed, ranges))
        result = run_both(
            first, second, fed, sizes, target, rtol=rtol, atol=atol, min_agreement=min_agreement, seed=seed
        )
    if min_agreement is not None and all(d.top1 is None for d in result.differences):
        raise UsageError(f"--min-agreement: no output of {first.name} ranks classes")
    return Numerics(
        a=first.name,
        b=second.name,
        differences=result.differences,
        failures=result.failures,
        skipped=result.skipped,
        origin=result.origin,
        notes=(*(binding.assumed if data is None else ()), *said, *result.notes),
        environment={
            **versions(),
            "device": target.device,
            "provider": target.provider,
            "provider_options": dict(target.options),
            "threads": target.threads,
            "a_sha256": first.graph_sha256(),
            "b_sha256": second.graph_sha256(),
            "data": None if data is None else os.fspath(data),
            "rtol": rtol,
            "atol": atol,
            "min_agreement": min_agreement,
            "seed": seed,
        },
    )


def _ranges(b: Model, given: Mapping[str, tuple[float, float]] | None) -> tuple[Ranges, tuple[str, ...]]:
    """The ranges that inputs are fed from: those given, else those that a result of onnxtune was made for."""
    if given is not None:
        return checked_ranges(b, given), ()
    settings = provenance.read(b).get("settings")
    declared = settings.get("input_ranges") if isinstance(settings, Mapping) else None
    if not isinstance(declared, Mapping) or not declared:
        return {}, ()
    ranges = checked_ranges(b, declared)
    spans = ", ".join(f"'{n}' from {low:g} to {high:g}" for n, (low, high) in ranges.items())
    return ranges, (f"{b.name} was made for inputs {spans}: nothing else is fed",)
