"""Regions of elementwise operators with constants as functions of one number.

Exporters spell an activation in many ways, but a region that reads one tensor x, is visible only through
its result and holds nothing but elementwise operators and constants is y = f(x), element by element. The
function is known by its values: two such functions that agree in float64 on thousands of points, kinks and
tails included, have the same few analytic pieces. Per-channel constants make one function per channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

Values = NDArray[np.float64]
Form = Callable[[Builder, str], Any]
"""Writes y = f(x) with a builder; returns the name of y."""
TAIL = np.geomspace(16, 1e30, 81)
POINTS: Values = np.unique(np.concatenate([-TAIL, np.arange(-1024, 1025) / 64, TAIL]))
"""Where functions are compared: steps of 1/64 to 16, then further apart."""
FEW: Values = np.unique(np.concatenate([-TAIL[::8], np.arange(-64, 65) / 8, TAIL[::8]]))
"""The same for per-channel constants, of which there may be thousands."""
LARGEST_REGION = 14
LARGEST_PARAMETER = 1 << 13
ROUNDOFF = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24}
"""Unit roundoff of the types that are handled; ONNX Runtime lacks most activations in float64."""


def erf(x: Values) -> Values:
    from scipy.special import erf as scipy_erf  # imported here because it takes a while

    return np.asarray(scipy_erf(x))


def sigmoid(x: Values) -> Values:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def mish(x: Values) -> Values:
    return np.asarray(x * np.tanh(np.logaddexp(0.0, x)))


def gelu(x: Values) -> Values:
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def gelu_tanh(x: Values) -> Values:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def hard_sigmoid(x: Values, alpha: float, beta: float) -> Values:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _clip(node: Node, x: Values, *limits: Values) -> Values:
    low = limits[0] if node.input(1) else node.attribute("min", -np.inf)
    high = limits[-1] if node.input(2) else node.attribute("max", np.inf)
    return np.asarray(np.minimum(np.maximum(x, low), high))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Identity": lambda n, x: x,
    "Neg": lambda n, x: -x,
    "Abs": lambda n, x: np.abs(x),
    "Relu": lambda n, x: np.maximum(x, 0),
    "Reciprocal": lambda n, x: 1 / x,
    "Exp": lambda n, x: np.exp(x),
    "Tanh": lambda n, x: np.tanh(x),
    "Erf": lambda n, x: erf(x),
    "Sigmoid": lambda n, x: sigmoid(x),
    "Softplus": lambda n, x: np.logaddexp(0.0, x),
    "Log": lambda n, x: np.log(x),
    "Mish": lambda n, x: mish(x),
    "HardSwish": lambda n, x: x * hard_sigmoid(x, 1 / 6, 0.5),
    "HardSigmoid": lambda n, x: hard_sigmoid(x, n.attribute("alpha", 0.2), n.attribute("beta", 0.5)),
    "LeakyRelu": lambda n, x: np.where(x < 0, n.attribute("alpha", 0.01) * x, x),
    "PRelu": lambda n, x, slope: np.where(x < 0, slope * x, x),
    "Clip": _clip,
    "Add": lambda n, a, b: a + b,
    "Sub": lambda n, a, b: a - b,
    "Mul": lambda n, a, b: a * b,
    "Div": lambda n, a, b: a / b,
    "Pow": lambda n, a, b: np.power(a, b),
    "Max": lambda n, *a: np.maximum.reduce(np.broadcast_arrays(*a)),
    "Min": lambda n, *a: np.minimum.reduce(np.broadcast_arrays(*a)),
}


@dataclass(frozen=True, eq=False)
class Curve:
    """y = f(x) for every element. `parameters`: common shape of all constants, () when they are scalars."""

    facts: Facts
    nodes: tuple[Node, ...]
    x: str
    dtype: np.dtype[Any]
    parameters: tuple[int, ...]
    hidden: str | None
    """Why the region cannot be replaced (a tensor inside is seen from outside), None when it can."""

    @property
    def y(self) -> str:
        return self.nodes[-1].outputs[0]

    @property
    def roundoff(self) -> float:
        return ROUNDOFF[self.dtype]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(n.key for n in self.nodes)

    @property
    def operators(self) -> list[str]:
        return sorted(n.op_type for n in self.nodes)

    def __call__(self, points: Values) -> Values:
        """f at the points (P,), in float64: (*parameters, P)."""
        known = {self.x: points}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                inputs = [known[i] if i in known else self._constant(i) for i in node.inputs if i]
                known[node.outputs[0]] = np.asarray(OPERATORS[node.op_type](node, *inputs))
        return np.broadcast_to(known[self.y], (*self.parameters, len(points)))

    def _constant(self, tensor: str) -> Values:
        value = self.facts.constant(tensor)
        assert value is not None, "a region reads x and constants"
        wide = value.astype(np.float64)
        return wide.reshape(()) if wide.size == 1 else wide[..., None]

    def equals(self, values: Values, points: Values) -> bool:
        """Is f what `values` say at the points, up to the rounding of the region's own constants?"""
        scale = np.maximum(np.abs(values), np.minimum(np.abs(points), 1))
        return bool(np.all(np.abs(self(points) - values) <= 4 * self.roundoff * scale + 1e-14))


