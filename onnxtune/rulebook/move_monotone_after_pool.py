"""A function that never decreases commutes with a maximum.

    max_r f(x[r]) = f(max_r x[r])        for f with a <= b => f(a) <= f(b), per channel the same for all pixels

The pool's padding never wins, before f as after it, as long as every window holds at least one pixel: else
it would be f(-infinity) instead of -infinity. Equal values are no trouble, for only the value is used, not
the place where it was found (Indices). Several such functions in a row are moved together, and the last of
them alone, since runtimes compute some activations at no cost in the convolution before: time decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune.costs import shrinks
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.monotone import source_of
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.windows import every_window_meets_input

RULE = "move_monotone_after_pool"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for pool in facts.nodes:
        if not pool.is_op("MaxPool", "GlobalMaxPool") or not shrinks(facts, pool):
            continue
        chain, reason = _chain(facts, pool)
        problem = _problem(facts, pool) if chain else reason
        if problem:
            yield Decline(RULE, pool.key, problem)
        elif chain:
            yield _proposal(facts, pool, chain)
            if len(chain) > 1:
                yield _proposal(facts, pool, chain[-1:])


def _chain(facts: Facts, pool: Node) -> tuple[list[Node], str]:
    """The functions before the pool, first one first; why there is none where there nearly is one."""
    chain: list[Node] = []
    tensor, reader = pool.inputs[0], pool
    while (node := facts.producer(tensor)) is not None:
        source = source_of(facts, node)
        if isinstance(source, No):
            return chain, str(source)
        seen = facts.why_not_private(tensor, {reader.key})
        if source is None or seen:
            return chain, seen or "" if source else ""
        chain.insert(0, node)
        tensor, reader = source, node
    return chain, ""


def _problem(facts: Facts, pool: Node) -> str:
    if pool.op_type == "GlobalMaxPool":
        return ""
    if len(pool.outputs) > 1 and pool.outputs[1]:
        return "the pool's Indices output is used"
    return "" if every_window_meets_input(facts, pool) else "a window of the pool could hold nothing but padding"


def _proposal(facts: Facts, pool: Node, chain: Sequence[Node]) -> Proposal:
    new = Builder(f"{pool.key}/{RULE}", facts.names, facts.opset)
    source = source_of(facts, chain[0])
    assert isinstance(source, str), "every node of the chain is monotone"
    y = new.copy(pool.proto, [source])[0]
    before = source
    for node in chain:
        y = new.copy(node.proto, [y if i == before else i for i in node.inputs])[0]
        before = node.outputs[0]
    names = " + ".join(n.op_type for n in chain)
    title = f"{names} + {pool.op_type} -> {pool.op_type} + {names}"
    keys = frozenset(n.key for n in (*chain, pool))
    return Proposal(RULE, title, keys, new.finish({pool.outputs[0]: y}), settings={"moved": len(chain)})
