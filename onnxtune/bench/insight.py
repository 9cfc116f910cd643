"""What a benchmark can say beside latency: where the time goes, and which settings of the runtime suit a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.bench.api import Shapes, Source, cases
from onnxtune.bench.batch import batch_is_free, items, sized, with_free_batch
from onnxtune.bench.profile import SECONDS, Profile, profile
from onnxtune.bench.run import Wish
from onnxtune.bench.settings import Tuning, tune_runtime
from onnxtune.errors import ModelError, UsageError
from onnxtune.feeds import Feeds, random_feeds
from onnxtune.gpu import Wishes, refined
from onnxtune.model import Model, load
from onnxtune.runtime import resolve
from onnxtune.sizes import Sizes, bind

Notify = Callable[[str, int, int], None]


def insights(
    models: Sequence[Source],
    *,
    profiled: bool = False,
    tuned: bool = False,
    providers: str = "auto",
    provider_options: Mapping[str, str] | None = None,
    threads: int = 0,
    wishes: Wishes | None = None,
    batch: Sequence[int] = (),
    input_shapes: Sequence[Shapes] = (),
    inputs: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
    seconds: float = SECONDS,
    notify: Notify = lambda stage, done, total: None,
) -> tuple[tuple[Profile, ...], Tuning | None]:
    """A profile of each model (`profiled`), and the settings of the runtime for the one model (`tuned`).

    At the first of the batches and shapes. Nothing is loaded when neither is asked for. Raises UsageError when
    settings are to be tuned for several models or cases; ModelError when a model does not run there.
    """
    if not (profiled or tuned):
        return (), None
    wished = cases(batch, input_shapes)
    if tuned:
        check_single(len(models), len(wished))
    target = refined(resolve(providers, provider_options, threads), wishes or Wishes())
    profiles = []
    tuning = None
    for done, source in enumerate(models):
        model, feeds, sizes = subject(load(source), wished[0], inputs, seed)
        if profiled:
            notify("profiling", done, len(models))
            profiles.append(profile(model, feeds, sizes, target, seconds=seconds))
        if tuned:
            tuning = tune_runtime(model, feeds, target, notify=notify)
    return tuple(profiles), tuning


def check_single(models: int, wished: int) -> None:
    """Settings are tuned for one model at one size: they must not be mixed up with a comparison of models."""
    if models > 1:
        raise UsageError(
            "--tune-runtime: takes one model: settings of the runtime and changes of a model are compared separately"
        )
    if wished > 1:
        raise UsageError("--tune-runtime: takes one batch and one shape of each input")


def subject(
    model: Model, wish: Wish, inputs: Mapping[str, NDArray[Any]] | None, seed: int
) -> tuple[Model, Feeds, Sizes]:
    """The model as it is measured in a case, with what it is fed."""
    if inputs is not None:
        feeds = {n: np.asarray(a) for n, a in inputs.items()}
        return model, feeds, {n: a.shape for n, a in feeds.items()}
    sizes: Sizes = bind(model, wish.shapes).sizes
    if wish.batch is not None and items(sizes) != wish.batch:
        if not batch_is_free(model):
            free = with_free_batch(model, sizes)
            if isinstance(free, str):
                raise ModelError(f"{model.name}: its batch is fixed at {items(sizes)}: {free}")
            model = free
        sizes = sized(model, sizes, wish.batch)
    return model, random_feeds(model, sizes, seed), sizes


def extras(profiles: Sequence[Profile], tuning: Tuning | None) -> dict[str, Any]:
    """The same as JSON values, for a report."""
    found: dict[str, Any] = {}
    if profiles:
        found["profiles"] = [p.as_json() for p in profiles]
    if tuning is not None:
        found["runtime_settings"] = tuning.as_json()
    return found
