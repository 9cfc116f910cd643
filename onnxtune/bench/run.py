"""Measuring one model, or two in the same rounds, on random inputs."""

from __future__ import annotations

from collections.abc import Mapping

from onnxtune.comparison import Comparison
from onnxtune.errors import UsageError
from onnxtune.feeds import random_feeds
from onnxtune.measure import measure
from onnxtune.model import Model
from onnxtune.runtime import Session, Target
from onnxtune.shapes import describe
from onnxtune.sizes import bind
from onnxtune.trial import CONFIRM_PLANS


def measure_models(before: Model, after: Model, shapes: Mapping[str, tuple[int, ...]], target: Target) -> Comparison:
    """`after` against `before` with an A/A control, both fed the same; judged as `optimize` judges.

    Raises UsageError when the two do not take the same inputs.
    """
    check_same_inputs(before, after)
    feeds = random_feeds(before, bind(before, shapes).sizes)
    sessions = [Session(m, target) for m in (before, after, before)]
    for session in sessions:
        session.run(feeds)  # a model that does not run says so here, before anything is timed
    first, second, again = (s.runner(feeds) for s in sessions)
    return measure(first, second, again, CONFIRM_PLANS[0])


def check_same_inputs(before: Model, after: Model) -> None:
    """The same names and element types; whether the sizes fit is for ONNX Runtime to say."""
    ours, theirs = (_types(before), _types(after))
    if ours != theirs:
        raise UsageError(
            f"{after.name}: takes other inputs ({', '.join(theirs)}) than {before.name} ({', '.join(ours)});"
            " compare models with the same input names and types"
        )


def _types(model: Model) -> dict[str, int | None]:
    infos = {v.name: describe(v) for v in model.inputs}
    return {name: None if info is None else info.elem_type for name, info in infos.items()}
