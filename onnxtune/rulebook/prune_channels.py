"""Channels removed before layers that make up for them, fitted to the data.

With K the channels that stay, each layer that sums over them gets the weights and bias that come closest to what it
answered before (least squares on the rows that it sees):

    W' = (C_yx)_:K (C_KK)^-1,     b' = mean y - W' mean x_K

Which channels go: one by one the one whose loss, made up for by all that stay, is least (the surgeon's formula for
groups of columns; onnxtune/calibrate/prune.py), the losses of all layers that read it added up. What makes the
channels, and everything between (per-channel operators, depthwise convolutions, pools, the additions of a residual
stream), loses the same channels, exactly. Channels that share their fate with others (groups, shuffles) or that are
read together with others (Concat) are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxtune.calibrate.level import Level
from onnxtune.calibrate.prune_levels import prune_levels
from onnxtune.facts import Facts
from onnxtune.proposal import Decline

RULE = "prune_channels"


def levels(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Level | Decline]:
    yield from prune_levels(facts, settings, RULE)
