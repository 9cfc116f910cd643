"""Factorised forms of a dense convolution (group 1, two spatial axes): several cheaper ones in a row.

    stack       k1 x k1 then k2 x k2 ...   K = k1 + s1 (k2 - 1), s1 the stride of the first; the rest of the
                stride on the last stage. All pads on the first: exact at the border too, because the later
                stages then read what the kernel as a whole would have read.
    separable   K x 1 then 1 x K; each axis keeps its own pads and stride
    bottleneck  1x1 - KxK - 1x1 (Tucker-2), 1x1 - KxK, KxK - 1x1
    cp          1x1 - depthwise KxK - 1x1 (canonical polyadic)

No stage but the last has a bias, so zeros stay zeros through a 1x1 or K x 1 stage and pads can follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxtune.calibrate import composition
from onnxtune.calibrate.composition import Pair
from onnxtune.calibrate.moments import Array
from onnxtune.windows import Window

Shape = tuple[int, int]
"""(C_out, C_in)"""


@dataclass(frozen=True)
class Form:
    """How a kernel is split: the windows of the stages; with `depthwise`, the middle one of three is depthwise."""

    name: str
    window: Window
    """Of the one convolution that the stages replace."""
    stages: tuple[Window, ...]
    depthwise: bool = False

    @property
    def middles(self) -> int:
        """How many numbers of mid channels it takes."""
        return 1 if self.depthwise else len(self.stages) - 1

    def steps(self) -> tuple[Pair, ...]:
        """Per stage: the stride of all stages before it."""
        steps = [(1, 1)]
        for w in self.stages[:-1]:
            steps.append((steps[-1][0] * w.strides[0], steps[-1][1] * w.strides[1]))
        return tuple(steps)

    def groups(self, mid: Sequence[int]) -> tuple[int, ...]:
        return (1, mid[0], 1) if self.depthwise else (1,) * len(self.stages)

    def shapes(self, shape: Shape, mid: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The weights' shapes (C_out, C_in / group, *kernel) for a layer of this (C_out, C_in)."""
        if len(mid) != self.middles:
            raise ValueError(f"{self.name} takes {self.middles} numbers of mid channels, not {len(mid)}")
        kernels = [w.kernel for w in self.stages]
        if self.depthwise:
            r = mid[0]
            return ((r, shape[1], *kernels[0]), (r, 1, *kernels[1]), (shape[0], r, *kernels[2]))
        widths = [shape[1], *mid, shape[0]]
        return tuple((o, c, *k) for o, c, k in zip(widths[1:], widths, kernels, strict=False))

    def macs(self, shape: Shape, mid: Sequence[int], size: Pair) -> int:
        """Multiply-accumulates for one image with an output map of this size."""
        total = 0
        for dims, w in zip(reversed(self.shapes(shape, mid)), reversed(self.stages), strict=True):
            total += int(np.prod(dims)) * int(np.prod(size))
            size = _read_by(w, size)
        return total

    def mid_for(self, shape: Shape, size: Pair, ratio: float, multiple: int = 1) -> tuple[int, ...] | None:
        """The most mid channels (in multiples) with at most `ratio` of the original's multiply-accumulates.

        Between two 1x1 stages the numbers follow the layer's own channels, else they are equal. None when
        even one multiple is too much.
        """
        budget = ratio * shape[0] * shape[1] * int(np.prod(self.window.kernel)) * int(np.prod(size))
        tucker = not self.depthwise and self.middles == 2 and all(self.stages[i].kernel == (1, 1) for i in (0, 2))
        base = (shape[1], shape[0]) if tucker else (1,) * self.middles
        steps = sorted({multiple * i / b for b in base for i in range(1, 2 + 8 * max(shape) // multiple)})
        best = None
        for scale in steps:
            mid = tuple(max(multiple, int(scale * b / multiple + 1e-9) * multiple) for b in base)
            if self.macs(shape, mid, size) > budget:
                break
            best = mid
        return best


@dataclass(frozen=True, eq=False)
class Stage:
    """One convolution: weight (C_out, C_in / group, *kernel) as ONNX stores it."""

    weight: Array
    window: Window
    group: int


@dataclass(frozen=True, eq=False)
class Factors:
    """A form with numbers. `bias` (C_out,) belongs to the last stage; the others have none."""

    form: Form
    weights: tuple[Array, ...]
    bias: Array

    @property
    def stages(self) -> tuple[Stage, ...]:
        groups = self.form.groups([len(w) for w in self.weights[:-1]])
        return tuple(Stage(*each) for each in zip(self.weights, self.form.stages, groups, strict=True))

    def macs(self, size: Pair) -> int:
        """Multiply-accumulates for one image with an output map of this size."""
        mid = [len(w) for w in self.weights[: self.form.middles]]
        return self.form.macs((len(self.weights[-1]), self.weights[0].shape[1]), mid, size)


def compose(factors: Factors) -> Array:
    """The one kernel (C_out, C_in, *kernel) that the stages amount to."""
    return composed(factors.form, factors.weights)


def composed(form: Form, weights: Sequence[Array]) -> Array:
    """The kernel (C_out, C_in, *kernel) of these weights."""
    if form.depthwise:
        return composition.compose(weights[2], weights[0] * weights[1], (1, 1))
    kernel = weights[0]
    for weight, step in zip(weights[1:], form.steps()[1:], strict=True):
        kernel = composition.compose(weight, kernel, step)
    return kernel


def amplification(factors: Factors) -> float:
    """How much larger than the kernel itself the terms are that add up to it: 1 without any cancellation.

    Rounding errors of the stages grow by it, so do sums in half precision.
    """
    terms = composed(factors.form, [np.abs(w) for w in factors.weights])
    return float(terms.sum() / max(float(np.abs(compose(factors)).sum()), np.finfo(float).tiny))


def unfitted(form: Form, shape: Shape, mid: Sequence[int], random: np.random.Generator) -> Factors:
    """Random weights of the right shapes and size, to measure what the form costs."""
    shapes = form.shapes(shape, mid)
    weights = tuple(random.standard_normal(s) * float(np.prod(s[1:])) ** -0.5 for s in shapes)
    return Factors(form, weights, random.standard_normal(shape[0]))


def stack(window: Window, kernels: Sequence[Pair], first_strides: Pair = (1, 1)) -> Form:
    """Stages with these kernels. `first_strides` are those of the first stage; the last has what remains."""
    size, steps = kernels[0], first_strides
    for kernel in kernels[1:]:
        size = composition.composite(kernel, size, steps)
    if size != window.kernel or any(s % f for s, f in zip(window.strides, first_strides, strict=True)):
        raise ValueError(f"{kernels} with strides {first_strides} do not make up {window}")
    if any(k < f for k, f in zip(kernels[0], first_strides, strict=True)):
        raise ValueError(f"the first kernel {kernels[0]} is smaller than its strides {first_strides}")
    last = tuple(s // f for s, f in zip(window.strides, first_strides, strict=True))
    strides = [first_strides, *[(1, 1)] * (len(kernels) - 2), last]
    begin, end = [window.begin] + [(0, 0)] * len(kernels), [window.end] + [(0, 0)] * len(kernels)
    stages = tuple(_stage(window, k, s, b, e) for k, s, b, e in zip(kernels, strides, begin, end, strict=False))
    marks = ["" if s == (1, 1) else f"/{_label(s)}" for s in strides]
    label = "-".join(_label(k) + mark for k, mark in zip(kernels, marks, strict=True))
    return Form(f"stack {label}", window, stages)


def separable(window: Window) -> Form:
    """K x 1 then 1 x K."""
    (h, w), (sh, sw), (top, left), (bottom, right) = window.kernel, window.strides, window.begin, window.end
    rows = _stage(window, (h, 1), (sh, 1), (top, 0), (bottom, 0))
    columns = _stage(window, (1, w), (1, sw), (0, left), (0, right))
    return Form(f"separable {h}x1-1x{w}", window, (rows, columns))


def bottleneck(window: Window, first: bool = True, last: bool = True) -> Form:
    """The kernel between a 1x1 that reduces the input's channels (`first`) and one that makes the output's."""
    stages = [_POINT] * first + [window] + [_POINT] * last
    return Form("bottleneck " + "-".join(_label(s.kernel) for s in stages), window, tuple(stages))


def cp(window: Window) -> Form:
    """1x1, depthwise, 1x1."""
    return Form(f"cp 1x1-dw{_label(window.kernel)}-1x1", window, (_POINT, window, _POINT), depthwise=True)


def candidates(window: Window) -> Iterator[Form]:
    """The forms worth trying for a convolution with this window."""
    if len(window.kernel) != 2 or window.kernel == (1, 1):
        return
    if min(window.kernel) > 1:
        yield separable(window)
    yield cp(window)
    yield bottleneck(window)
    yield bottleneck(window, last=False)
    yield bottleneck(window, first=False)
    yield from _stacks(window)


def _stacks(window: Window) -> Iterator[Form]:
    if max(window.kernel) < 4:
        return
    for number in (2, 3, 4):
        parts = [_split(k, number) for k in window.kernel]
        if max(max(p) for p in parts) < 3 or any(max(k) == 1 for k in zip(*parts, strict=True)):
            continue
        kernels = list(zip(*parts, strict=True))
        for order in dict.fromkeys((tuple(kernels), tuple(kernels[::-1]))):
            yield stack(window, order)
    k, s = window.kernel[0], window.strides[0]
    if s > 1 and window.kernel == (k, k) and window.strides == (s, s):
        pairs = [(inner, 1 + (k - inner) // s) for inner in range(s, k) if (k - inner) % s == 0]
        # A 2x2 after nearly the whole kernel costs most and fits worst: only where nothing else is left.
        for inner, outer in [p for p in pairs if p[1] > 2] or pairs:
            yield stack(window, ((inner, inner), (outer, outer)), (s, s))


def _split(kernel: int, number: int) -> list[int]:
    """Kernels that stack up to `kernel`, as equal as can be, the larger ones last; odd where `kernel` is."""
    unit = 2 if kernel % 2 else 1
    share, rest = divmod((kernel - 1) // unit, number)
    return [1 + unit * (share + (i >= number - rest)) for i in range(number)]


def _stage(window: Window, kernel: Pair, strides: Pair, begin: Pair, end: Pair) -> Window:
    """A dilation stays only on axes where there is more than one tap."""
    dilations = tuple(d if k > 1 else 1 for d, k in zip(window.dilations, kernel, strict=True))
    return Window(tuple(kernel), tuple(strides), dilations, tuple(begin), tuple(end))


def _read_by(window: Window, size: Pair) -> Pair:
    """How much of a map, without pads, is read for an output of this size."""
    axes = zip(size, window.kernel, window.strides, window.dilations, window.begin, window.end, strict=True)
    rows, columns = ((n - 1) * s + (k - 1) * d + 1 - b - e for n, k, s, d, b, e in axes)
    return rows, columns


def _label(kernel: Sequence[int]) -> str:
    return "x".join(map(str, kernel))


_POINT = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
