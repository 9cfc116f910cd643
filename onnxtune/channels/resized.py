"""The replacement of a region when the numbers of channels change.

The region is every node that reads or makes a tensor whose channels change. Such a tensor is seen by
nobody else (graph outputs and barriers are pinned), so all tensors visible outside keep their shapes.
"""

from __future__ import annotations

from onnxtune.channels.axis import Integers
from onnxtune.channels.flow import Channels
from onnxtune.channels.operators import Edit
from onnxtune.channels.table import operator
from onnxtune.fragment import Builder
from onnxtune.proposal import Fragment


def resize(channels: Channels, counts: Integers, label: str) -> tuple[frozenset[str], Fragment]:
    """The keys of the nodes to remove and what takes their place. `label` goes into new names."""
    facts = channels.facts
    edit = Edit(facts, channels.axes, counts, Builder("", (), facts.opset))
    region = [n for n in facts.nodes if any(edit.source(t) is not None for t in (*n.inputs, *n.outputs))]
    keys = frozenset(n.key for n in region)
    edit.new = Builder(f"{min(keys)}/{label}", facts.names, facts.opset)
    visible: dict[str, str] = {}
    for node in region:
        known = operator(node)
        assert known is not None, "barriers are pinned"
        for name, made in zip(node.outputs, known.edit(node, edit), strict=True):
            if not name:
                continue
            edit.names[name] = made
            outside = any(reader.key not in keys for reader in facts.consumers(name))
            if outside or facts.is_output(name):
                visible[name] = made
    return keys, edit.new.finish(visible)
