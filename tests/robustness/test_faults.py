"""A bounded part of the fault campaign (all of it: `python tests/robustness/faults.py`)."""

from __future__ import annotations

import random
from pathlib import Path

import faults
import imports
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(faults.os.name == "nt", reason="signals of POSIX")]


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> dict[float, float]:
    """How long an undisturbed run takes here."""
    return faults.durations(tmp_path_factory.mktemp("first"), [0.0])


@pytest.fixture(autouse=True)
def without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "BUDGETS", (0.0,))


def test_killed_at_any_moment(tmp_path: Path, longest: dict[float, float]) -> None:
    count = faults.kills(tmp_path, 4, random.Random(1), longest)
    assert count.tried == 5
    assert not count.lost


def test_interrupted_at_any_moment(tmp_path: Path, longest: dict[float, float]) -> None:
    count = faults.interrupts(tmp_path, 4, random.Random(2), longest)
    assert count.tried == 4
    assert not count.lost


def test_interrupted_while_it_imports(tmp_path: Path) -> None:
    count = imports.imports(tmp_path, 4, random.Random(3))
    assert count.tried == 8
    assert not count.lost


def test_two_at_once(tmp_path: Path) -> None:
    assert not faults.pairs(tmp_path, 1).lost


def test_disks_and_rights(tmp_path: Path) -> None:
    count = faults.files(tmp_path)
    assert count.tried >= 9
    assert not count.lost
