"""The original's answers are asked for once, as long as they fit into their room."""

from __future__ import annotations

import numpy as np

from onnxtune.calibrate.answers import Answers

SAMPLES = np.array([4, 1, 3])


def rows(samples: np.ndarray, positions: int, width: int = 2) -> np.ndarray:
    """Every number is another one, and says which sample and position it belongs to."""
    found = samples[:, None, None] * 100 + np.arange(positions)[:, None] * 10 + np.arange(width)
    return found.reshape(-1, width).astype(np.float32)


def test_what_was_kept_is_known_in_any_order() -> None:
    held = Answers(6)
    assert held.known("a", SAMPLES, 3) is None
    held.keep("a", SAMPLES, rows(SAMPLES, 3), (5, 5))
    for asked, positions in ((SAMPLES, 3), (SAMPLES[::-1], 3), (SAMPLES[:1], 3), (SAMPLES, 2)):
        found = held.known("a", asked, positions)
        assert found is not None
        assert found.size == (5, 5)
        assert np.array_equal(found.of(asked, positions), rows(asked, positions))
    assert held.known("a", np.array([4, 0]), 3) is None  # 0 was never asked
    assert held.known("a", SAMPLES, 4) is None  # nor a fourth position
    assert held.known("b", SAMPLES, 3) is None


def test_more_positions_take_the_place_of_fewer() -> None:
    held = Answers(6)
    held.keep("a", SAMPLES, rows(SAMPLES, 3), (2, 2))
    held.keep("a", SAMPLES[:2], rows(SAMPLES[:2], 4), (2, 2))
    assert held.known("a", SAMPLES, 4) is None
    for asked, positions in ((SAMPLES, 3), (SAMPLES[:2], 4), (SAMPLES[:2], 99)):
        found = held.known("a", asked, positions)
        assert found is not None
        assert np.array_equal(found.of(asked, positions), rows(asked, min(positions, 4)))
    assert held.known("a", SAMPLES, 99) is None  # the map has four


def test_fewer_positions_later_lose_nothing() -> None:
    held = Answers(6)
    held.keep("a", SAMPLES, rows(SAMPLES, 3), (2, 2))
    held.keep("a", SAMPLES, rows(SAMPLES, 2), (2, 2))
    found = held.known("a", SAMPLES, 3)
    assert found is not None
    assert np.array_equal(found.of(SAMPLES, 3), rows(SAMPLES, 3))


def test_matrices_have_one_row_each() -> None:
    held = Answers(6)
    held.keep("a", SAMPLES, rows(SAMPLES, 1), ())
    found = held.known("a", SAMPLES, 1)
    assert found is not None
    assert np.array_equal(found.of(SAMPLES, 1), rows(SAMPLES, 1))


def test_the_oldest_makes_room() -> None:
    each = 6 * 3 * 2 * 4
    held = Answers(6, most=2 * each)
    for key in "abc":
        held.keep(key, SAMPLES, rows(SAMPLES, 3), (5, 5))
    assert [held.known(key, SAMPLES, 3) is not None for key in "abc"] == [False, True, True]
    held.keep("d", SAMPLES, rows(SAMPLES, 9), (5, 5))  # never fits
    assert held.known("d", SAMPLES, 9) is None
