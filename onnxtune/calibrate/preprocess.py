"""From 8-bit images to what a network was trained on: resize, crop, channel order, scale, mean, deviation, layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.errors import UsageError

CHANNEL_ORDERS = ("rgb", "bgr", "gray")
LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Preprocess:
    """value = (pixel * scale - mean) / std, with pixels from 0 to 255.

    `resize`: (n,) shorter side, or (height, width); `crop`: (n,) or (height, width) around the centre.
    `mean`, `std`: one number, or one for each channel. `layout` None: as the model's input suggests.
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "rgb"
    layout: str | None = None

    def values(self, image: NDArray[np.uint8], channels_first: bool) -> NDArray[np.float32]:
        """One image (H, W, C) as float32 (C, H, W) or (H, W, C). Raises UsageError for a wrong number of channels."""
        if self.channel_order == "bgr":
            image = image[..., ::-1]
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, image.shape[-1]):
                raise UsageError(f"--{name}: {len(getattr(self, name))} numbers for {image.shape[-1]} channels")
        scaled = image.astype(np.float32) * np.float32(self.scale)
        result = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(result.transpose(2, 0, 1) if channels_first else result)


def parse(table: Mapping[str, Any]) -> Preprocess | None:
    """From flags or the configuration's [preprocess] table; None when nothing is given. Raises UsageError."""
    given = {k.replace("-", "_"): v for k, v in table.items() if v is not None and v != ""}
    if not given:
        return None
    known = {f.name for f in fields(Preprocess)}
    unknown = given.keys() - known
    if unknown:
        raise UsageError(f"[preprocess]: unknown key '{min(unknown)}' (known: {', '.join(sorted(known))})")
    made: dict[str, Any] = {}
    for name in ("mean", "std", "resize", "crop"):
        if name in given:
            made[name] = _numbers(name, given[name], whole=name in ("resize", "crop"))
    if "scale" in given:
        (made["scale"],) = _numbers("scale", given["scale"], whole=False)[:1]
    for name, allowed in (("channel_order", CHANNEL_ORDERS), ("layout", LAYOUTS)):
        if name in given:
            made[name] = str(given[name]).lower()
            if made[name] not in allowed:
                raise UsageError(f"--{name.replace('_', '-')} {given[name]}: must be one of {', '.join(allowed)}")
    if any(s == 0 for s in made.get("std", ())):
        raise UsageError("--std: must not be 0")
    return Preprocess(**made)


def _numbers(name: str, value: Any, *, whole: bool) -> tuple[Any, ...]:
    items = value if isinstance(value, (list, tuple)) else str(value).replace("x", ",").split(",")
    try:
        numbers = tuple(int(v) if whole else _fraction(v) for v in items)
    except ValueError:
        raise UsageError(f"--{name} {value}: expected {'whole numbers' if whole else 'numbers'}, such as 1,2") from None
    if not numbers or (whole and (len(numbers) > 2 or min(numbers) < 1)):
        raise UsageError(f"--{name} {value}: expected one or two sizes of at least 1")
    if not all(np.isfinite(n) for n in numbers):
        raise UsageError(f"--{name} {value}: must be finite")
    return numbers


def _fraction(value: Any) -> float:
    """A number, or a quotient such as 1/255."""
    top, _, bottom = str(value).partition("/")
    try:
        return float(top) / float(bottom) if bottom else float(top)
    except ZeroDivisionError:
        raise ValueError from None
