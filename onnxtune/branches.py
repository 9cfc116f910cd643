"""Branches of a graph as stencils: a tensor as an affine map of another one some nodes before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.linear import argument, channels_of, makers, map_size, per_channel, step, value
from onnxtune.stencil import Stencil, composed, identity, summed

DEEPEST = 12
"""Linear steps of a branch that are followed back."""


@dataclass(frozen=True)
class Base:
    """The tensor where branches begin."""

    tensor: str
    channels: int
    rank: int


def base_of(facts: Facts, tensor: str) -> Base | None:
    """None when the tensor's channels are not known, or it has no map."""
    channels, rank = channels_of(facts, tensor), facts.rank(tensor)
    return None if channels is None or rank is None or rank < 3 else Base(tensor, channels, rank)


Term = tuple[str, int]
"""A tensor in a sum, with its sign."""


def is_sum(facts: Facts, node: Node) -> bool:
    """An Add, Sum or Sub of at least two tensors that are not constant."""
    return node.is_op("Add", "Sum", "Sub") and len(variables(facts, node)) > 1


def terms(node: Node, sign: int = 1) -> list[Term]:
    """What an Add, Sum or Sub adds up."""
    return [(t, -sign if node.is_op("Sub") and i == 1 else sign) for i, t in enumerate(node.inputs)]


def variables(facts: Facts, node: Node) -> list[str]:
    """The inputs that are not constant."""
    return [i for i in node.inputs if value(facts, i) is None]


def sources(facts: Facts, node: Node) -> list[str]:
    """The tensors of which the node is an affine map by the look of it; empty when it is none."""
    single = argument(facts, node)
    return [single] if single is not None else variables(facts, node) if is_sum(facts, node) else []


def reach(facts: Facts, tensor: str, depth: int = 0) -> list[str]:
    """Tensors of which this one may be an affine map, itself first, by nodes that nobody else reads."""
    node = facts.producer(tensor)
    if node is None or depth == DEEPEST or facts.is_output(tensor) or len(facts.consumers(tensor)) > 1:
        return [tensor]
    parts = [reach(facts, s, depth + 1) for s in sources(facts, node)]
    return [tensor, *(t for t in (parts[0] if parts else []) if all(t in p for p in parts[1:]))]


def between(facts: Facts, tensor: str, base: str) -> list[Node]:
    """The nodes that make the tensor from the base (which is in its reach), makers of their constants included."""
    node = facts.producer(tensor)
    if tensor == base or node is None:
        return []
    before = (n for s in sources(facts, node) for n in between(facts, s, base))
    return [node, *makers(facts, node), *before]


def stencil(facts: Facts, tensor: str, base: Base) -> Stencil | str:
    """The tensor as a map of the base, or in words why it is none."""
    node = facts.producer(tensor)
    if tensor == base.tensor or node is None:
        return identity(base.channels, base.rank - 2)
    source = argument(facts, node)
    if source is None:
        return sum_of(facts, terms(node), base)
    before = stencil(facts, source, base)
    own = before if isinstance(before, str) else step(facts, node, before.out_channels, base.rank)
    return own if isinstance(own, str) or isinstance(before, str) else composed(before, own)


def sum_of(facts: Facts, parts: Sequence[Term], base: Base) -> Stencil | str:
    """The sum of maps of the base and of constants per channel."""
    moving, none = [(t, sign) for t, sign in parts if value(facts, t) is None], np.zeros(1)
    maps = [(stencil(facts, t, base), sign) for t, sign in moving]
    broken = next((m for m, _ in maps if isinstance(m, str)), None)
    if broken is not None:
        return broken
    sizes = {map_size(facts, t) for t, _ in moving}
    signed = [m.scaled(np.full(1, float(sign)), none) for m, sign in maps if isinstance(m, Stencil)]
    whole = summed(signed, same_size=len(sizes) == 1 and None not in sizes)
    for constant, sign in ((v, sign) for t, sign in parts if (v := value(facts, t)) is not None):
        vector = per_channel(constant, base.rank)
        if isinstance(whole, str):
            break
        if vector is None or vector.size not in (1, whole.out_channels):
            return "a constant that is added is not one number per channel"
        whole = whole.scaled(np.ones(1), sign * vector)
    return whole
