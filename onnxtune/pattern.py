"""Patterns in ONNX's own text syntax, and the matcher.

A pattern is the text of an ONNX function, for example

    fold (x, w, b, scale, bias, mean, var) => (z) {
        y = Conv (x, w, b)
        z = BatchNormalization (y, scale, bias, mean, var)
    }

parsed by `onnx.parser`. Beside it a rule's TOML says which inputs must be `constants`, which may be
absent (`optional`), which nodes may be missing (`optional_nodes`, named by their output), and what a
made-up operator name stands for (`any_of`). The matcher proves that tensors inside the region are
seen by nobody else; rules do not have to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.patterntext import Pattern

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "Sum", "And", "Or", "Xor", "Equal", "Mean"})


@dataclass(frozen=True, eq=False)
class Match:
    """Where a pattern fits. `match["x"]` is the graph's tensor for the pattern's `x` ("" when absent);
    `match.node("y")` the node that makes `y` (None when an optional node is missing)."""

    facts: Facts
    pattern: Pattern
    tensors: Mapping[str, str]
    nodes: Mapping[str, Node]

    def __getitem__(self, name: str) -> str:
        return self.tensors.get(name, "")

    def node(self, name: str) -> Node | None:
        return self.nodes.get(name)

    def __getattr__(self, name: str) -> Node:
        """`match.y`: the node that makes `y`, for nodes that are not optional."""
        try:
            return self.__dict__["nodes"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of a pattern input that is constant, None when absent or not constant."""
        tensor = self[name]
        return self.facts.constant(tensor) if tensor else None

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(n.key for n in self.nodes.values())

    @property
    def place(self) -> str:
        return next(self[o] for o in self.pattern.outputs)


def find(facts: Facts, pattern: Pattern) -> Iterator[Match | tuple[str, str]]:
    """All places where the pattern's structure fits: a Match, or (node, reason) for a near miss.

    A near miss has the right operators in the right places, but a tensor inside is seen from
    outside or an input that must be constant is not.
    """
    seen: set[frozenset[str]] = set()
    for node in facts.nodes:
        near: tuple[str, str] | None = None
        for match in _at(facts, pattern, node):
            if match.keys in seen:
                continue
            problem = _problem(match)
            if problem is None:
                seen.add(match.keys)
                yield match
                break
            near = near or (match.place, problem)
        else:
            if near:
                yield near


@dataclass(frozen=True)
class _State:
    """What is bound so far. `skipped`: optional nodes that are missing, and the tensor in their result's place."""

    tensors: Mapping[str, str]
    nodes: Mapping[str, Node]
    skipped: Mapping[str, str]

    def bind(self, name: str, tensor: str) -> _State | None:
        known = self.tensors.get(name)
        if known is not None:
            return self if known == tensor else None
        return replace(self, tensors={**self.tensors, name: tensor})


def _at(facts: Facts, pattern: Pattern, node: Node) -> Iterator[Match]:
    """All ways in which the structure fits with `node` as maker of the pattern's first output."""
    root = pattern.makers[pattern.outputs[0]]
    for state in _match_node(facts, pattern, root, node, _State({}, {}, {})):
        yield from _complete(facts, pattern, state)


def _complete(facts: Facts, pattern: Pattern, state: _State) -> Iterator[Match]:
    """Bind the remaining roots (patterns with several outputs) to any nodes that fit."""
    open_roots = [pattern.makers[o] for o in pattern.outputs if o not in state.tensors]
    if not open_roots:
        yield Match(facts, pattern, state.tensors, state.nodes)
        return
    for node in facts.nodes:
        for extended in _match_node(facts, pattern, open_roots[0], node, state):
            yield from _complete(facts, pattern, extended)


def _match_node(facts: Facts, pattern: Pattern, wanted: Node, node: Node, state: _State) -> Iterator[_State]:
    known = state.nodes.get(wanted.outputs[0])
    if known is not None:
        if known is node:
            yield state
        return
    if any(n is node for n in state.nodes.values()) or not _same_operator(facts, pattern, wanted, node):
        return
    if not all(node.outputs[: len(wanted.outputs)]) or len(node.outputs) < len(wanted.outputs):
        return
    bound: _State | None = state
    for name, tensor in zip(wanted.outputs, node.outputs, strict=False):
        bound = bound.bind(name, tensor) if bound else None
    if bound is None:
        return
    bound = replace(bound, nodes={**bound.nodes, wanted.outputs[0]: node})
    for inputs in _orders(wanted, node):
        yield from _match_inputs(facts, pattern, wanted.inputs, inputs, bound)


