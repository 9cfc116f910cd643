"""What all tests share: a measurement cache of their own, and the models beside the checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from onnxtune.measure import Plan

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/, behind everything: onnxtune is the one installed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, metavar="N", help="run about N tests of each file, spread over it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of each file the first, the last, and others at equal distances. (Files begin with where a rule fires.)"""
    count = config.getoption("--sample")
    if count is None:
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    kept: list[pytest.Item] = []
    for found in files.values():
        last, steps = len(found) - 1, max(count - 1, 1)
        kept += [found[i] for i in sorted({round(k * last / steps) for k in range(count)})]
    chosen = {id(item) for item in kept}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's measurements."""
    monkeypatch.setenv("ONNXTUNE_CACHE_DIR", str(tmp_path / "onnxtune-cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real models and data: $ONNXTUNE_SHARED, else ../shared beside the repository."""
    folder = Path(os.environ.get("ONNXTUNE_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"no models in {folder}; set ONNXTUNE_SHARED to the folder that has them")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements take a few rounds only. For tests in which no clock decides what happens."""
    plan = Plan(warmup=0.0, rounds=3, duration=0.0)
    monkeypatch.setattr("onnxtune.trial.REGION_PLAN", plan)
    monkeypatch.setattr("onnxtune.trial.ENABLING_PLAN", plan)
    monkeypatch.setattr("onnxtune.trial.WIDE_PLAN", plan)
    monkeypatch.setattr("onnxtune.trial.MODEL_PLAN", plan)
    monkeypatch.setattr("onnxtune.trial.CONFIRM_PLANS", (plan,))
    monkeypatch.setattr("onnxtune.profile.SECONDS", 0.0)
