"""What a rule says about a place in the graph: a Proposal, or a Decline with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from onnxtune.later import Later
from onnxtune.rule import Safety


@dataclass(frozen=True)
class Decline:
    """A rule nearly matched at `node` and says why it did not; the report shows it."""

    rule: str
    node: str
    reason: str


@dataclass(frozen=True, eq=False)
class Fragment:
    """Replacement nodes with their new weights.

    `aliases` maps a removed tensor to the one that takes its place (a no-op was removed). `stored`: the
    weights, large ones perhaps still to be computed.
    """

    nodes: tuple[onnx.NodeProto, ...]
    stored: tuple[onnx.TensorProto | Later, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def initializers(self) -> tuple[onnx.TensorProto, ...]:
        """The weights with their values."""
        return tuple(w.proto() if isinstance(w, Later) else w for w in self.stored)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights; none is computed for it."""
        described = (w.described() if isinstance(w, Later) else w for w in self.stored)
        sizes = ((math.prod(w.dims), onnx.helper.tensor_dtype_to_np_dtype(w.data_type)) for w in described)
        return sum(count * dtype.itemsize for count, dtype in sizes)

    def settled(self, kept: Callable[[onnx.TensorProto], onnx.TensorProto]) -> Fragment:
        """The same with all weights computed, and put where `kept` puts them: it refers to no other model any more."""
        return replace(self, stored=tuple(kept(w.proto() if isinstance(w, Later) else w) for w in self.stored))

    def stowed(self, kept: Callable[[onnx.TensorProto], onnx.TensorProto]) -> Fragment:
        """The same with the weights that have been computed put where `kept` puts them."""
        return replace(self, stored=tuple(w if isinstance(w, Later) else kept(w) for w in self.stored))

    @property
    def keys(self) -> frozenset[str]:
        """Keys (first named outputs) of the nodes that the fragment brings."""
        return frozenset(next(o for o in n.output if o) for n in self.nodes)

    @property
    def tensors(self) -> frozenset[str]:
        """Names of all tensors that the fragment makes."""
        made = {o for n in self.nodes for o in n.output if o}
        return frozenset(made | {i.name for i in self.stored})


@dataclass(frozen=True, eq=False)
class Proposal:
    """One rewrite of one region: the nodes with the keys `removes` give way to `fragment`.

    All tensors of the region that are visible outside keep their names. `enabling`: worth doing
    only where it saves time or lets another rule fire. `title` says in a few words what changes.
    """

    rule: str
    title: str
    removes: frozenset[str]
    fragment: Fragment
    safety: Safety = "exact"
    enabling: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """Where it is, for people: the region's first node in name order."""
        return min(self.removes)

    @property
    def reads(self) -> frozenset[str]:
        """Tensors that the replacement takes from outside itself."""
        used = {i for n in self.fragment.nodes for i in n.input if i} | set(self.fragment.aliases.values())
        return frozenset(used) - self.fragment.tensors


@dataclass(frozen=True, eq=False)
class ModelProposal:
    """A rewrite of the whole model, as foreign simplifiers and plug-ins make it."""

    rule: str
    title: str
    safety: Safety = "exact"
    enabling: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def overlap(first: Proposal, second: Proposal) -> bool:
    """Do two proposals rewrite a common node?"""
    return not first.removes.isdisjoint(second.removes)
