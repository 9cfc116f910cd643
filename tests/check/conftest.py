"""Checks estimate costs for one kind of processor, whichever runs the tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.channels.cost.cpu_features", lambda: frozenset({"avx", "avx512f"}))