def curves(facts: Facts, root: Node) -> Iterator[Curve]:
    """All regions that end in `root`, small ones first."""
    inside = {root.key: root} if _elementwise(root) else {}
    while inside and len(inside) <= LARGEST_REGION:
        outer = _sources(facts, inside)
        if len(outer) == 1 and (found := _curve(facts, inside, root, outer[0])) is not None:
            yield found
        latest = max((p for t in outer if (p := facts.producer(t))), key=lambda p: p.index, default=None)
        if latest is None or not _elementwise(latest):
            return
        inside[latest.key] = latest


def _elementwise(node: Node) -> bool:
    return node.is_op(*OPERATORS) and len(node.outputs) == 1


def _sources(facts: Facts, inside: dict[str, Node]) -> list[str]:
    read = dict.fromkeys(i for n in inside.values() for i in n.inputs if i)
    return [i for i in read if i not in inside and not facts.is_constant(i)]


def _curve(facts: Facts, inside: dict[str, Node], root: Node, x: str) -> Curve | None:
    dtype = facts.dtype(x)
    if dtype not in ROUNDOFF or dtype is None:
        return None
    constants = [v for n in inside.values() for i in n.inputs if i and (v := facts.constant(i)) is not None]
    if any(v.dtype.kind not in "fiu" or v.size > LARGEST_PARAMETER for v in constants):
        return None
    try:
        parameters = np.broadcast_shapes(*(v.shape for v in constants))
    except ValueError:
        return None
    if not _fits(parameters, facts.shape(x)):
        return None
    nodes = tuple(sorted(inside.values(), key=lambda n: n.index))
    interior = [n.outputs[0] for n in nodes if n is not root]
    hidden = next((r for t in interior if (r := facts.why_not_private(t, set(inside)))), None)
    return Curve(facts, nodes, x, dtype, () if math.prod(parameters) == 1 else parameters, hidden)


def _fits(parameters: tuple[int, ...], shape: tuple[Any, ...] | None) -> bool:
    """Has f(x) the shape of x?"""
    if not parameters:
        return True
    if shape is None or len(parameters) > len(shape):
        return False
    return all(p in (1, d) for p, d in zip(reversed(parameters), reversed(shape), strict=False))


def respell(
    facts: Facts, rule: str, recognise: Callable[[Curve], tuple[str, Mapping[str, Form]] | None]
) -> Iterator[Proposal | Decline]:
    """The forms that `recognise` knows for the largest regions that it recognises.

    It gives a name and the forms to try, fastest first as far as known. What has the first form is left
    alone: it may be there because the others were slower.
    """
    done: set[str] = set()
    for root in reversed(facts.nodes):
        if root.key in done:
            continue
        found = [(c, *known) for c in curves(facts, root) if (known := recognise(c))]
        if not found:
            continue
        curve, name, forms = ([f for f in found if not f[0].hidden] or found)[-1]
        if curve.hidden:
            yield Decline(rule, root.key, f"{name}: {curve.hidden}")
            continue
        done |= curve.keys
        for i, (form, write) in enumerate(forms.items()):
            new = Builder(f"{curve.y}/{rule}", facts.names, facts.opset)
            fragment = new.finish({curve.y: write(new, curve.x)})
            operators = [n.op_type for n in fragment.nodes]
            if sorted(operators) != curve.operators:
                title = f"{name}: {' + '.join(n.op_type for n in curve.nodes)} -> {' + '.join(operators)}"
                yield Proposal(rule, title, curve.keys, fragment, settings={"form": form})
            elif i == 0:
                break
