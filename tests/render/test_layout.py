"""Placing graphs: no box on another, every edge downwards, chains straight."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.render.layout import GAP_X, place


def test_nothing_is_an_empty_sheet() -> None:
    assert place({}, []).height == 0


def test_a_chain_is_straight() -> None:
    placed = place({"a": (80, 20), "b": (120, 40), "c": (60, 20)}, [("a", "b"), ("b", "c")])
    assert len({round(x, 6) for x, _ in placed.centres.values()}) == 1
    assert placed.width == 120
    assert [placed.centres[n][1] for n in "abc"] == sorted(placed.centres[n][1] for n in "abc")


def test_an_edge_past_a_layer_bends_around_it() -> None:
    placed = place({"a": (80, 20), "b": (80, 20), "c": (80, 20)}, [("a", "b"), ("b", "c"), ("a", "c")])
    course = placed.courses[2]
    assert len(course) == 3
    assert abs(course[1][0] - placed.centres["b"][0]) > 40


def test_a_source_stands_close_to_what_reads_it() -> None:
    boxes = dict.fromkeys("abcx", (50.0, 20.0))
    placed = place(boxes, [("a", "b"), ("b", "c"), ("x", "c")])
    assert placed.centres["x"][1] == placed.centres["b"][1]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, tuple[float, float]], list[tuple[str, str]]]:
    count = draw(st.integers(1, 14))
    names = [f"n{i}" for i in range(count)]
    widths = draw(st.lists(st.floats(10, 200), min_size=count, max_size=count))
    pairs = list(itertools.combinations(names, 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=25, unique=True)) if pairs else []
    return {n: (w, 30.0) for n, w in zip(names, widths, strict=True)}, edges


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_boxes_are_apart_and_edges_go_down(graph: tuple[dict[str, tuple[float, float]], list[tuple[str, str]]]) -> None:
    boxes, edges = graph
    placed = place(boxes, edges)
    for one, other in itertools.combinations(boxes, 2):
        (x, y), (u, v) = placed.centres[one], placed.centres[other]
        if y == v:
            assert abs(x - u) >= (boxes[one][0] + boxes[other][0]) / 2 + GAP_X - 1e-6
        else:
            assert abs(y - v) >= 30
    for (start, end), course in zip(edges, placed.courses, strict=True):
        assert placed.centres[start][1] < placed.centres[end][1]
        assert [y for _, y in course] == sorted(y for _, y in course)
    for name, (x, _) in placed.centres.items():
        assert x - boxes[name][0] / 2 >= -1e-6
        assert x + boxes[name][0] / 2 <= placed.width + 1e-6


@pytest.mark.parametrize("count", [1, 5, 24])
def test_parallel_branches_stand_side_by_side(count: int) -> None:
    branches = [f"b{i}" for i in range(count)]
    boxes = dict.fromkeys(["in", *branches, "out"], (60.0, 20.0))
    placed = place(boxes, [("in", b) for b in branches] + [(b, "out") for b in branches])
    assert len({placed.centres[b][1] for b in branches}) == 1
