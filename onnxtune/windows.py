"""The sliding window of a pool or convolution, and what a Pad node adds, free of how the opset writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnxtune.facts import Facts, Node


@dataclass(frozen=True)
class Window:
    """One number per spatial axis; `begin` and `end` are the pads before and after the map."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """The pads in ONNX's order."""
        return [*self.begin, *self.end]

    @property
    def always_meets_input(self) -> bool:
        """Does every window contain at least one element of the map, whatever its size?

        Undilated, with pads smaller than the kernel and no window cut off (ceil_mode 0 or stride 1):
        the first window ends at k - 1 - begin >= 0, the last starts at H + end - k < H or earlier.
        """
        padded = zip(self.kernel, self.begin, self.end, strict=True)
        return all(d == 1 for d in self.dilations) and all(max(b, e) < k for k, b, e in padded)

    def padded(self, begin: Sequence[int], end: Sequence[int]) -> Window:
        """The window with more pads."""
        before = tuple(a + b for a, b in zip(self.begin, begin, strict=True))
        after = tuple(a + b for a, b in zip(self.end, end, strict=True))
        return replace(self, begin=before, end=after)


def window(facts: Facts, node: Node) -> Window | str:
    """The window of a Conv or pool with explicit pads, or in words why it is not known."""
    kernel = node.attribute("kernel_shape")
    if kernel is None and len(node.inputs) > 1:
        kernel = (facts.shape(node.inputs[1]) or ())[2:]
    if not kernel or not all(isinstance(k, int) for k in kernel):
        return "the kernel's shape is not known"
    ones = [1] * len(kernel)
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    auto = node.attribute("auto_pad", "NOTSET") or "NOTSET"
    pads = node.attribute("pads", [0] * 2 * len(kernel))
    if auto == "VALID":
        pads = [0] * 2 * len(kernel)
    elif auto != "NOTSET":
        if any(s != 1 for s in strides):
            return f"auto_pad {auto} with a stride depends on the input's size"
        total = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    half = len(kernel)
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(pads[:half]), tuple(pads[half:]))


def every_window_meets_input(facts: Facts, pool: Node) -> bool:
    """Does every window of a pool contain at least one element of the map, whatever its size?

    auto_pad SAME adds less than an undilated kernel on each side. With ceil_mode the last window starts at
    H + end - k + s - 1 or earlier.
    """
    own = window(facts, pool)
    if isinstance(own, str):
        return all(d == 1 for d in pool.attribute("dilations", [1])) and bool(pool.attribute("kernel_shape"))
    if pool.attribute("ceil_mode", 0):
        reach = zip(own.kernel, own.strides, own.end, strict=True)
        return own.always_meets_input and all(e + s <= k for k, s, e in reach)
    return own.always_meets_input or not any(own.pads)


@dataclass(frozen=True)
class Padding:
    """What a Pad node adds: (before, after) per axis of the tensor; axes may be negative, as written."""

    amounts: Mapping[int, tuple[int, int]]
    mode: str
    value: float

    def at(self, rank: int) -> tuple[list[int], list[int]]:
        """Pads before and after each of `rank` axes."""
        full = {axis % rank: amount for axis, amount in self.amounts.items()}
        both = [full.get(axis, (0, 0)) for axis in range(rank)]
        return [b for b, _ in both], [e for _, e in both]


def padding(facts: Facts, node: Node) -> Padding | str:
    """A Pad node's parameters from its attributes or constant inputs, or in words why they are not known."""
    mode = node.attribute("mode", "constant") or "constant"
    amounts = node.attribute("pads")
    axes = None
    value = node.attribute("value", 0.0)
    if amounts is None:
        stored, fill, along = (facts.constant(node.input(i)) if node.input(i) else None for i in (1, 2, 3))
        for position, known in ((1, stored), (2, fill), (3, along)):
            if known is None and node.input(position):
                return f"'{node.input(position)}' is not constant"
        if stored is None:
            return "the pads are not known"
        amounts = stored.ravel().tolist()
        value = 0.0 if fill is None or not fill.size else float(fill.ravel()[0])
        axes = None if along is None else along.ravel().tolist()
    half = len(amounts) // 2
    named = range(half) if axes is None else axes
    return Padding(dict(zip(named, zip(amounts[:half], amounts[half:], strict=True), strict=True)), mode, value)
