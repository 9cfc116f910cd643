"""Levels of fully connected layers: which layers, which forms, how they are fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxtune.calibrate import heads
from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.head_forms import HeadForm, forms, grid_maps, unfitted, write
from onnxtune.calibrate.heads import Head
from onnxtune.calibrate.layer import Layer, rectified
from onnxtune.calibrate.level import Fitted, Level
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.fully_connected import FullyConnected, fully_connected
from onnxtune.model import tensor_bytes
from onnxtune.proposal import Decline, Proposal


def head_levels(facts: Facts, settings: Mapping[str, Any], rule: str) -> Iterator[Level | Decline]:
    """For every fully connected layer that matters, each form that is smaller.

    Settings: `form` (a family, or auto), `ratios` (weights that low rank leaves), `min_share` (of the model's
    weights that a layer must have).
    """
    total = max(tensor_bytes(facts.model), 1)
    for node in facts.nodes:
        weight = facts.constant(node.input(1)) if node.is_op("Gemm", "MatMul", "Conv") else None
        if weight is None or weight.nbytes < settings["min_share"] * total:
            continue
        found = fully_connected(facts, node)
        if isinstance(found, str):
            yield Decline(rule, node.key, str(found))
        elif found is not None:
            if found.unpoolable:
                yield Decline(rule, node.key, f"not pooled: {found.unpoolable}")
            layer = _layer(facts, found)
            for form in forms(found, settings["form"], settings["ratios"]):
                yield _level(facts, rule, layer, found, form)


def _layer(facts: Facts, found: FullyConnected) -> Layer:
    weight = found.weight.astype(np.float64)
    bias = np.zeros(len(weight)) if found.bias is None else found.bias.astype(np.float64)
    return Layer(found.key, found.x, found.y, weight, bias, found.weight.dtype, None, rectified(facts, found.y))


def _level(facts: Facts, rule: str, layer: Layer, found: FullyConnected, form: HeadForm) -> Level:
    j, d = found.weight.shape
    parameters = form.parameters(j, d, found.size)
    what = d if found.size is None else "x".join(map(str, found.size))
    title = f"fully connected {what} -> {j} by {form.name}, {parameters / (j * d):.1%} of its weights"
    settings = {"form": form.family, "size": form.name}
    details = {"parameters_before": j * d, "parameters_after": parameters}

    def build(head: Head) -> Proposal:
        new = Builder(f"{found.y}/{rule}", facts.names, facts.opset)
        fragment = new.finish({found.y: write(new, facts, found, form, head)})
        return Proposal(rule, title, found.nodes, fragment, "calibrated", settings=settings, details=details)

    def fit(evidence: Evidence, rough: bool) -> Fitted:
        head = fitted(form, layer, found, evidence)
        return Fitted(build(head), head.rel_error)

    random = build(unfitted(form, found, np.random.default_rng(0)))
    return Level(rule, layer, title, random, fit, settings, parameters, j * d)


def fitted(form: HeadForm, layer: Layer, found: FullyConnected, evidence: Evidence) -> Head:
    """The form's weights from what was seen of the layer."""
    weight, bias, moments = layer.weight, layer.bias, evidence.moments
    if form.rank:
        return heads.low_rank(weight, bias, moments, form.rank)
    assert found.size is not None, "pooling needs a map"
    c, h, w = found.size
    if form.maps:
        return heads.learned_maps(weight, bias, moments, c, form.maps)
    maps = grid_maps((h, w), form.grids)
    head = heads.pooled(weight, bias, moments, np.kron(np.eye(c), maps))
    return Head(maps, head.outer, head.bias, head.rel_error)
