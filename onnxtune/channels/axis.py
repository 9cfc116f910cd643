"""The channel axis of a tensor as a list of channel identities, and its form under new counts.

A channel has one identity in every tensor that it passes through: the output of Relu holds the
identities of its input, Concat joins lists, Split cuts them, Add makes its operands' identities one. New
counts then say for each identity how many channels stand in its place:

    1        the channel stays
    0        it is removed
    1 + k    it stays and k pad channels follow it

so that every tensor that holds an identity changes in the same place, and all index arithmetic
(where a Slice starts, which columns of a Gemm belong to a channel) follows from the lists.
Flatten makes each channel a block of H * W neighbouring columns: `blocks` holds the widths.

Channels that only change together (the same place in every group of a convolution, the b * b channels that
DepthToSpace makes one of) are different channels with one identity. Where they stand side by side, the
pads of all of them come after the last: `pads` holds how many indices each pad channel adds behind a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Axis:
    """ids: (channels,) identity of each channel; blocks: (channels,) how many indices it takes; pads: (channels,)
    how many each pad channel adds behind it, None: as many as `blocks`. `dim`: which axis of the tensor it is."""

    ids: Integers
    blocks: Integers
    dim: int = 1
    pads: Integers | None = None

    @property
    def size(self) -> int:
        """Length of the axis."""
        return int(self.blocks.sum())

    @property
    def grows(self) -> Integers:
        """(channels,) how many indices each pad channel adds behind a channel."""
        return self.blocks if self.pads is None else self.pads

    def at(self, dim: int) -> Axis:
        """The same channels along another axis of a tensor."""
        return self if dim == self.dim else replace(self, dim=dim)

    @property
    def plain(self) -> bool:
        """One index per channel."""
        return bool((self.blocks == 1).all())

    def spread(self, times: int) -> Axis:
        """The axis after Flatten of maps with `times` elements."""
        return replace(self, blocks=self.blocks * times, pads=None if self.pads is None else self.pads * times)

    def repeated(self, times: int) -> Axis:
        """The whole list several times."""
        pads = None if self.pads is None else np.tile(self.pads, times)
        return Axis(np.tile(self.ids, times), np.tile(self.blocks, times), self.dim, pads)

    def chosen(self, channels: Any) -> Axis:
        """Some channels (a slice, or places in any order)."""
        pads = None if self.pads is None else self.pads[channels]
        return Axis(self.ids[channels], self.blocks[channels], self.dim, pads)

    def between(self, start: int, end: int) -> Axis | None:
        """The part from index `start` to `end`; None when a block would be cut."""
        edges = np.concatenate([[0], np.cumsum(self.blocks)])
        first, last = (int(np.searchsorted(edges, v)) for v in (start, end))
        if last > len(self.ids) or edges[first] != start or edges[last] != end:
            return None
        return self.chosen(slice(first, last))

    def widths(self, counts: Integers) -> Integers:
        """(channels,): how many indices a channel and the pads behind it take under the new counts."""
        number = counts[self.ids]
        return np.where(number > 0, self.blocks + (number - 1) * self.grows, 0)

    def position(self, index: int, counts: Integers) -> int:
        """Where the boundary before `index` lies under the new counts."""
        first = int(np.searchsorted(np.concatenate([[0], np.cumsum(self.blocks)]), index))
        return int(self.widths(counts)[:first].sum())

    def source(self, counts: Integers) -> Integers:
        """For each index of the new axis the index of the old one that it holds, -1 for pads."""
        number = self.widths(counts)
        owner = np.repeat(np.arange(len(self.ids)), number)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
        start = np.cumsum(self.blocks) - self.blocks
        return np.where(offset < self.blocks[owner], start[owner] + offset, -1)


def joined(axes: Sequence[Axis]) -> Axis:
    """The axis of Concat over the channels."""
    pads = None if all(a.pads is None for a in axes) else np.concatenate([a.grows for a in axes])
    return Axis(np.concatenate([a.ids for a in axes]), np.concatenate([a.blocks for a in axes]), axes[0].dim, pads)


def take(values: NDArray[Any], axis: int, source: Integers | None, fill: float) -> NDArray[Any]:
    """`values` with the indices of one axis rearranged as `source` says; pads hold `fill`. None: as it is."""
    if source is None:
        return values
    taken = np.take(values, np.maximum(source, 0), axis)
    index: list[Any] = [slice(None)] * values.ndim
    index[axis] = source < 0
    taken[tuple(index)] = fill
    return taken
