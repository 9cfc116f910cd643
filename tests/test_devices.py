"""How many threads are worth while here."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxtune import devices


@pytest.mark.parametrize(
    ("quota", "physical", "usable", "cores"),
    [
        ("max 100000\n", 8, 16, 8),
        ("max 100000\n", 8, 4, 4),
        ("max 100000\n", None, 4, 4),
        ("150000 100000\n", 8, 16, 2),
        ("10000 100000\n", 8, 16, 1),
        ("nonsense", 8, 16, 8),
        (None, 8, 16, 8),
    ],
)
def test_cores_that_are_granted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, physical: int | None, usable: int, cores: int
) -> None:
    monkeypatch.setattr(devices, "physical_cores", lambda: physical)
    monkeypatch.setattr(devices, "usable_cores", lambda: usable)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert devices.granted_cores(tmp_path / "cpu.max") == cores
