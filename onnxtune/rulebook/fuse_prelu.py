"""Every spelling of y = x for x >= 0, a x for x < 0.

    relu(x) - a relu(-x)     max(x, 0) + a min(x, 0)     (x + |x|) / 2 + a (x - |x|) / 2     PRelu(x, a)

are one function of one number (`onnxtune.elementwise`), found by its values: a = -f(-1), and then f is
compared everywhere. The slopes a may differ between channels. Forms that are tried:

    leaky      LeakyRelu (Relu where a = 0), if all slopes are equal
    prelu      PRelu
    maximum    max(x, a x): for a <= 1 that is x where x >= 0 and a x where x < 0. For a >= 1 the minimum.
               Not with a = 0, where an infinite x would give 0 times infinity.
    blend      a x + (1 - a) relu(x), each a depthwise 1x1 convolution: on the CPU these stay in the
               blocked layout of the convolutions around them. 0 <= a <= 1, so nothing cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.elementwise import FEW, Curve, Form, Values, respell
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    def recognise(curve: Curve) -> tuple[str, Mapping[str, Form]] | None:
        slopes = _slopes(curve)
        return None if slopes is None else ("rectifier", _forms(facts, curve, slopes))

    yield from respell(facts, "fuse_prelu", recognise)


def _slopes(f: Curve) -> Values | None:
    """The slopes for x < 0, shaped like the constants, when f is a rectifier and not yet a fast one."""
    if f.operators in (["Relu"], ["LeakyRelu"], ["Identity"], ["Abs"]):
        return None
    slopes = -f(np.array([-1.0]))[..., 0]
    expected = np.where(FEW < 0, slopes[..., None] * FEW, FEW)
    plain = bool(np.all(slopes == 1) or np.all(slopes == -1))  # x itself, |x|
    return None if plain or not f.equals(expected, FEW) else slopes


def _forms(facts: Facts, f: Curve, slopes: Values) -> dict[str, Form]:
    stored = slopes.astype(f.dtype)
    forms: dict[str, Form] = {}
    if not np.ptp(stored):
        alpha = float(stored.ravel()[0])
        return {"leaky": lambda n, x: n.LeakyRelu(x, alpha=alpha) if alpha else n.Relu(x)}
    if np.all(stored <= 1) and np.all(stored != 0):
        forms["maximum"] = lambda n, x: n.Max(x, n.Mul(x, stored))
    elif np.all(stored >= 1):
        forms["maximum"] = lambda n, x: n.Min(x, n.Mul(x, stored))
    channels = facts.channels(f.x)
    per_channel = facts.rank(f.x) == 4 and channels is not None and stored.size == stored.shape[-3:][0] == channels
    if per_channel and np.all(stored >= 0) and np.all(stored <= 1):
        forms["blend"] = lambda n, x: _blend(n, x, slopes.reshape(-1, 1, 1, 1), f.dtype)
    forms["prelu"] = lambda n, x: n.PRelu(x, stored)
    return forms


def _blend(new: Builder, x: str, slopes: NDArray[np.float64], dtype: np.dtype[Any]) -> Any:
    group = len(slopes)
    linear = new.Conv(x, slopes.astype(dtype), kernel_shape=[1, 1], group=group)
    bent = new.Conv(new.Relu(x), (1 - slopes).astype(dtype), kernel_shape=[1, 1], group=group)
    return new.Add(linear, bent)
