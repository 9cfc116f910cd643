"""Every model of the table of rare ones: right, declined, or refused in words."""

from __future__ import annotations

import onnx
import pytest
import strange

MODELS = dict(strange.models())


@pytest.mark.parametrize("name", MODELS)
def test_right_or_refused(name: str) -> None:
    outcome = strange.judge(name, MODELS[name])
    assert outcome.status != "lost", outcome.reason


def test_the_table_reaches_from_the_oldest_to_the_newest() -> None:
    assert strange.NEWEST >= 21
    assert {f"opset {n}" for n in range(7, strange.NEWEST + 1)} <= MODELS.keys()
    assert {f"IR {n}" for n in range(3, onnx.IR_VERSION + 1)} <= MODELS.keys()
    assert len(MODELS) >= 90
