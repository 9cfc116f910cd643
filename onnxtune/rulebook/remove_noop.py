"""Nodes that compute y = x, whatever x is.

Each entry of NOOPS proves it for one kind of node from its attributes, its constant inputs and the
shape of x, for every size that the model declares; a dimension counts as known when it is a number.

    Reshape     keeps the shape when each target is the dimension itself, or 0 (copied), with at most one
                -1: the number of elements then leaves it no choice.
    Transpose   two in a row, p after q, read axis q[p[i]]: they cancel when q[p[i]] = i.
    x op c      x * 1, x / 1, x + 0, x - 0, x ^ 1: c must be broadcast to x and not x to c, so its rank is
                not above x's and its sizes are 1 or x's own. (-0 + 0 is +0: equal as numbers.)
    Resize      at scale 1 every coordinate transformation but two maps each output pixel on its own
                input pixel, where all interpolations give the pixel itself. tf_crop_and_resize reads a
                part of the map; tf_half_pixel_for_nn reads half a pixel beside it.
    Slice       from 0 in steps of 1 to a known size or beyond 2^31 - 2.

The outputs of such nodes become other names of x. A graph output needs a node that makes it, so that
nothing would be gained there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Fragment, Proposal
from onnxtune.rule import No

RULE = "remove_noop"
NOT_PROVEN = No("it is not proven to keep the shape")
END = 2**31 - 1


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        check = NOOPS.get(node.op_type) if node.domain == "" else None
        if check is None or _kept_by_name(facts, node.key) or not any(node.inputs):
            continue
        if node.op_type == "Transpose" and (pair := _cancelled(facts, node)):
            yield pair
            continue
        found = check(facts, node)
        side = next((o for o in node.outputs[1:] if o and (facts.consumers(o) or facts.is_output(o))), "")
        if isinstance(found, No) or (found and side):
            yield Decline(RULE, node.key, str(found) if isinstance(found, No) else f"its output '{side}' is used")
        elif found:
            yield Proposal(RULE, f"{node.op_type} removed", frozenset({node.key}), Fragment((), (), {node.key: found}))


def _kept_by_name(facts: Facts, tensor: str) -> bool:
    """Does a graph output or the body of a control-flow node need a node that makes this tensor?"""
    return facts.is_output(tensor) or any(tensor in n.captured for n in facts.consumers(tensor))


def _cancelled(facts: Facts, node: Node) -> Proposal | None:
    first = facts.producer(node.inputs[0])
    if first is None or not first.is_op("Transpose"):
        return None
    outer, inner = node.attribute("perm"), first.attribute("perm")
    both_reverse = outer is None and inner is None
    if not both_reverse and (not outer or not inner or [inner[p] for p in outer] != list(range(len(outer)))):
        return None
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    outputs = {node.key: first.inputs[0]}
    if facts.why_not_private(first.key, {node.key}):
        outputs[first.key] = new.copy(first.proto, first.inputs)[0]
    return Proposal(RULE, "Transpose + Transpose removed", frozenset({first.key, node.key}), new.finish(outputs))


# --- proofs: each returns the tensor that the output equals, "" when there is none, or No(why not) -----


def _always(facts: Facts, node: Node) -> str:
    return node.inputs[0]


def _only_one(facts: Facts, node: Node) -> str:
    """Concat, Sum, Max, Min, Mean of one input; Split into one part."""
    return node.inputs[0] if len(node.outputs if node.op_type == "Split" else node.inputs) == 1 else ""


def _dropout(facts: Facts, node: Node) -> str:
    if facts.opset < 7:
        return node.inputs[0] if node.attribute("is_test", 0) else No("training mode drops values")
    training = node.input(2)
    stored = facts.constant(training) if training else None
    if training and (stored is None or bool(stored.any())):
        return No("training mode drops values")
    return node.inputs[0]


def _cast(facts: Facts, node: Node) -> str:
    known = facts.declared.get(node.inputs[0])
    return node.inputs[0] if known is not None and known.elem_type == node.attribute("to") else ""


def _transpose(facts: Facts, node: Node) -> str:
    order = node.attribute("perm")
    return node.inputs[0] if order and order == list(range(len(order))) else ""


def _reshape(facts: Facts, node: Node) -> str:
    x, target = facts.shape(node.inputs[0]), _ints(facts, node, "shape", 1)
    if x is None or target is None or len(x) != len(target):
        return ""
    copied = 0 if not node.attribute("allowzero", 0) else None
    open_to = [t for d, t in zip(x, target, strict=True) if t != d and t != copied]
    return node.inputs[0] if not open_to or open_to == [-1] else NOT_PROVEN


def _flatten(facts: Facts, node: Node) -> str:
    x = facts.shape(node.inputs[0])
    return node.inputs[0] if x is not None and len(x) == 2 and node.attribute("axis", 1) in (1, -1) else ""


def _expand(facts: Facts, node: Node) -> str:
    target = _ints(facts, node, "shape", 1)
    return "" if target is None else node.inputs[0] if _fits(facts, node.inputs[0], target) else NOT_PROVEN


def _tile(facts: Facts, node: Node) -> str:
    repeats = _ints(facts, node, "repeats", 1) if facts.opset >= 6 else None
    return node.inputs[0] if repeats is not None and all(r == 1 for r in repeats) else ""


def _pad(facts: Facts, node: Node) -> str:
    pads = _ints(facts, node, "pads", 1)
    return node.inputs[0] if pads is not None and not any(pads) else ""


def _slice(facts: Facts, node: Node) -> str:
    starts, ends, axes = (_ints(facts, node, n, i) for i, n in ((1, "starts"), (2, "ends"), (3, "axes")))
    steps = _ints(facts, node, "steps", 4) if node.input(4) else [1]
    if starts is None or ends is None or steps is None or any(starts) or any(s != 1 for s in steps):
        return ""
    if axes is None and node.input(3):
        return ""
    x = facts.shape(node.inputs[0])
    for axis, end in zip(axes if axes is not None else range(len(ends)), ends, strict=True):
        size = x[axis] if x is not None else None
        if end < END and not (isinstance(size, int) and end >= size):
            return "" if isinstance(size, int) or end < 0 else NOT_PROVEN
    return node.inputs[0]


def _neutral(value: int, *positions: int) -> Callable[[Facts, Node], str]:
    """x op c where c is `value` everywhere and may stand at these positions."""

    def check(facts: Facts, node: Node) -> str:
        if len(node.inputs) != 2 or node.attribute("broadcast") or node.attribute("axis") is not None:
            return ""  # up to opset 6 the second operand was aligned by attributes
        for position in positions:
            constant, x = facts.constant(node.inputs[position]), node.inputs[1 - position]
            if constant is not None and constant.dtype.kind in "fiu" and (constant == value).all():
                return x if _fits(facts, x, constant.shape) else No("the constant may enlarge the other operand")
        return ""

    return check


def _pool(facts: Facts, node: Node) -> str:
    unit = all(v == 1 for name in ("kernel_shape", "strides") for v in node.attribute(name, []))
    return node.inputs[0] if unit and not any(node.attribute("pads", [])) else ""


def _global_pool(facts: Facts, node: Node) -> str:
    x = facts.shape(node.inputs[0])
    return node.inputs[0] if x is not None and len(x) > 2 and all(d == 1 for d in x[2:]) else ""


def _resize(facts: Facts, node: Node) -> str:
    scales, x = node.attribute("scales"), facts.shape(node.inputs[0])
    position = 1 if node.op_type == "Upsample" or facts.opset < 11 else 2
    stored = facts.constant(node.input(position)) if node.input(position) else None
    if stored is not None and stored.size:
        scales = stored.tolist()
    unchanged = scales is not None and all(s == 1 for s in scales)
    if scales is None and x is not None and (sizes := _ints(facts, node, "sizes", 3)):
        axes = node.attribute("axes", list(range(len(x))))
        unchanged = len(axes) == len(sizes) and all(x[a] == s for a, s in zip(axes, sizes, strict=True))
    if not unchanged:
        return ""
    mapping = node.attribute("coordinate_transformation_mode", "half_pixel")
    shifted = mapping in ("tf_crop_and_resize", "tf_half_pixel_for_nn")
    return No(f"{mapping} moves pixels even at scale 1") if shifted else node.inputs[0]


NOOPS: Mapping[str, Callable[[Facts, Node], str]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _only_one,
    "Sum": _only_one,
    "Max": _only_one,
    "Min": _only_one,
    "Mean": _only_one,
    "Split": _only_one,
    "Add": _neutral(0, 0, 1),
    "Sub": _neutral(0, 1),
    "Mul": _neutral(1, 0, 1),
    "Div": _neutral(1, 1),
    "Pow": _neutral(1, 1),
    "AveragePool": _pool,
    "MaxPool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Resize": _resize,
    "Upsample": _resize,
}


def _ints(facts: Facts, node: Node, name: str, position: int) -> list[int] | None:
    """Integers that are an attribute or a constant input, as the opset has it; None when not known."""
    if name in node.attributes:
        return list(node.attribute(name))
    stored = facts.constant(node.input(position)) if node.input(position) else None
    return None if stored is None else [int(v) for v in stored.ravel()]


def _fits(facts: Facts, tensor: str, shape: tuple[int, ...] | list[int]) -> bool:
    """Is something of this shape broadcast to the tensor without enlarging it?"""
    if not shape:
        return True
    x = facts.shape(tensor)
    return (
        x is not None
        and len(shape) <= len(x)
        and all(s in (1, d) for s, d in zip(shape, x[len(x) - len(shape) :], strict=True))
    )
