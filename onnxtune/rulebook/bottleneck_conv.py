"""A kernel between 1x1 convolutions (Tucker-2), fitted to the data.

    W[o, c, r] ~ sum over p, q of  B[o, p] G[p, q, r] A[q, c]

A (1x1) reduces the input's channels, G is the K x K kernel on fewer channels, B (1x1) makes the output's; A or B
may be left out. No stage but the last has a bias, so zeros of the padding stay zeros. KxK-1x1 alone has a closed
form: B are the leading eigenvectors of W C W^T, with C the covariance of the layer's patches; the others are
alternating least squares (onnxtune/calibrate/solve.py).
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

RULE = "bottleneck_conv"


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    yield from conv_levels(facts, settings, RULE, _forms)


def _forms(window: Window) -> Iterator[Form]:
    return (form for form in candidates(window) if form.name.startswith("bottleneck"))
