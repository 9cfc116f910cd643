"""A kernel as a stack of smaller ones: W ~ V_n * ... * V_1, fitted to the data.

    W[o, c, r] ~ sum over m and p + a = r of  U[o, m, p] V[m, c, a]        K = k1 + k2 - 1

All pads stand on the first stage and none on the others, so that the stack reads at the border what the kernel
read: it is exact there wherever it is exact inside. Only the last stage has a bias and only it is followed by the
layer's activation. With m mid channels it costs k1^2 m C_in + k2^2 m C_out for K^2 C_in C_out. A generic kernel
has no cheaper exact stack (counting degrees of freedom); trained ones have close ones. Stage by stage the fit is
least squares on the patches that the layer sees (onnxtune/calibrate/solve.py).
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

RULE = "stack_3x3"


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    yield from conv_levels(facts, settings, RULE, _forms)


def _forms(window: Window) -> Iterator[Form]:
    return (form for form in candidates(window) if form.name.startswith("stack"))
