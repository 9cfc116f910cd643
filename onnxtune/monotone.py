"""Which nodes apply a function that never decreases, the same one to all pixels of a channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.rule import No

ALWAYS = (
    "Relu", "Clip", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Erf", "Atan", "Ceil", "Floor", "Round", "Sign",
)  # fmt: skip
IF_NOT_NEGATIVE = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Celu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "ThresholdedRelu": {"alpha": 1.0},
}
"""Attributes, with their defaults, that must not be negative."""
NEVER = ("HardSwish", "Gelu", "Mish", "Swish", "Abs", "Neg", "Sin", "Cos", "Cosh")
"""Functions that decrease somewhere."""
OPERANDS = {
    "Add": False,
    "Sum": False,
    "Sub": False,
    "Max": False,
    "Min": False,
    "Mul": True,
    "Div": True,
    "PRelu": True,
}
"""Operators with one constant operand; must it not be negative?"""


def source_of(facts: Facts, node: Node) -> str | No | None:
    """The tensor that the function is applied to, why it decreases somewhere, or None: it is something else.

    Values that are not floating-point are something else.
    """
    dtype = facts.dtype(node.inputs[0]) if node.inputs else None
    if dtype is None or dtype.kind != "f" or any(node.outputs[1:]):
        return None
    if node.is_op(*ALWAYS):
        return node.inputs[0]
    if node.is_op(*IF_NOT_NEGATIVE):
        attributes = IF_NOT_NEGATIVE[node.op_type]
        negative = [a for a, default in attributes.items() if not node.attribute(a, default) >= 0]
        return No(f"{node.op_type} with a negative {negative[0]} decreases") if negative else node.inputs[0]
    if node.is_op(*NEVER):
        return No(f"{node.op_type} decreases somewhere")
    if node.is_op("BatchNormalization"):
        return _normalization(facts, node)
    return _with_constant(facts, node) if node.is_op(*OPERANDS) else None


def _normalization(facts: Facts, node: Node) -> str | No:
    scale = facts.constant(node.inputs[1])
    if scale is None or node.attribute("training_mode", 0) or not node.attribute("spatial", 1):
        return No("BatchNormalization in training mode, not per channel or with a scale that is not constant")
    return node.inputs[0] if (scale >= 0).all() else No("BatchNormalization with a negative scale decreases")


def _with_constant(facts: Facts, node: Node) -> str | No | None:
    computed = [i for i, name in enumerate(node.inputs) if not facts.is_constant(name)]
    if len(computed) != 1:
        return No(f"{node.op_type} of two computed operands") if node.op_type in ("Mul", "Div") else None
    if computed != [0] and node.op_type in ("Sub", "Div", "PRelu"):
        return No(f"{node.op_type} of a constant by what is computed may decrease")
    source = node.inputs[computed[0]]
    rank = facts.rank(source)
    for name in node.inputs:
        value = facts.constant(name)
        if value is None:
            continue
        if rank is None or not _one_for_all_pixels(value, rank):
            return No(f"the constant of {node.op_type} differs from pixel to pixel")
        if OPERANDS[node.op_type] and not _not_negative(value, strict=node.op_type == "Div"):
            return No(f"{node.op_type} with a negative constant decreases")
    return source


def _one_for_all_pixels(value: np.ndarray[Any, Any], rank: int) -> bool:
    return value.ndim <= rank and rank > 2 and all(d == 1 for d in value.shape[max(0, value.ndim - rank + 2) :])


def _not_negative(value: np.ndarray[Any, Any], *, strict: bool) -> bool:
    return bool((value > 0).all() if strict else (value >= 0).all())
