"""Axis: positions, parts and rearrangements against plain lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.channels.axis import Axis, joined, take


def axis(ids: list[int], blocks: list[int]) -> Axis:
    return Axis(np.array(ids, np.int64), np.array(blocks, np.int64))


def expected(ids: list[int], blocks: list[int], counts: list[int]) -> list[int]:
    """The new axis, index by index."""
    found, start = [], 0
    for i, width in zip(ids, blocks, strict=True):
        if counts[i]:
            found += [*range(start, start + width), *[-1] * ((counts[i] - 1) * width)]
        start += width
    return found


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_source_is_the_definition(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    blocks = data.draw(st.lists(st.integers(1, 3), min_size=len(ids), max_size=len(ids)))
    counts = data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))
    source = axis(ids, blocks).source(np.array(counts))
    assert source.tolist() == expected(ids, blocks, counts)


def test_parts_start_and_end_between_blocks() -> None:
    whole = axis([3, 5, 4], [2, 2, 3])
    part = whole.between(2, 7)
    assert part is not None
    assert (part.ids.tolist(), part.blocks.tolist()) == ([5, 4], [2, 3])
    assert whole.between(1, 4) is None
    assert whole.between(2, 9) is None


def test_positions_move_with_the_channels_before_them() -> None:
    counts = np.array([0, 0, 0, 3, 1, 1])
    assert [axis([3, 5, 4], [2, 2, 3]).position(i, counts) for i in (0, 2, 4, 7)] == [0, 6, 8, 11]


def test_joined_axis_has_both_lists() -> None:
    both = joined([axis([1, 0], [1, 1]), axis([2], [4])])
    assert (both.ids.tolist(), both.size) == ([1, 0, 2], 6)


def test_take_fills_the_pads_along_its_axis() -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert take(values, 1, np.array([2, -1, 0]), 9.0).tolist() == [[2, 9, 0], [5, 9, 3]]
    assert take(values, 0, None, 9.0) is values
