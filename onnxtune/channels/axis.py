"""The channel axis (axis 1) of a tensor as a list of channel identities, and its form under new counts.

A channel has one identity in every tensor that it passes through: the output of Relu holds the
identities of its input, Concat joins lists, Split cuts them, Add makes its operands' identities one. New
counts then say for each identity how many channels stand in its place:

    1        the channel stays
    0        it is removed
    1 + k    it stays and k pad channels follow it

so that every tensor that holds an identity changes in the same place, and all index arithmetic
(where a Slice starts, which columns of a Gemm belong to a channel) follows from the lists.
Flatten makes each channel a block of H * W neighbouring columns: `blocks` holds the widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Axis:
    """ids: (channels,) identity of each channel; blocks: (channels,) how many indices of axis 1 it takes."""

    ids: Integers
    blocks: Integers

    @property
    def size(self) -> int:
        """Length of axis 1."""
        return int(self.blocks.sum())

    @property
    def plain(self) -> bool:
        """One index per channel."""
        return bool((self.blocks == 1).all())

    def spread(self, times: int) -> Axis:
        """The axis after Flatten of maps with `times` elements."""
        return Axis(self.ids, self.blocks * times)

    def between(self, start: int, end: int) -> Axis | None:
        """The part of axis 1 from index `start` to `end`; None when a block would be cut."""
        edges = np.concatenate([[0], np.cumsum(self.blocks)])
        first, last = (int(np.searchsorted(edges, v)) for v in (start, end))
        if last > len(self.ids) or edges[first] != start or edges[last] != end:
            return None
        return Axis(self.ids[first:last], self.blocks[first:last])

    def position(self, index: int, counts: Integers) -> int:
        """Where the boundary before `index` lies under the new counts."""
        first = int(np.searchsorted(np.concatenate([[0], np.cumsum(self.blocks)]), index))
        return int((self.blocks[:first] * counts[self.ids[:first]]).sum())

    def source(self, counts: Integers) -> Integers:
        """For each index of the new axis the index of the old one that it holds, -1 for pads."""
        number = counts[self.ids] * self.blocks
        owner = np.repeat(np.arange(len(self.ids)), number)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
        start = np.cumsum(self.blocks) - self.blocks
        return np.where(offset < self.blocks[owner], start[owner] + offset, -1)


def joined(axes: Sequence[Axis]) -> Axis:
    """The axis of Concat over axis 1."""
    return Axis(np.concatenate([a.ids for a in axes]), np.concatenate([a.blocks for a in axes]))


def take(values: NDArray[Any], axis: int, source: Integers | None, fill: float) -> NDArray[Any]:
    """`values` with the indices of one axis rearranged as `source` says; pads hold `fill`. None: as it is."""
    if source is None:
        return values
    taken = np.take(values, np.maximum(source, 0), axis)
    index: list[Any] = [slice(None)] * values.ndim
    index[axis] = source < 0
    taken[tuple(index)] = fill
    return taken