def _orders(wanted: Node, node: Node) -> Iterator[Sequence[str]]:
    if not node.is_op(*COMMUTATIVE):
        yield node.inputs
    elif len(node.inputs) == len(wanted.inputs):
        yield from itertools.permutations(node.inputs)


def _match_inputs(
    facts: Facts, pattern: Pattern, wanted: Sequence[str], inputs: Sequence[str], state: _State
) -> Iterator[_State]:
    if not wanted:
        if not any(inputs):
            yield state
        return
    name, rest = wanted[0], wanted[1:]
    tensor = inputs[0] if inputs else ""
    for bound in _match_tensor(facts, pattern, name, tensor, state):
        yield from _match_inputs(facts, pattern, rest, inputs[1:], bound)


def _match_tensor(facts: Facts, pattern: Pattern, name: str, tensor: str, state: _State) -> Iterator[_State]:
    maker = pattern.makers.get(name)
    if not tensor:
        if name in pattern.optional:
            yield state
        return
    if maker is None:
        bound = state.bind(name, tensor)
        if bound:
            yield bound
        return
    producer = facts.producer(tensor)
    if producer is not None and name not in state.skipped:
        for found in _match_node(facts, pattern, maker, producer, state):
            if found.tensors.get(name) == tensor:
                yield found
    if name in pattern.optional_nodes and name not in state.tensors and state.skipped.get(name, tensor) == tensor:
        without = replace(state, skipped={**state.skipped, name: tensor})
        yield from _match_tensor(facts, pattern, maker.inputs[0], tensor, without)


def _same_operator(facts: Facts, pattern: Pattern, wanted: Node, node: Node) -> bool:
    alternatives = pattern.any_of.get(wanted.op_type, (wanted.op_type,))
    if node.op_type not in alternatives or node.domain != wanted.domain:
        return False
    return all(_attribute(facts, node, k) == v for k, v in wanted.attributes.items())


def _attribute(facts: Facts, node: Node, name: str) -> Any:
    """The attribute's value, or the default that the operator has in the model's opset."""
    if name in node.attributes:
        return node.attributes[name]
    if node.domain or not onnx.defs.has(node.op_type, facts.opset, ""):
        return None
    declared = onnx.defs.get_schema(node.op_type, facts.opset, "").attributes.get(name)
    if declared is None or not declared.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    return value.decode() if isinstance(value, bytes) else value


def _problem(match: Match) -> str | None:
    facts, pattern = match.facts, match.pattern
    for name in pattern.constants:
        tensor = match[name]
        if tensor and not facts.is_constant(tensor):
            fed = tensor in facts.inputs and facts.producer(tensor) is None
            return f"'{tensor}' is a graph input, not a constant" if fed else f"'{tensor}' is not constant"
    for node in match.nodes.values():
        for tensor in node.outputs:
            visible = any(match[o] == tensor for o in pattern.outputs)
            reason = None if visible or not tensor else facts.why_not_private(tensor, match.keys)
            if reason:
                return reason
    made = {o for n in match.nodes.values() for o in n.outputs}
    inside = next((match[i] for i in pattern.function.input if match[i] in made), None)
    return f"'{inside}' is made and read inside the region" if inside else _entangled(match)


def _entangled(match: Match) -> str | None:
    """Why the region cannot be computed in one piece: it reads what depends on its own results."""
    facts, last = match.facts, max(n.index for n in match.nodes.values())
    wave = [c for n in match.nodes.values() for o in n.outputs for c in facts.consumers(o) if c.key not in match.keys]
    seen: set[str] = set()
    while wave:
        node = wave.pop()
        if node.index > last or node.key in seen:
            continue
        seen.add(node.key)
        for tensor in node.outputs:
            for reader in facts.consumers(tensor):
                if reader.key in match.keys:
                    return f"'{tensor}', which it reads, depends on what it makes"
                wave.append(reader)
    return None
