"""A kernel as a column and a row: W[o, c, u, v] ~ sum over m of U[o, m, v] V[m, c, u], fitted to the data.

V is K x 1 with m outputs, U is 1 x K. Each keeps the pads and the stride of its own axis; the first has no bias, so
the zeros of the padding stay zeros between the two. It costs K m (C_in + C_out) for K^2 C_in C_out. Without data the
best one is a singular value decomposition of W as a (C_out K) x (C_in K) matrix; here the least squares are
weighted by what the layer sees (onnxtune/calibrate/solve.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxtune.calibrate.conv_levels import conv_levels
from onnxtune.calibrate.forms import Form, candidates
from onnxtune.calibrate.level import Level
from onnxtune.facts import Facts
from onnxtune.proposal import Decline
from onnxtune.windows import Window

RULE = "separable_conv"


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    yield from conv_levels(facts, settings, RULE, _forms)


def _forms(window: Window) -> Iterator[Form]:
    return (form for form in candidates(window) if form.name.startswith("separable"))
