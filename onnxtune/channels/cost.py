"""What convolutions cost for given channel counts, in units of one multiply-accumulate at full speed.

ONNX Runtime on x86 CPUs computes a float32 Conv in blocks of B channels (16 with AVX-512, 8 with AVX),
padding both channel axes to multiples of B by itself, but only if

    group 1:    C_in < B or C_in is a multiple of 4
    depthwise:  C is a multiple of 4
    groups:     C_in and C_out of one group are multiples of B

Otherwise it unfolds the input and calls a matrix product: no rounding up of channels, but slower per
multiplication (SLOWNESS), and very much slower for depthwise convolutions (DEPTHWISE). On CUDA, tensor
cores want multiples of 8 channels (float16) or 4 (TF32).

The model only decides what is worth measuring. The constants were measured on one core with AVX-512.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxtune.channels.contracting import is_depthwise, sums
from onnxtune.channels.flow import Channels
from onnxtune.costs import macs
from onnxtune.devices import cpu_features
from onnxtune.facts import Facts, Node

SLOWNESS = ((1.28, 1.1), (1.5, 1.25))
"""Cost of one multiply-accumulate without blocks (kernels larger than 1, 1x1): low and high of what was measured."""
DEPTHWISE, DEPTHWISE_BLOCKED = 14.0, 2.0
UNALIGNED = 1.25
"""On CUDA, for channels that the tensor cores' tiles do not fit."""
TRAFFIC = 8.0
"""Cost of one more element in a tensor between the convolutions: written and read once."""
COPY, CALL = 8.0, 1e5
"""Cost of one element that a Slice or Pad copies, and of running that node at all."""

ANY_CPU = "cpu-any"
"""Provider name under which a rule is told not to look at the processor that it runs on."""
Sizes = Mapping[int, int]
"""Run -> number of channels, for runs that differ from now."""


@dataclass(frozen=True)
class Width:
    """Number of channels of a tensor: `size` now, plus `grows` for each pad channel of a run."""

    size: int
    grows: tuple[tuple[int, int], ...]

    def under(self, extra: Mapping[int, int]) -> int:
        return self.size + sum(grow * extra.get(run, 0) for run, grow in self.grows)


@dataclass(frozen=True)
class Term:
    """A convolution or matrix product. `unit`: multiply-accumulates for one pair of channels."""

    node: Node
    into: Width
    out: Width
    unit: float
    blocked: bool
    depthwise: bool
    group: int

    def macs(self, extra: Mapping[int, int]) -> float:
        into = 1 if self.depthwise else self.into.under(extra)
        return self.unit * into * self.out.under(extra)


@dataclass(frozen=True)
class Target:
    """`provider`: "cpu" or "cuda". `block`: channels per block on the CPU, 0 without blocked kernels."""

    provider: str
    block: int

    @staticmethod
    def of(provider: str) -> Target:
        if provider == ANY_CPU:
            return Target("cpu", 8)
        if provider != "cpu":
            return Target("cuda", 0)
        features = cpu_features()
        if not features:
            return Target("cpu", 8)  # the system does not tell; measuring decides
        return Target("cpu", 16 if "avx512f" in features else 8 if "avx" in features else 0)

    def multiple(self, half: bool) -> int:
        """Number of channels whose multiples the fast kernels want."""
        return (8 if half else 4) if self.provider == "cuda" else 4

    def larger(self, half: bool) -> int:
        """The next larger block: fewer, fuller blocks or tiles may be faster still."""
        return 4 * self.multiple(half) if self.provider == "cuda" else max(self.block, 8)


