"""What the user declares of the values that a model's inputs take: a rewrite may rely on it, tests keep to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.errors import UsageError
from onnxtune.model import Model
from onnxtune.shapes import describe

Ranges = Mapping[str, tuple[float, float]]
"""Input name -> lowest and highest value."""

EXPECTED = "expected NAME:LOW:HIGH with two finite numbers, the lower one first"


def parse_ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`name:0:1` -> {name: (0.0, 1.0)}. Raises UsageError."""
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, *limits = text.rsplit(":", 2)
        try:
            low, high = (float(v) for v in limits)
        except ValueError:
            raise UsageError(f"--input-range {text}: {EXPECTED}") from None
        if not name or not _is_range(low, high):
            raise UsageError(f"--input-range {text}: {EXPECTED}")
        if name in found:
            raise UsageError(f"--input-range names '{name}' twice")
        found[name] = (low, high)
    return found


def checked_ranges(model: Model, given: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The ranges as numbers. Raises UsageError for names that are no inputs and for what is no range of numbers."""
    inputs = {i.name: i for i in model.inputs}
    found = {}
    for name, limits in given.items():
        if name not in inputs:
            raise UsageError(f"{model.name}: --input-range names '{name}', but the inputs are: {', '.join(inputs)}")
        try:
            low, high = (float(v) for v in limits)
        except (TypeError, ValueError):
            raise UsageError(f"{model.name}: input range of '{name}': expected (low, high)") from None
        if not _is_range(low, high):
            raise UsageError(f"{model.name}: input range of '{name}': {low:g} to {high:g} is no finite range")
        info = describe(inputs[name])
        if info is None or np.dtype(_dtype(info.elem_type)).kind in "bOSUc":
            raise UsageError(f"{model.name}: input '{name}' does not hold numbers; it can have no range")
        found[name] = (low, high)
    return found


def _dtype(elem_type: int) -> Any:
    import onnx

    return onnx.helper.tensor_dtype_to_np_dtype(elem_type)


def _is_range(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high) and low < high


def clipped(feeds: Mapping[str, NDArray[Any]], ranges: Ranges) -> dict[str, NDArray[Any]]:
    """The feeds with what lies outside of a declared range moved to its nearer end."""
    return {n: np.clip(a, *ranges[n]).astype(a.dtype) if n in ranges else a for n, a in feeds.items()}


def check_inside(feeds: Mapping[str, NDArray[Any]], ranges: Ranges, what: str) -> None:
    """Raise UsageError when feeds of the user's own contradict what the user has declared."""
    for name, (low, high) in ranges.items():
        if name not in feeds:
            continue
        values = np.asarray(feeds[name])
        if values.size and not (values.min() >= low and values.max() <= high):
            raise UsageError(
                f"{what}: '{name}' holds {values.min():g} to {values.max():g}, outside of its declared range"
                f" {low:g} to {high:g}"
            )


def notes_on(ranges: Ranges) -> list[str]:
    """Notes for the report."""
    return [f"input '{n}' is taken to lie in [{low:g}, {high:g}], as declared" for n, (low, high) in ranges.items()]
