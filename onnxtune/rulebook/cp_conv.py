"""A kernel as 1x1, depthwise K x K, 1x1 (canonical polyadic), fitted to the data.

    W[o, c, r] ~ sum over m of  B[o, m] D[m, r] A[m, c]

It costs m (C_in + K^2 + C_out) for K^2 C_in C_out. The alternating least squares are weighted by what the layer
sees (onnxtune/calibrate/solve.py). Depthwise kernels run slower per multiplication than dense ones: measuring
decides.
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

RULE = "cp_conv"


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    yield from conv_levels(facts, settings, RULE, _forms)


def _forms(window: Window) -> Iterator[Form]:
    return (form for form in candidates(window) if form.name.startswith("cp"))
