"""How much memory an inference needs: the weights, and the tensors that are alive at the same time."""

from __future__ import annotations

import math

from onnxtune.facts import Facts
from onnxtune.model import tensor_bytes


def peak_bytes(facts: Facts) -> int:
    """Weights, and the most that tensors take at once at the measured sizes, node by node in the graph's order.

    A tensor lives from the node that makes it to the last that reads it; inputs and outputs live throughout. What
    a kernel needs beside that is not counted, nor tensors of unknown size; views are counted as copies.
    """
    last: dict[str, int] = {}
    for place, node in enumerate(facts.nodes):
        for name in (*node.inputs, *node.captured):
            last[name] = place
    alive = sum(_bytes(facts, name) for name in {v.name for v in facts.model.inputs})
    most = alive
    for place, node in enumerate(facts.nodes):
        if not node.is_op("Constant"):
            alive += sum(_bytes(facts, o) for o in node.outputs if o)
        most = max(most, alive)
        over = {i for i in (*node.inputs, *node.captured) if last[i] == place} | {
            o for o in node.outputs if o not in last
        }
        gone = (t for t in over if t and facts.producer(t) is not None and not facts.is_constant(t))
        alive -= sum(_bytes(facts, t) for t in gone if not facts.is_output(t))
    return most + tensor_bytes(facts.model)


def _bytes(facts: Facts, tensor: str) -> int:
    size, dtype = facts.size(tensor), facts.dtype(tensor)
    return 0 if size is None or dtype is None else math.prod(size) * dtype.itemsize
