"""Levels of convolutions in the factorised forms of forms.py: which layers, which forms, how many mid channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.calibrate import solve
from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.forms import Factors, Form, unfitted
from onnxtune.calibrate.layer import Layer, conv_layer
from onnxtune.calibrate.level import Fitted, Level
from onnxtune.calibrate.relu import refit_for_relu
from onnxtune.channels.cost import Target
from onnxtune.convolution import add_conv
from onnxtune.costs import macs, total_macs
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Fragment, Proposal
from onnxtune.windows import Window

ROUGH, THOROUGH = 3, 12
"""Iterations of a fit."""
AGAIN = 8
"""Iterations that go on from a fit to similar data."""
WIDE_ROUGH, WIDE_THOROUGH = 1, 4
"""The same where all that is known of a layer is a sample of rows: they take longer, and start from more."""
FormsOf = Callable[[Window], Iterable[Form]]


def conv_levels(facts: Facts, settings: Mapping[str, Any], rule: str, forms: FormsOf) -> Iterator[Level | Decline]:
    """For every convolution that matters, each form at a ladder of mid channels.

    Settings: `ratios` (multiply-accumulates that are left), `min_share` (of the network's that a layer must have),
    `multiple` of mid channels (0: as the provider's kernels like), `provider`.
    """
    total = max(total_macs(facts), 1)
    target = Target.of(settings["provider"])
    for node in facts.nodes:
        if not node.is_op("Conv"):
            continue
        share = macs(facts, node) / total
        layer = conv_layer(facts, node)
        kernel = facts.shape(node.input(1)) or ()
        if max((k for k in kernel[2:] if isinstance(k, int)), default=1) == 1:
            continue
        if isinstance(layer, str):
            yield Decline(rule, node.key, layer)
            continue
        size = (facts.size(layer.y) or ())[2:]
        if len(size) != 2 or share < settings["min_share"]:
            continue
        multiples = [settings["multiple"]] if settings["multiple"] else [target.block or 8, target.multiple(half=True)]
        for form in forms(_window(layer)):
            for mid in _ladder(form, layer, (size[0], size[1]), settings["ratios"], multiples):
                yield _level(facts, rule, layer, form, mid, (size[0], size[1]))


def _window(layer: Layer) -> Window:
    assert layer.window is not None, "convolutions have one"
    return layer.window


def _ladder(
    form: Form, layer: Layer, size: tuple[int, int], ratios: Sequence[float], multiples: Sequence[int]
) -> list[tuple[int, ...]]:
    """Mid channels for each ratio: in the first multiple that leaves any. Without those that leave nothing out."""
    shape = (layer.outputs, layer.kernel.shape[1])
    found: dict[tuple[int, ...], None] = {}
    for ratio in ratios:
        fits = (form.mid_for(shape, size, ratio, multiple) for multiple in multiples)
        mid = next((m for m in fits if m is not None), None)
        if mid is not None:
            found[mid] = None
    return list(found)


def _level(facts: Facts, rule: str, layer: Layer, form: Form, mid: tuple[int, ...], size: tuple[int, int]) -> Level:
    shape = (layer.outputs, layer.kernel.shape[1])
    title = f"Conv {_by(layer.kernel.shape[2:])}, {shape[1]} -> {shape[0]} as {form.name} through {_by(mid)}"
    settings = {"form": form.name, "mid_channels": list(mid)}

    def build(factors: Factors) -> Proposal:
        return Proposal(
            rule, title, frozenset({layer.key}), _fragment(facts, rule, layer, factors), "calibrated", settings=settings
        )

    def solved(evidence: Evidence, iterations: int, near: Sequence[NDArray[Any]] | None = None) -> solve.Fitted:
        seen, seed = evidence.seen, evidence.seed
        return solve.fit(form, layer.kernel, layer.bias, seen, mid, iterations=iterations, seed=seed, near=near)

    def finished(evidence: Evidence, found: solve.Fitted) -> Fitted:
        factors = found.factors
        if layer.rectified and not layer.wide:
            half = len(evidence.x) // 2  # one half to fit, one to tell whether it helped
            rows, held_out = (evidence.x[:half], evidence.y[:half]), (evidence.x[half:], evidence.y[half:])
            factors = refit_for_relu(factors, rows, held_out)
        return Fitted(build(factors), found.rel_error)

    def fit(evidence: Evidence, rough: bool) -> Fitted:
        if rough:
            found = solved(evidence, WIDE_ROUGH if layer.wide else ROUGH)
            return Fitted(build(found.factors), found.rel_error)
        return finished(evidence, solved(evidence, WIDE_THOROUGH if layer.wide else THOROUGH))

    def again(evidence: Evidence, near: Fragment) -> Fitted:
        iterations = WIDE_THOROUGH if layer.wide else AGAIN
        return finished(evidence, solved(evidence, iterations, _weights(near)))

    random = build(unfitted(form, shape, mid, np.random.default_rng(0)))
    full = layer.weight.size * size[0] * size[1]
    return Level(rule, layer, title, random, fit, settings, form.macs(shape, mid, size), full, again=again)


def _weights(fragment: Fragment) -> list[NDArray[Any]]:
    """Of the stages, first to last: what `_fragment` has written."""
    values = {w.name: w for w in fragment.initializers}
    return [numpy_helper.to_array(values[n.input[1]]) for n in fragment.nodes]


def _fragment(facts: Facts, rule: str, layer: Layer, factors: Factors) -> Fragment:
    new = Builder(f"{layer.key}/{rule}", facts.names, facts.opset)
    x = layer.x
    stages = factors.stages
    for stage in stages:
        bias = factors.bias.astype(np.float64) if stage is stages[-1] else None
        weight = stage.weight.astype(np.float64)
        x = add_conv(new, x, weight, bias, stage.window, layer.dtype, stage.group)
    return new.finish({layer.y: x})


def _by(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
