"""What the checks look at: a model with its facts, what it costs, and what rules would propose on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.catalog import own_rule
from onnxtune.channels.cost import DEPTHWISE, DEPTHWISE_BLOCKED, SLOWNESS, UNALIGNED, Target, rounded
from onnxtune.costs import macs
from onnxtune.facts import Facts, Node
from onnxtune.model import tensor_bytes
from onnxtune.proposal import Proposal
from onnxtune.propose import Said, propose

Energies = Mapping[str, tuple[float, float]]
"""Tensor -> mean and mean square of its values on the user's samples."""


@dataclass(frozen=True, eq=False)
class Scene:
    """`provider`: "cpu" or "cuda", whose kernels costs are estimated for. `seen`: what the user's samples did to
    the tensors that checks ask about (None: there are no samples). `assumed`: inputs whose height and width are open,
    so that sizes are only a guess."""

    facts: Facts
    provider: str = "cpu"
    seen: Energies | None = None
    assumed: frozenset[str] = frozenset()
    _said: dict[str, tuple[Said, ...]] = field(default_factory=dict)

    def said(self, rule: str) -> tuple[Said, ...]:
        """Everything that one of our exact rules proposes and declines on this model."""
        if rule not in self._said:
            found = own_rule(rule)
            settings = {rule: {"provider": self.provider}} if "provider" in found.card.settings else {}
            self._said[rule] = tuple(propose(self.facts, [found], settings))
        return self._said[rule]

    def proposals(self, rule: str) -> tuple[Proposal, ...]:
        return tuple(s for s in self.said(rule) if isinstance(s, Proposal))

    # --- costs ---------------------------------------------------------------------------------

    @cached_property
    def macs(self) -> Mapping[str, int]:
        """Multiply-accumulates of each node that has any, by its key."""
        counts = ((n.key, macs(self.facts, n)) for n in self.facts.nodes)
        return {key: count for key, count in counts if count}

    @cached_property
    def total_macs(self) -> int:
        return sum(self.macs.values())

    def share(self, nodes: Iterable[Node]) -> float:
        """Share of the model's multiply-accumulates that these nodes have, from 0 to 1."""
        return sum(self.macs.get(n.key, 0) for n in nodes) / max(self.total_macs, 1)

    @cached_property
    def cost(self) -> float:
        """Cost of the whole model in the units of `layer_cost`."""
        convolutions = {c.key: layer_cost(self, c, *self.widths(c)[:2]) for c in self.convolutions}
        return sum(convolutions.get(key, count) for key, count in self.macs.items())

    @cached_property
    def weight_bytes(self) -> int:
        return tensor_bytes(self.facts.model)

    def tensor_bytes(self, tensor: str) -> int:
        """Bytes of a tensor at the measured sizes; 0 when unknown."""
        size, dtype = self.facts.size(tensor), self.facts.dtype(tensor)
        return 0 if size is None or dtype is None else math.prod(size) * dtype.itemsize

    @cached_property
    def written_bytes(self) -> int:
        """Bytes that all nodes write in one inference."""
        return sum(self.tensor_bytes(o) for n in self.facts.nodes if not n.is_op("Constant") for o in n.outputs if o)

    # --- nodes ---------------------------------------------------------------------------------

    @cached_property
    def convolutions(self) -> tuple[Node, ...]:
        """2-D convolutions whose weights' shape is known."""
        found = (n for n in self.facts.nodes if n.is_op("Conv"))
        return tuple(n for n in found if len(self.facts.size(n.input(1)) or ()) == 4)

    def kernel(self, conv: Node) -> tuple[int, int]:
        size = self.facts.size(conv.input(1))
        assert size is not None, "convolutions have weights of known shape"
        return size[2], size[3]

    def widths(self, conv: Node) -> tuple[int, int, int]:
        """(C_in, C_out, groups) of a convolution."""
        size = self.facts.size(conv.input(1))
        assert size is not None, "convolutions have weights of known shape"
        group = int(conv.attribute("group", 1))
        return size[1] * group, size[0], group

    def map_size(self, tensor: str) -> tuple[int, int] | None:
        """Height and width of a tensor of four axes at the measured sizes."""
        size = self.facts.size(tensor)
        return (size[2], size[3]) if size is not None and len(size) == 4 else None

    def pads(self, node: Node) -> tuple[int, int, int, int] | None:
        """Top, left, bottom, right of a 2-D convolution or pool; None when auto_pad leaves them to the runtime."""
        auto = node.attribute("auto_pad", "NOTSET")
        if auto == "VALID":
            return 0, 0, 0, 0
        if auto != "NOTSET":
            return None
        pads = list(node.attribute("pads", [0, 0, 0, 0]))
        return (pads[0], pads[1], pads[2], pads[3]) if len(pads) == 4 else None

    def strides(self, node: Node) -> tuple[int, int]:
        strides = list(node.attribute("strides", [1, 1]))
        return (strides[0], strides[1]) if len(strides) == 2 else (strides[0], 1)

    def weight(self, node: Node) -> NDArray[Any] | None:
        """The constant weights of a layer as stored; None when they are not constant."""
        return self.facts.constant(node.input(1)) if node.input(1) else None


def layer_cost(scene: Scene, conv: Node, into: int, out: int) -> float:
    """Cost of a convolution with these channels, in multiply-accumulates at full speed (`channels.cost`).

    On the CPU for float32; elsewhere the multiply-accumulates, with what misaligned channels cost tensor cores.
    """
    was_into, was_out, group = scene.widths(conv)
    depthwise = group > 1 and group == was_into == was_out
    unit = scene.macs.get(conv.key, 0) / (was_out * (1 if depthwise else was_into))
    pairs = out if depthwise else into * out
    dtype = scene.facts.dtype(conv.input(0))
    target = Target.of(scene.provider)
    if target.provider == "cuda":
        step = target.multiple(dtype == np.float16) * (1 if depthwise else group)
        return unit * pairs * (1.0 if into % step == out % step == 0 else UNALIGNED)
    block = target.block
    if not block or dtype != np.float32:
        return unit * pairs
    if depthwise:
        blocked = out % 4 == 0
        return unit * (DEPTHWISE_BLOCKED * rounded(out, block) if blocked else DEPTHWISE * out)
    if group == 1 and (into < block or into % 4 == 0):
        return unit * (into if into < block else rounded(into, block)) * rounded(out, block)
    return unit * pairs * SLOWNESS[0][0 if max(scene.kernel(conv)) > 1 else 1]


def row_norms(weight: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean norm of each output channel's weights. weight: (C_out, ...)."""
    flat = weight.reshape(len(weight), -1)
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", flat, flat, dtype=np.float64))
    return norms
