"""A large max pool from small ones. Maxima may be taken in any order and any number of times.

Separable: the maximum over a rectangle is the maximum over rows of the maxima over columns, each axis
with its own kernel, stride and pads: k_h + k_w comparisons instead of k_h k_w.

Chained: at stride 1 a window that reaches b back and e ahead (b + e = k - 1, so the size is kept) is

    pool(b, e) = pool(b2, e2) after pool(b1, e1)    for b = b1 + b2, e = e1 + e2, all >= 0

because the union of [j - b1, j + e1] over j in [i - b2, i + e2] is [i - b, i + e]; at a border both are
cut to the map, and since each inner window holds its own j nothing else is lost. One pool becomes a
chain of small ones (9 = 3 after 3 after 3 after 3). Pools of one input nested in each other (5, 9, 13
of spatial pyramid pooling) become one chain: 5, then 9 = 5 after 5, then 13 = 5 after that.

The pads of a max pool are -infinity and must not be what a window consists of: kernels are larger than
their pads, no dilations, and ceil_mode only at stride 1, where it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.windows import Window, window

RULE = "cascade_max_pool"
Reach = tuple[tuple[int, ...], tuple[int, ...]]
"""How far a window reaches back and ahead, per axis."""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    sources: dict[str, list[tuple[Node, Window]]] = {}
    for node in facts.nodes:
        if node.is_op("MaxPool"):
            found = _eligible(facts, node)
            if not isinstance(found, No):
                sources.setdefault(node.inputs[0], []).append((node, found))
            elif min(node.attribute("kernel_shape")) >= settings["kernel"]:
                yield Decline(RULE, node.key, str(found))
    for pools in sources.values():
        nested = _nested([(n, w) for n, w in pools if _keeps_size(w)])
        if len(nested) > 1 and max(max(w.kernel) for _, w in nested) >= settings["kernel"]:
            yield _cascade(facts, nested, separable=False)
            yield _cascade(facts, nested, separable=True)
            pools = [(n, w) for n, w in pools if all(n is not m for m, _ in nested)]
        for node, found in pools:
            if min(found.kernel) >= settings["kernel"]:
                yield _separable(facts, node, found)
                if _keeps_size(found):
                    yield _chain(facts, node, found, settings["step"])


def _eligible(facts: Facts, node: Node) -> Window | No:
    found = window(facts, node)
    if isinstance(found, str):
        return No(found)
    if len(found.kernel) != 2:
        return No(f"the map has {len(found.kernel)} axes, not 2")
    if len(node.outputs) > 1 and node.outputs[1]:
        return No("the Indices output is used")
    source = facts.producer(node.inputs[0])
    if source is not None and source.is_op("Pad"):
        return No("a Pad stands before it, which ONNX Runtime would fuse into a window smaller than its pads")
    if node.attribute("ceil_mode", 0) and any(s != 1 for s in found.strides):
        return No("ceil_mode = 1 with a stride")
    return found if found.always_meets_input else No("dilations, or a window that could hold nothing but padding")


def _keeps_size(found: Window) -> bool:
    reach = zip(found.kernel, found.begin, found.end, strict=True)
    return all(s == 1 for s in found.strides) and all(b + e == k - 1 for k, b, e in reach)


def _nested(pools: Sequence[tuple[Node, Window]]) -> list[tuple[Node, Window]]:
    """The pools, smallest first, each of which contains the one before; others are left out."""
    found: list[tuple[Node, Window]] = []
    for node, own in sorted(pools, key=lambda p: sum(p[1].pads)):
        if not found or all(a <= b for a, b in zip(found[-1][1].pads, own.pads, strict=True)):
            found.append((node, own))
    return found


def _cascade(facts: Facts, pools: Sequence[tuple[Node, Window]], *, separable: bool) -> Proposal:
    new = Builder(f"{pools[0][0].key}/{RULE}", facts.names, facts.opset)
    y, done, outputs = pools[0][0].inputs[0], [0, 0, 0, 0], dict[str, str]()
    for node, own in pools:
        back_top, back_left, ahead_bottom, ahead_right = (b - a for a, b in zip(done, own.pads, strict=True))
        y = _pool(new, y, ((back_top, back_left), (ahead_bottom, ahead_right)), separable=separable)
        outputs[node.outputs[0]], done = y, own.pads
    return _proposal("separable cascade" if separable else "cascade", pools, new, outputs)


def _chain(facts: Facts, node: Node, own: Window, step: int) -> Proposal:
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    y, left = node.inputs[0], own.pads
    while any(left):
        now = [min(a, max(1, step // 2)) for a in left]
        y = _pool(new, y, ((now[0], now[1]), (now[2], now[3])), separable=False)
        left = [a - b for a, b in zip(left, now, strict=True)]
    return _proposal("chain", [(node, own)], new, {node.outputs[0]: y})


def _separable(facts: Facts, node: Node, own: Window) -> Proposal:
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    (kh, kw), (sh, sw), (top, left), (bottom, right) = own.kernel, own.strides, own.begin, own.end
    columns = new.MaxPool(node.inputs[0], kernel_shape=[kh, 1], strides=[sh, 1], pads=[top, 0, bottom, 0])
    y = new.MaxPool(columns, kernel_shape=[1, kw], strides=[1, sw], pads=[0, left, 0, right])
    return _proposal("separable", [(node, own)], new, {node.outputs[0]: y})


def _pool(new: Builder, x: str, reach: Reach, *, separable: bool) -> str:
    """A stride-1 pool that keeps the size, as one node or one per axis; x itself when it reaches nowhere."""
    (top, left), (bottom, right) = reach
    kernel = [top + bottom + 1, left + right + 1]
    if kernel == [1, 1]:
        return x
    if not separable or 1 in kernel:
        return str(new.MaxPool(x, kernel_shape=kernel, pads=[top, left, bottom, right]))
    columns = new.MaxPool(x, kernel_shape=[kernel[0], 1], pads=[top, 0, bottom, 0])
    return str(new.MaxPool(columns, kernel_shape=[1, kernel[1]], pads=[0, left, 0, right]))


def _proposal(form: str, pools: Sequence[tuple[Node, Window]], new: Builder, outputs: Mapping[str, str]) -> Proposal:
    kernels = ", ".join("x".join(map(str, w.kernel)) for _, w in pools)
    fragment = new.finish(outputs)
    title = f"MaxPool {kernels} -> {len(fragment.nodes)} MaxPool ({form})"
    return Proposal(RULE, title, frozenset(n.key for n, _ in pools), fragment, settings={"form": form})