class Costs:
    """Cost of the terms that depend on a run, and how it changes."""

    def __init__(self, channels: Channels, target: Target, slowness: tuple[float, float] = SLOWNESS[0]) -> None:
        self.channels, self.target, self.slowness = channels, target, slowness
        self.terms: dict[int, list[Term]] = {run.index: [] for run in channels.runs}
        self.traffic = np.zeros(len(channels.runs))
        facts = channels.facts
        self.half = False
        for node in facts.nodes:
            term = self._term(node)
            self.half = self.half or (term is not None and facts.dtype(node.outputs[0]) == np.float16)
            for run in {r for w in (term.into, term.out) for r, _ in w.grows} if term else ():
                self.terms[run].append(term)  # type: ignore[arg-type]
        for tensor, ends in channels.ends.items():
            size, axis = facts.size(tensor), channels.axes[tensor].size
            for run, grow in ends if size else ():
                self.traffic[run] += TRAFFIC * grow * math.prod(size or ()) / axis
        self.copies: dict[int, dict[str, float]] = {run.index: {} for run in channels.runs}
        for tensor in channels.cuts:
            elements = math.prod(facts.size(tensor) or ())
            for run, _ in channels.ends[tensor]:
                self.copies[run][tensor] = COPY * elements + CALL
        self._useful: dict[str, float] = {}

    def _term(self, node: Node) -> Term | None:
        amount = macs(self.channels.facts, node)
        if not amount or node.outputs[0] not in self.channels.axes:
            return None
        facts, into, out = self.channels.facts, self._width(node.input(0)), self._width(node.outputs[0])
        depthwise = node.is_op("Conv", "ConvTranspose") and is_depthwise(node, facts)
        if into is None or out is None or not (depthwise or sums(node, facts, self.channels.axes.get(node.input(0)))):
            return None
        unit = amount / (out.size * (1 if depthwise else into.size))
        blocked = node.is_op("Conv") and facts.dtype(node.input(0)) == np.float32
        blocked = blocked and len(facts.shape(node.input(0)) or ()) == 4
        return Term(node, into, out, unit, blocked, depthwise, node.attribute("group", 1))

    def _width(self, tensor: str) -> Width | None:
        axis = self.channels.axes.get(tensor)
        if axis is not None:
            return Width(axis.size, self.channels.ends[tensor])
        size = self.channels.facts.size(tensor)
        return Width(size[1], ()) if size and len(size) > 1 else None

    def cost(self, term: Term, extra: Mapping[int, int]) -> float:
        into, out = term.into.under(extra), term.out.under(extra)
        if self.target.provider == "cuda":
            step = self.target.multiple(self.half)
            step *= 1 if term.depthwise else term.group
            fits = out % step == 0 and (term.depthwise or into % step == 0)
            return term.macs(extra) if fits else UNALIGNED * term.unit * out * (1 if term.depthwise else into)
        block = self.target.block
        blocked = term.blocked and block > 0
        if term.depthwise:
            if blocked and out % 4 == 0:
                return DEPTHWISE_BLOCKED * term.unit * rounded(out, block)
            return DEPTHWISE * term.unit * out
        if term.group > 1:
            blocked = blocked and into % (term.group * block) == out % (term.group * block) == 0
        if blocked and (into < block or into % 4 == 0):
            return term.unit * (into if into < block else rounded(into, block)) * rounded(out, block)
        slow = term.blocked and max(term.node.attribute("kernel_shape", [3])) > 1
        return self.slowness[0 if slow else 1] * term.unit * into * out

    def extra(self, sizes: Sizes) -> dict[int, int]:
        return {run: size - self.channels.runs[run].size for run, size in sizes.items()}

    def gain(self, sizes: Sizes) -> float:
        """How much cheaper the whole graph becomes."""
        extra = self.extra(sizes)
        return self.total(extra, {}) - self.total(extra, extra)

    def total(self, runs: Mapping[int, int], extra: Mapping[int, int]) -> float:
        """Cost of everything that depends on these runs."""
        terms = {t.node.key: t for run in runs for t in self.terms[run]}
        copies = {tensor: cost for run in runs if extra.get(run, 0) for tensor, cost in self.copies[run].items()}
        traffic = sum(float(self.traffic[run]) * extra.get(run, 0) for run in runs)
        return sum(self.cost(t, extra) for t in terms.values()) + traffic + sum(copies.values())

    def extra_macs(self, sizes: Sizes) -> int:
        extra = self.extra(sizes)
        terms = {t.node.key: t for run in extra for t in self.terms[run]}
        return round(sum(t.macs(extra) - t.macs({}) for t in terms.values()))

    def allowed(self, run: int, extra: Mapping[int, int], overhead: float) -> bool:
        """Does no convolution at this run do more than `overhead` times its own arithmetic more?

        Channels that are zeros already are no arithmetic of its own: what was padded is not padded further.
        """
        return all(t.macs(extra) <= (1 + overhead) * self._own_macs(t) for t in self.terms[run])

    def _own_macs(self, term: Term) -> float:
        key = term.node.key
        if key not in self._useful:
            self._useful[key] = term.macs({}) * _used_share(self.channels.facts, term)
        return self._useful[key]


def _used_share(facts: Facts, term: Term) -> float:
    """Which part of a layer's pairs of channels has rows and columns that are not all zeros."""
    w, node = facts.constant(term.node.input(1)), term.node
    if w is None or not w.size:
        return 1.0
    by_column = node.op_type in ("ConvTranspose", "MatMul") or (node.is_op("Gemm") and not node.attribute("transB", 0))
    if by_column and not term.depthwise:
        w = w.swapaxes(0, 1)
    pairs = (w != 0).reshape(*w.shape[:2], -1).any(axis=2)
    bias = facts.constant(node.input(2)) if node.input(2) else None
    rows = pairs.any(axis=1) if bias is None or bias.shape != pairs.shape[:1] else pairs.any(axis=1) | (bias != 0)
    return max(float(rows.mean()) * float(1.0 if term.depthwise else pairs.any(axis=0).mean()), 1e-9)


def rounded(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step
