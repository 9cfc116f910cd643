"""How much memory an inference needs: the weights, and the tensors that are alive at the same time."""

from __future__ import annotations

import math
import os

from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.model import tensor_bytes
from onnxtune.trial import LARGE

SESSIONS = 3
"""How many sessions of a model are there at once when it is measured: before, after, and before again."""

LARGE_SESSIONS = 2
"""The same of a model with LARGE weights: before and after."""


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


def check_fits(facts: Facts) -> None:
    """Refuse a model that needs more memory than this machine has for the sessions that are there at once. Raises
    ModelError.

    A shape costs nothing to write down: what it would take is known before anything is allocated.
    """
    if (wrapped := _wrapped(facts)) is not None:
        raise ModelError(f"{facts.model.name}: tensor '{wrapped}' is larger than onnx can count")
    need, have = peak_bytes(facts), physical_bytes()
    sessions = SESSIONS if tensor_bytes(facts.model) <= LARGE else LARGE_SESSIONS
    if have and sessions * need > have:
        raise ModelError(
            f"{facts.model.name}: one inference takes {need / 1e9:.3g} GB at the measured sizes, and {sessions} times"
            f" that is more than the {have / 1e9:.3g} GB of this machine; give smaller --input-shapes where they are"
            " dynamic"
        )


def _wrapped(facts: Facts) -> str | None:
    """A result of Concat that is too long to be counted in 32 bits, as onnx 1.19 does: what it says of its size, and of
    all that follows, is wrong."""
    for node in facts.nodes:
        sizes = [facts.size(i) for i in node.inputs] if node.is_op("Concat") else []
        known = [s for s in sizes if s]
        axis = int(node.attribute("axis", 1)) if known else 0
        if sum(s[axis % len(s)] for s in known) >= 2**31:
            return node.outputs[0]
    return None


def physical_bytes() -> int:
    """Memory of this machine; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _bytes(facts: Facts, tensor: str) -> int:
    size, dtype = facts.size(tensor), facts.dtype(tensor)
    return 0 if size is None or dtype is None else math.prod(size) * dtype.itemsize
