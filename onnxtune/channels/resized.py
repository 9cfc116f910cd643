"""The replacement of a region when the numbers of channels change.

The region is every node that reads or makes a tensor whose channels change, but for barriers. What barriers and
callers see keeps its shape: such a tensor is pinned, or (flow.py, `cuts`) those outside read a Slice of it.
Nodes that pick height and width out of a Shape belong to it too: the list of sizes itself changes. So do
the DequantizeLinear of its weights, which are written anew with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnxtune.channels.axis import Integers
from onnxtune.channels.flow import Channels
from onnxtune.channels.operators import Edit
from onnxtune.channels.quantized import stored
from onnxtune.channels.reshaping import followers
from onnxtune.channels.table import operator
from onnxtune.fragment import Builder
from onnxtune.proposal import Fragment


def resize(channels: Channels, counts: Integers, label: str) -> tuple[frozenset[str], Fragment]:
    """The keys of the nodes to remove and what takes their place. `label` goes into new names."""
    keys, fragment, _ = resize_named(channels, counts, label, ())
    return keys, fragment


def resize_named(
    channels: Channels, counts: Integers, label: str, taken: Collection[str]
) -> tuple[frozenset[str], Fragment, Mapping[str, str]]:
    """The same; no new name is one of `taken`. Third: the names of the tensors that have got a new one."""
    facts = channels.facts
    edit = Edit(facts, channels.axes, counts, Builder("", (), facts.opset))
    region = [
        n
        for n in facts.nodes
        if n.key not in channels.barriers and any(edit.source(t) is not None for t in (*n.inputs, *n.outputs))
    ]
    pickers = {key for n in region if n.is_op("Shape") for key in followers(facts, n)}
    keys = frozenset({n.key for n in region} | pickers)
    weights = {w.key for n in region for i in n.inputs if (w := stored(facts, i)) is not None}
    weights = {k for k in weights if all(r.key in keys for r in facts.consumers(k)) and not facts.is_output(k)}
    keys |= weights
    region = [n for n in facts.nodes if n.key in keys and n.key not in weights]
    edit.new = Builder(f"{min(keys)}/{label}", facts.names | set(taken), facts.opset)
    visible: dict[str, str] = {}
    made_inside = {o for n in region for o in n.outputs}
    for name in dict.fromkeys(i for n in region for i in n.inputs):
        if name not in made_inside and edit.source(name) is not None:
            edit.names[name] = edit.inner(name)
    for node in region:
        known = operator(node)
        assert known is not None or node.key in pickers, "barriers are pinned"
        made_here = edit.copy(node) if known is None or node.key in pickers else known.edit(node, edit)
        for name, made in zip(node.outputs, made_here, strict=True):
            if not name:
                continue
            edit.names[name] = made
            outside = any(reader.key not in keys for reader in facts.consumers(name))
            if outside or facts.is_output(name):
                visible[name] = edit.outer(name, made)
    return keys, edit.new.finish(visible), {k: v for k, v in edit.names.items() if k not in visible}
