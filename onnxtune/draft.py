"""A graph while rewrites are spliced into it: its nodes with an index of who makes and who reads what.

Splicing one rewrite costs as much as the rewrite is large, however large the graph is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

import onnx
from onnx import NodeProto

from onnxtune.facts import Node
from onnxtune.later import Later
from onnxtune.proposal import Proposal

Weight = onnx.TensorProto | Later
Rank = tuple[int, ...]
"""Where a node stands. What takes the place of the node with rank (7,) gets the ranks (7, 0), (7, 1) and so on."""


class ApplyError(Exception):
    """A proposal does not fit the model it is applied to: it removes, reads or makes what it must not."""


class Draft:
    """The nodes of a graph by key, in their order; `splice` changes it. `weights`: gets those of the fragments, too."""

    def __init__(self, nodes: Mapping[str, NodeProto], outputs: Collection[str], weights: dict[str, Weight]) -> None:
        self._nodes: dict[str, NodeProto] = {}
        self._ranks: dict[str, Rank] = {}
        self._outputs = frozenset(outputs)
        self._weights = weights
        self._made: Counter[str] = Counter()
        self._readers: defaultdict[str, set[str]] = defaultdict(set)
        self._captured: Counter[str] = Counter()
        self._gone = _Aliases()
        self._end = 0
        for key, node in nodes.items():
            self._append(key, node)

    def __contains__(self, key: str) -> bool:
        return key in self._nodes

    def nodes(self) -> dict[str, NodeProto]:
        """All nodes by key, in order."""
        return {key: self._nodes[key] for key in sorted(self._nodes, key=self._ranks.__getitem__)}

    def splice(self, proposal: Proposal) -> None:
        """Put the fragment where the first removed node stood. Raises ApplyError when a name is made twice."""
        fragment = proposal.fragment
        place = min(self._ranks[key] for key in proposal.removes)
        for key in proposal.removes:
            self._drop(key)
        tensors = fragment.tensors
        self._gone.forget(tensors)
        twice = [t for t in tensors if t and (self._made[t] or (t in self._weights and self._readers.get(t)))]
        if twice:
            raise ApplyError(f"{proposal.rule}: '{min(twice)}' exists already")
        for i, proto in enumerate(fragment.nodes):
            node = renamed(proto, self._gone.now)
            self._put(Node(node, 0).key, node, (*place, i))
        aliases = {old: self._gone.now.get(new, new) for old, new in fragment.aliases.items()}
        self._rewire(aliases)
        self._gone.add(aliases)
        self._weights.update((w.name, w) for w in fragment.stored)

    def _rewire(self, aliases: dict[str, str]) -> None:
        """Readers of an alias read its source; graph outputs and captured names need a real node.

        What got a real node is taken out of `aliases`.
        """
        for old in [a for a in aliases if a in self._outputs or self._captured[a]]:
            source = aliases.pop(old)
            self._append(old, onnx.helper.make_node("Identity", [source], [old], name=old + "/identity"))
        for key in {key for old in aliases for key in self._readers.get(old, ())}:
            self._put(key, renamed(self._nodes[key], aliases), self._ranks[key])

    def _append(self, key: str, node: NodeProto) -> None:
        self._put(key, node, (self._end,))
        self._end += 1

    def _put(self, key: str, node: NodeProto, rank: Rank) -> None:
        if key in self._nodes:
            self._drop(key)
        self._nodes[key], self._ranks[key] = node, rank
        self._made.update(node.output)
        self._captured.update(Node(node, 0).captured)
        for name in node.input:
            self._readers[name].add(key)

    def _drop(self, key: str) -> None:
        node = self._nodes.pop(key)
        del self._ranks[key]
        self._made.subtract(node.output)
        self._captured.subtract(Node(node, 0).captured)
        for name in node.input:
            self._readers[name].discard(key)


class _Aliases:
    """`now`: tensors that aliases of earlier rewrites removed, and those in their place. A later rewrite may have been
    made when they were still there."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self._replaced: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, aliases: Mapping[str, str]) -> None:
        moved = {old: new for place, new in aliases.items() for old in self._replaced.get(place, ())}
        for old, new in (moved | dict(aliases)).items():
            self.forget((old,))
            self.now[old] = new
            self._replaced[new].add(old)

    def forget(self, tensors: Iterable[str]) -> None:
        """They are made again."""
        for name in tensors:
            new = self.now.pop(name, None)
            if new is not None:
                self._replaced[new].discard(name)


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """The node with inputs renamed; the same object when it reads none of the names."""
    if not any(i in names for i in node.input):
        return node
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.ClearField("input")
    changed.input.extend(names.get(i, i) for i in node.input)
    return changed
