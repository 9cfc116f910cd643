"""A rule that fails in any way costs its own rewrites and nothing else, and is named with where it comes from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rules_that_fail import BAD, DIES, dying, failing

from onnxtune.timebox import TimeUp, time_box


# Where the time is up during a garbage collection, another library's callback may see it first; it is raised again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", BAD)
def test_the_rest_goes_on(name: str, tmp_path: Path) -> None:
    assert failing(name, tmp_path) == ""


@pytest.mark.parametrize("name", DIES)
def test_a_crash_costs_what_crashed(name: str, tmp_path: Path) -> None:
    assert dying(name, tmp_path) == ""


def test_time_boxes_are_exact_about_whom_they_stop() -> None:
    for _ in range(200):  # on the edge: it comes within the box or not at all
        try:
            with time_box(0.01):
                end = time.perf_counter() + 0.01
                while time.perf_counter() < end:
                    pass
        except TimeUp:
            pass
        sum(range(2000))
    with pytest.raises(TimeUp):
        _spin(0.05)
    time.sleep(0.01)


def _spin(seconds: float) -> None:
    with time_box(seconds):
        while True:
            pass
