"""Choosing among overlapping rewrites: as good as trying all sets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.proposal import Fragment, Proposal, overlap
from onnxtune.select import EXACT_LIMIT, select


def proposals(regions: Sequence[frozenset[str]]) -> list[Proposal]:
    return [Proposal("rule", "", region, Fragment(())) for region in regions]


def fits(chosen: Sequence[int], made: Sequence[Proposal]) -> bool:
    return not any(overlap(made[i], made[j]) for i, j in itertools.combinations(chosen, 2))


def best_by_trying_all(made: Sequence[Proposal], saved: Sequence[float]) -> float:
    indices = range(len(made))
    sets = itertools.chain.from_iterable(itertools.combinations(indices, n) for n in range(len(made) + 1))
    return max(sum(saved[i] for i in s) for s in sets if fits(s, made))


regions = st.lists(st.frozensets(st.sampled_from("abcdefgh"), min_size=1, max_size=4), max_size=9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), made=regions.map(proposals))
def test_as_good_as_trying_all_sets(data: st.DataObject, made: list[Proposal]) -> None:
    values = st.lists(st.integers(-5, 20).map(float), min_size=len(made), max_size=len(made))
    saved = data.draw(values)
    chosen = select(made, saved)
    assert chosen == sorted(set(chosen))
    assert fits(chosen, made)
    assert sum(saved[i] for i in chosen) == best_by_trying_all(made, saved)
    assert all(saved[i] > 0 for i in chosen), "what saves nothing is not chosen"


def test_nothing() -> None:
    assert select([], []) == []


def test_disjoint_ones_are_all_taken() -> None:
    made = proposals([frozenset({c}) for c in "abc"])
    assert select(made, [1.0, 2.0, 3.0]) == [0, 1, 2]


def test_two_small_ones_beat_a_large_one() -> None:
    made = proposals([frozenset("ab"), frozenset("a"), frozenset("b")])
    assert select(made, [3.0, 2.0, 2.0]) == [1, 2]
    assert select(made, [5.0, 2.0, 2.0]) == [0]


def test_the_first_wins_a_tie() -> None:
    made = proposals([frozenset("a"), frozenset("a")])
    assert select(made, [1.0, 1.0]) == [0]


def test_large_groups_are_chosen_quickly_and_without_overlap() -> None:
    """A chain in which each overlaps the next: 60 members, far beyond a complete search."""
    made = proposals([frozenset({f"n{i}", f"n{i + 1}"}) for i in range(60)])
    chosen = select(made, [float(i % 7) for i in range(60)])
    assert len(made) > EXACT_LIMIT
    assert fits(chosen, made)
    assert chosen


def test_many_variants_of_many_places() -> None:
    """Six variants at each of 40 places: groups are solved on their own."""
    made = proposals([frozenset({f"n{i}"}) for i in range(40) for _ in range(6)])
    chosen = select(made, [float(v) for _ in range(40) for v in range(6)])
    assert chosen == [6 * i + 5 for i in range(40)]
