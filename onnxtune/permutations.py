"""Nodes that put channels in another order.

A permutation p is an array with shuffled[j] = x[p[j]] along axis 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.rule import No

Order = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shuffle:
    """y[:, j] = x[:, order[j]]"""

    nodes: tuple[Node, ...]
    x: str
    order: Order

    @property
    def y(self) -> str:
        return self.nodes[-1].outputs[0]


def shuffle(facts: Facts, node: Node) -> Shuffle | No | None:
    """The shuffle that ends in this node; a No where it is nearly one."""
    if node.is_op("Gather"):
        return _gathered(facts, node)
    return _transposed(facts, node) if node.is_op("Reshape") else None


def _gathered(facts: Facts, node: Node) -> Shuffle | No | None:
    rank, channels = facts.rank(node.input(0)), facts.channels(node.input(0))
    if rank is None or rank < 2 or channels is None or node.attribute("axis", 0) not in (1, 1 - rank):
        return None
    indices = facts.constant(node.input(1))
    if indices is None:
        return No(f"the indices '{node.input(1)}' are not constant")
    order = np.where(indices < 0, indices + channels, indices).astype(np.int64)
    if order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(channels)):
        return No("the indices of the Gather are not a permutation of the channels")
    return Shuffle((node,), node.input(0), order)


def _transposed(facts: Facts, last: Node) -> Shuffle | No | None:
    turn = facts.producer(last.input(0))
    first = facts.producer(turn.input(0)) if turn is not None and turn.is_op("Transpose") else None
    if turn is None or first is None or not first.is_op("Reshape"):
        return None
    x, shape = first.input(0), facts.shape(first.input(0))
    perm, channels = turn.attribute("perm"), facts.channels(x)
    if shape is None or perm is None or channels is None or len(perm) <= len(shape):
        return None
    parts = len(perm) - len(shape) + 1
    if perm[0] != 0 or perm[parts + 1 :] != list(range(parts + 1, len(perm))):
        return None
    targets = [facts.constant(n.input(1)) for n in (first, last)]
    if targets[0] is None or targets[1] is None:
        return No("the shape given to Reshape is computed, not constant")
    split, joined = (t.tolist() for t in targets if t is not None)
    if len(split) != len(perm) or len(joined) != len(shape) or split.count(-1) > 1:
        return None
    named = [d if d != -1 else channels // max(1, -prod(split[1 : parts + 1])) for d in split[1 : parts + 1]]
    if min(named) < 1 or prod(named) != channels:
        return None
    if not (_keeps(first, split[:1] + split[parts + 1 :], shape) and _keeps(last, joined, shape)):
        return None
    hidden = [facts.why_not_private(a.outputs[0], {b.key}) for a, b in ((first, turn), (turn, last))]
    if reason := next((h for h in hidden if h), None):
        return No(reason)
    order = np.arange(channels).reshape(named).transpose([a - 1 for a in perm[1 : parts + 1]]).ravel()
    return Shuffle((first, turn, last), x, order)


def _keeps(node: Node, target: Sequence[int], shape: Sequence[Any]) -> bool:
    """Do batch and map (and channels, when named) stay as they are? One size may be left to be computed."""
    kept = [shape[0], *shape[2:]] if len(target) < len(shape) else list(shape)
    copied = not node.attribute("allowzero", 0)
    same = [t == s or (i == 0 and t == 0 and copied) for i, (t, s) in enumerate(zip(target, kept, strict=True))]
    return all(ok or t == -1 for ok, t in zip(same, target, strict=True)) and list(target).count(-1) <= 1
