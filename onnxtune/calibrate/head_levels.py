"""Levels of fully connected layers: which layers, which forms, how they are fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate import heads, wide_heads
from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.head_forms import FAMILIES, HeadForm, forms, grid_maps, put_off, unfitted, write
from onnxtune.calibrate.heads import Head
from onnxtune.calibrate.layer import WIDE, Layer, rectified
from onnxtune.calibrate.level import Fitted, Level
from onnxtune.calibrate.priors import Diagonal, Isotropic, Prior, Separable
from onnxtune.calibrate.wide_heads import Sample
from onnxtune.errors import RuleError
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.fully_connected import Classifier, FullyConnected, classifier, fully_connected
from onnxtune.heads import gemm, global_mean
from onnxtune.later import Later
from onnxtune.model import tensor_bytes
from onnxtune.proposal import Decline, Proposal


def head_levels(facts: Facts, settings: Mapping[str, Any], rule: str) -> Iterator[Level | Decline]:
    """For every fully connected layer that matters, each form that is smaller.

    Settings: `form` (a family, or auto), `ratios` (weights that low rank leaves), `min_share` (of the model's
    weights that a layer must have).
    """
    if settings["form"] not in ("auto", *FAMILIES):
        raise RuleError(f"rule {rule}: form '{settings['form']}' must be auto or one of {', '.join(FAMILIES)}")
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
            offered = list(forms(found, settings["form"], settings["ratios"]))
            layer = _layer(facts, node, found)
            fits = Fits(layer, found.size, max((f.rank for f in offered), default=0))
            if layer.stored is not None:
                found = replace(found, weight=_shape_of(found.weight))
            for form in offered:
                yield _level(facts, rule, fits, found, form)
            whole = classifier(facts, found) if settings["form"] == "gap" else None
            if whole is not None and any(f.family == "gap" for f in offered):
                yield _collapsed(facts, rule, found, whole)


def _layer(facts: Facts, node: Node, found: FullyConnected) -> Layer:
    """The layer with its weight; a wide one reads it from the model when it is wanted."""
    weight, bias = found.weight, np.zeros(len(found.weight)) if found.bias is None else found.bias.astype(np.float64)
    about = weight.dtype, None, rectified(facts, found.y)
    if weight.shape[1] <= WIDE:
        return Layer(found.key, found.x, found.y, weight.astype(np.float64), bias, *about)

    def again() -> NDArray[Any]:
        same = fully_connected(facts, node)
        assert isinstance(same, FullyConnected), "it was one before"
        return same.weight.astype(np.float32, copy=False)

    stored = Later(weight.shape, np.dtype(np.float32), again)
    return Layer(found.key, found.x, found.y, _shape_of(weight), bias, *about, stored)


def _shape_of(weight: NDArray[Any]) -> NDArray[Any]:
    """An array of this shape and type that takes no room."""
    return np.broadcast_to(np.zeros((), weight.dtype), weight.shape)


def _level(facts: Facts, rule: str, fits: Fits, found: FullyConnected, form: HeadForm) -> Level:
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
        head = fits.head(form, evidence, further=rough)
        return Fitted(build(head), head.rel_error)

    random = build(unfitted(form, found))
    random = replace(random, fragment=put_off(random.fragment))
    return Level(rule, fits.layer, title, random, fit, settings, parameters, j * d, kind=form.kind)


def _collapsed(facts: Facts, rule: str, first: FullyConnected, whole: Classifier) -> Level:
    """All layers as one on the mean of the map: the most radical form, hardly ever the best one (activations are lost),
    so it is there for those who insist on pooling only."""
    assert first.size is not None, "pooling needs a map"
    (c, h, w), dtype = first.size, first.weight.dtype
    blank = _shape_of(np.empty((whole.outputs, c * h * w), dtype))
    layer = Layer(whole.second, first.x, whole.y, blank, np.zeros(whole.outputs), dtype, linear=False)
    parameters = whole.outputs * c
    title = f"fully connected layers from {c}x{h}x{w} to {whole.outputs} by global average pooling and one layer"
    settings = {"form": "gap", "size": "one layer"}
    details = {"parameters_before": whole.weights, "parameters_after": parameters}

    def build(weight: NDArray[Any], bias: NDArray[Any]) -> Proposal:
        new = Builder(f"{whole.y}/{rule}", facts.names, facts.opset)
        y = gemm(new, global_mean(facts, new, first.x, flat=True), weight.astype(dtype), bias.astype(dtype))
        fragment = new.finish({whole.y: y})
        return Proposal(rule, title, whole.nodes, fragment, "calibrated", settings=settings, details=details)

    def fit(evidence: Evidence, rough: bool) -> Fitted:  # noqa: ARG001  (there is one answer only)
        means = evidence.x.reshape(len(evidence.x), c, -1).mean(2, dtype=np.float64)
        weight, bias, error = heads.one_layer(means, evidence.y)
        return Fitted(build(weight, bias), error)

    random = build(np.full((whole.outputs, c), 1 / c), np.zeros(whole.outputs))
    return Level(rule, layer, title, random, fit, settings, parameters, whole.weights, kind="one layer")


class Fits:
    """Fits of the forms of one layer, of which `largest` is the largest rank. What they have in common is computed
    once for each look at the data, and kept as long as the evidence of it."""

    def __init__(self, layer: Layer, size: tuple[int, int, int] | None, largest: int) -> None:
        self.layer, self.size, self.largest = layer, size, largest
        self._samples: WeakKeyDictionary[Evidence, dict[str, Sample]] = WeakKeyDictionary()

    def head(self, form: HeadForm, evidence: Evidence, *, further: bool = False) -> Head:
        """The form's weights from what was seen of the layer; `further`: other forms will be asked for too."""
        if self.layer.wide:
            return self._wide(form, self._sample(form, evidence), self.largest if further else form.rank)
        weight, bias, moments = self.layer.weight, self.layer.bias, evidence.moments
        if form.rank:
            return heads.low_rank(weight, bias, moments, form.rank, self._channels)
        c, h, w = self._map
        if form.maps:
            return heads.learned_maps(weight, bias, moments, c, form.maps)
        maps = grid_maps((h, w), form.grids)
        return replace(heads.pooled(weight, bias, moments, np.kron(np.eye(c), maps)), inner=maps)

    def _wide(self, form: HeadForm, sample: Sample, largest: int) -> Head:
        if form.rank:
            return wide_heads.low_rank(sample, form.rank, largest)
        c, h, w = self._map
        if form.maps:
            return wide_heads.learned_maps(sample, c, form.maps)
        return wide_heads.pooled(sample, grid_maps((h, w), form.grids))

    def _sample(self, form: HeadForm, evidence: Evidence) -> Sample:
        """What the evidence says, by the prior that suits the form."""
        known = self._samples.setdefault(evidence, {})
        if form.kind not in known:
            make = self._prior if form.rank else Isotropic.of
            known[form.kind] = Sample.of(self.layer.values, evidence.x, evidence.y, make, evidence.seed)
        return known[form.kind]

    def _prior(self, rows: NDArray[Any]) -> Prior:
        return Diagonal.of(rows) if self._channels is None else Separable.of(rows, self._channels)

    @property
    def _channels(self) -> int | None:
        return None if self.size is None else self.size[0]

    @property
    def _map(self) -> tuple[int, int, int]:
        assert self.size is not None, "pooling needs a map"
        return self.size
