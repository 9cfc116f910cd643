"""Activations recognised by what they compute, not by how they are spelled.

A region of elementwise operators is a function f of one number (`onnxtune.elementwise`). It is compared
in float64 with those below; what parameters there are follow from a few of its values. Differences up to
the rounding of the region's own constants (1/6 in float32) are allowed, so a slope within that of 1/6 is 1/6.

    clip          min(max(x, low), high)
    hard_sigmoid  h(x) = clip(alpha x + beta, 0, 1)          beta = f(0), alpha = f'(0)
    hard_swish    x h(x)                                     beta = f'(0), alpha = f''(0) / 2
    sigmoid       1 / (1 + exp(-x))
    silu          x sigmoid(alpha x)                         alpha = logit f(1)
    mish          x tanh(log(1 + e)), e = exp(x)
    gelu          x (1 + erf(x / sqrt 2)) / 2
    gelu_tanh     x (1 + tanh u) / 2 = x sigmoid(2 u),       u = sqrt(2 / pi) (x + 0.044715 x^3)

Mish without logarithm and tanh: tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1) = n / (n + 2) with
n = e (e + 2). It is 1 - 2 / (n + 2): once that is 1 in the working type (x >= 20; 5 in float16, where n
must stay below 65504) e may stay as it is, so x is cut there before the exponential and nothing overflows.

The operators HardSwish, Mish, Gelu, Swish exist from opset 14, 18, 20 and 24. All forms are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from onnxtune.elementwise import POINTS, Curve, Form, gelu, gelu_tanh, hard_sigmoid, mish, respell, sigmoid
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

CUBIC = 0.044715
Scalar = Callable[[float], Any]
"""Makes a constant of the model's type."""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    yield from respell(facts, "replace_decomposed_activation", partial(_recognise, opset=facts.opset))


def _recognise(f: Curve, opset: int) -> tuple[str, dict[str, Form]] | None:
    """The activation's name and the forms to try, fastest first as far as known."""
    if f.parameters or (len(f.nodes) < 2 and f.operators != ["Mish"]):
        return None
    values, x, c = f(POINTS), POINTS, partial(np.asarray, dtype=f.dtype)
    low, high = float(values[0]), float(values[-1])
    if low < high and np.array_equal(values, np.clip(x, low, high)):
        limited = high < x[-1]  # else it is Relu (see fuse_prelu) or x itself
        return ("clip", {"Clip": lambda n, x: _clip(n, x, c, low, high)}) if limited else None
    if (found := _hard(f)) is not None:
        return found[0], _hard_forms(*found, opset)
    if f.equals(sigmoid(x), x):
        return "sigmoid", {"Sigmoid": lambda n, x: n.Sigmoid(x)}
    if (alpha := _silu(f)) is not None:
        product: dict[str, Form] = {
            "Sigmoid * x": lambda n, x: n.Mul(x, n.Sigmoid(x if alpha == 1 else n.Mul(x, c(alpha))))
        }
        return "silu", product | ({"Swish": lambda n, x: n.Swish(x, alpha=alpha)} if opset >= 24 else {})
    if f.equals(mish(x), x):
        return "mish", {"exponential": lambda n, x: _mish(n, x, c)} | (
            {"Mish": lambda n, x: n.Mish(x)} if opset >= 18 else {}
        )
    if f.equals(gelu(x), x):
        return "gelu", {"Gelu": lambda n, x: n.Gelu(x)} if opset >= 20 else {"erf": lambda n, x: _gelu(n, x, c)}
    if f.equals(gelu_tanh(x), x):
        fused: dict[str, Form] = {"Gelu": lambda n, x: n.Gelu(x, approximate="tanh")} if opset >= 20 else {}
        return "gelu (tanh)", fused | {"sigmoid": lambda n, x: _gelu_tanh(n, x, c)}
    return None


def _hard(f: Curve) -> tuple[str, float, float] | None:
    h = 1 / 64
    left, middle, right = f(np.array([-h, 0.0, h])).tolist()
    if 0 < middle < 1:
        alpha, beta = (right - left) / (2 * h), middle
        return ("hard_sigmoid", alpha, beta) if f.equals(hard_sigmoid(POINTS, alpha, beta), POINTS) else None
    alpha, beta = (right + left) / (2 * h * h), (right - left) / (2 * h)
    if not 0 < beta < 1:
        return None
    near = abs(6 * alpha - 1) <= 4 * f.roundoff and abs(beta - 0.5) <= 4 * f.roundoff
    alpha, beta = (1 / 6, 0.5) if near else (alpha, beta)
    return ("hard_swish", alpha, beta) if f.equals(POINTS * hard_sigmoid(POINTS, alpha, beta), POINTS) else None


def _hard_forms(name: str, alpha: float, beta: float, opset: int) -> dict[str, Form]:
    if name == "hard_sigmoid":
        return {"HardSigmoid": lambda n, x: n.HardSigmoid(x, alpha=alpha, beta=beta)}
    if (alpha, beta) == (1 / 6, 0.5) and opset >= 14:
        return {"HardSwish": lambda n, x: n.HardSwish(x)}
    return {"HardSigmoid * x": lambda n, x: n.Mul(x, n.HardSigmoid(x, alpha=alpha, beta=beta))}


def _silu(f: Curve) -> float | None:
    gate = float(f(np.array([1.0]))[0])
    alpha = math.log(gate / (1 - gate)) if 0.5 < gate < 1 else math.nan
    alpha = 1.0 if abs(alpha - 1) <= 16 * f.roundoff else alpha
    return alpha if f.equals(POINTS * sigmoid(alpha * POINTS), POINTS) else None


def _clip(new: Builder, x: str, scalar: Scalar, low: float, high: float) -> Any:
    low = -math.inf if low <= POINTS[0] else low
    if new.opset < 11:
        return new.Clip(x, min=None if low == -math.inf else low, max=high)
    return new.Clip(x, None if low == -math.inf else scalar(low), scalar(high))


def _mish(new: Builder, x: str, scalar: Scalar) -> Any:
    cut = 5.0 if scalar(0).dtype == np.float16 else 20.0
    e = new.Exp(new.Min(x, scalar(cut)))
    n = new.Mul(e, new.Add(e, scalar(2)))
    return new.Mul(x, new.Div(n, new.Add(n, scalar(2))))


def _gelu(new: Builder, x: str, scalar: Scalar) -> Any:
    half = new.Mul(x, new.Add(new.Erf(new.Div(x, scalar(math.sqrt(2)))), scalar(1)))
    return new.Mul(half, scalar(0.5))


def _gelu_tanh(new: Builder, x: str, scalar: Scalar) -> Any:
    first = 2 * math.sqrt(2 / math.pi)
    slope = new.Add(new.Mul(new.Mul(x, x), scalar(first * CUBIC)), scalar(first))
    return new.Mul(x, new.Sigmoid(new.Mul(x, slope)))
