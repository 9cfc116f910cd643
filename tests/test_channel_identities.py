"""Identities: what is one, what changes together, how many pads come behind what."""

from __future__ import annotations

import numpy as np

from onnxtune.channels.identities import identities
from onnxtune.channels.reshaping import Place, placed, resolved


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_without_ties_every_channel_has_one_pad() -> None:
    identity, count, weights = identities(4, [(ids(0, 1), ids(2, 3))], [])
    assert (identity.tolist(), count, weights) == ([0, 1, 0, 1], 2, None)


def test_pads_of_a_block_come_behind_its_last_channel() -> None:
    """0 to 3 are the block of 4; 5 is one with 4."""
    ties = [(ids(4, 4, 4), ids(0, 1, 2), 0), (ids(4), ids(3), 4)]
    _, count, weights = identities(6, [(ids(4), ids(5))], ties)
    assert count == 1
    assert weights is not None
    assert weights.tolist() == [0, 0, 0, 4, 1, 1]


def test_weights_are_the_least_whole_numbers() -> None:
    ties = [(ids(0), ids(1), 4), (ids(2), ids(1), 6)]
    _, _, weights = identities(3, [], ties)
    assert weights is not None
    assert weights.tolist() == [3, 12, 2]


def test_contradictions_leave_no_pads() -> None:
    for ties in (
        [(ids(0), ids(1), 2), (ids(0), ids(1), 3)],
        [(ids(0), ids(1), 2), (ids(0), ids(1), 0)],
        [(ids(0), ids(1), 2), (ids(1), ids(0), 1)],
    ):
        _, count, weights = identities(2, [], ties)
        assert weights is not None
        assert (count, weights.tolist()) == (1, [0, 0])


def test_sizes_of_a_reshape() -> None:
    assert resolved(["N", 6, "H", 4], [0, -1, 0, 2]) == ["N", 12, "H", 2]
    assert resolved(["N", 6, 4], [-1, 24]) == ["N", 24]
    assert resolved(["N", 6, 4], [-1, 12]) == ["?", 12]
    assert resolved(["N", 6, "H"], [-1, 6]) == ["?", 6]
    assert resolved([2, 6, 4], [4, -1]) == [4, 12]


def test_places_of_channels_after_a_reshape() -> None:
    assert placed(["N", 6, 1, 1], ["N", 6], 1) == Place(1, 1)
    assert placed(["N", 1, 1, 6], ["N", 6], 3) == Place(1, 1)
    assert placed(["N", 6, 5, 7], ["N", 210], 1) == Place(1, 1, 1, 35)
    assert placed(["N", 5, 7, 6], ["N", 210], 3) == Place(1, 1, 35, 1)
    assert placed(["N", 5, 6, 7], ["N", 210], 2) == Place(1, 1, 5, 7)
    assert placed(["N", 6, 5, 7], ["N", 2, 3, 5, 7], 1) == Place(1, 2)
    assert placed(["N", 6, 5, 7], ["N", 3, 2, 35], 1) == Place(1, 2)
    assert placed(["N", 6, "H", "W"], ["N", 6, "?"], 1) == Place(1, 1)
    assert placed(["N", 6, "H", "W"], ["N", 3, 2, "H", "W"], 1) == Place(1, 2)


def test_reshapes_that_mix_channels_with_something() -> None:
    assert placed(["N", 6, 4], ["N", 8, 3], 1) is None
    assert placed(["N", 6, "H"], ["N", "?"], 1) is None
    assert placed(["N", 6, 4], ["?", 4], 1) is None
    assert placed([4, 6, 4], [6, 4, 4], 1) is None
