"""Several rewrites, one after the other, as one proposal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.apply import apply
from onnxtune.channels.axis import Integers
from onnxtune.channels.flow import Channels
from onnxtune.channels.linear import Linear, Vector
from onnxtune.channels.operators import length
from onnxtune.channels.resized import resize_named
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.later import LARGE, Later
from onnxtune.mapped import array, is_mapped
from onnxtune.model import Model
from onnxtune.proposal import Fragment, Proposal

Weights = tuple[Callable[[], Vector], Vector]
"""What makes the weights of a layer when they are written, and its biases."""


@dataclass(frozen=True)
class State:
    """A graph on its way from `first`. `names`: the tensors of `first` that have another name by now."""

    first: Facts
    facts: Facts
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def taken(self) -> frozenset[str]:
        """Names that new tensors must not have."""
        return self.first.names | self.facts.names

    def _applied(self, facts: Facts, proposals: Sequence[Proposal]) -> Facts:
        """Large weights, old ones and new ones, stay where they are; the new model only describes them."""
        bare, weights = _bare(facts)
        for proposal in proposals:
            weights.update((w.name, w) for w in proposal.fragment.stored if isinstance(w, Later))
        return Facts(apply(bare, proposals, described=True), facts.sizes, facts.ranges, weights)

    def replaced(self, fragments: Sequence[tuple[frozenset[str], Fragment]]) -> State:
        """With regions (keys of nodes, replacement) rewritten; no tensor that stays changes its shape."""
        if not fragments:
            return self
        proposals = [Proposal("", "", keys, fragment) for keys, fragment in fragments]
        return State(self.first, self._applied(self.facts, proposals), self.names)

    def reweighted(self, layers: Sequence[Linear], made: Mapping[str, Weights], label: str) -> State:
        """With new weights and biases of the same shapes; `made`: output of a layer -> those."""
        new = Builder(f"{label}/weights", self.taken, self.facts.opset)
        outputs: dict[str, str] = {}
        for layer in layers:
            x, y = layer.node.input(0), layer.node.outputs[0]
            if y in made:
                outputs[y] = layer.write(new, outputs.get(x, x), *made[y])
        keys = frozenset(n.key for layer in layers if (n := layer.node).outputs[0] in made)
        return self.replaced([(keys, new.finish(outputs))] if keys else [])

    def without(self, channels: Channels, kept: NDArray[np.bool_], label: str) -> State:
        """With only some channels; `channels` is an analysis of this graph before it got new weights."""
        return self.resized(replace(channels, facts=self.facts), kept.astype(np.int64), label)

    def resized(self, channels: Channels, counts: Integers, label: str) -> State:
        """With other numbers of channels, see axis.py. `channels`: an analysis of this graph."""
        if all((counts[axis.ids] == 1).all() for axis in channels.axes.values()):
            return self  # what changes stands in no tensor
        keys, fragment, renamed = resize_named(channels, counts, label, self.taken)
        after = self._applied(channels.facts, [Proposal("", "", keys, fragment)])
        before = {t: self.names.get(t, t) for t in {*self.names, *(renamed.keys() & self.first.names)}}
        names = {t: renamed.get(now, now) for t, now in before.items()}
        return State(self.first, after, names)

    def width(self, tensor: str, dim: int = 1) -> int:
        """How many channels (along `dim`) a tensor of the first graph has now; 0 when it is gone."""
        return length(self.facts, self.names.get(tensor, tensor), dim) or 0

    def difference(self, also: Collection[str]) -> tuple[frozenset[str], Fragment]:
        """What leads from the first graph to this one: the keys to remove and the replacement.

        `also`: keys of nodes that belong to the region though they stay as they are.
        """
        before, after = self.first, self.facts
        same = {n.key for n in after.nodes if n.key in before.by_key and n.proto == before.by_key[n.key].proto}
        kept = same - set(also)
        nodes = tuple(n.proto for n in after.nodes if n.key not in kept)
        used = {i for n in nodes for i in n.input}
        stored = {i.name for i in before.model.proto.graph.initializer}
        new = [i for i in after.model.proto.graph.initializer if i.name in used and i.name not in stored]
        weights = [after.weights.get(i.name, i) for i in new]
        return frozenset(before.by_key.keys() - kept), Fragment(nodes, tuple(weights))


def _bare(facts: Facts) -> tuple[Model, dict[str, Later]]:
    """The model with its large weights described only, and what makes those."""
    weights = dict(facts.weights)
    proto = onnx.ModelProto(ir_version=facts.model.proto.ir_version)
    proto.opset_import.extend(facts.model.proto.opset_import)
    proto.functions.extend(facts.model.proto.functions)
    source, graph = facts.model.proto.graph, proto.graph
    for part in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(graph, part).extend(getattr(source, part))
    for tensor in source.initializer:
        if tensor.name in weights or not (is_mapped(tensor) or tensor.ByteSize() >= LARGE):
            graph.initializer.append(tensor)
            continue
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        weights[tensor.name] = Later(tuple(tensor.dims), dtype, partial(array, tensor), tensor.name)
        graph.initializer.append(weights[tensor.name].described())
    return facts.model.with_proto(proto), weights
