"""`optimize -v` and `decide`: every decision when it falls, none twice, and the report has the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxtune
from onnxtune.cli import main
from onnxtune.comparison import compare
from onnxtune.proposal import Decline
from onnxtune.render.decision import line
from onnxtune.report import Kept, Outcome, Rejected, Rewrite
from onnxtune.testing import model_of

pytestmark = pytest.mark.usefixtures("quick")
REWRITE = Rewrite("pad_channels", "Conv -> Conv", "conv1", 2, "exact", False, {"to": 64})
FASTER = compare(np.full((4, 5, 2), 2.0), np.full((4, 5, 2), 1.0), seed=0)


@pytest.fixture
def model() -> onnx.ModelProto:
    """An LRN, and a Pad of ones that no rule can fold."""
    weights = {
        "w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32),
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "one": np.array(1, np.float32),
    }
    body = "q = Pad (x, p, one)  c = Conv (q, w)  y = LRN <size = 5> (c)"
    return model_of(f"g (float[N, 3, 20, 20] x) => (float[N, 8, 20, 20] y) {{ {body} }}", weights)


def test_told_as_they_fall(model: onnx.ModelProto) -> None:
    told: list[Outcome | str] = []
    result = onnxtune.optimize(
        model, providers="cpu", threads=1, force_rules=["replace_lrn"], cache=False, decide=told.append
    )
    kinds = {type(d) for d in told}
    assert {Kept, Decline, str} <= kinds
    assert any(isinstance(d, Kept) and d.rewrite.rule == "replace_lrn" for d in told)
    assert any(isinstance(d, Decline) and d.rule == "fold_pad" for d in told)
    assert isinstance(told[-1], str)
    assert "whole model with 1 rewrites" in told[-1], "the confirmation comes last"
    declines = [d for d in told if isinstance(d, Decline)]
    assert len(declines) == len(set(declines)), "none twice"
    assert set(result.report.declined) == set(declines)


def test_on_stderr_with_v_alone(model: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    words = [
        "optimize",
        str(path),
        "--force-rules",
        "replace_lrn",
        "--threads",
        "1",
        "--providers",
        "cpu",
        "--no-cache",
    ]
    for flags, expected in (((), False), (("-v",), True)):
        with pytest.raises(SystemExit) as stop:
            main([*words, *flags])
        assert not stop.value.code
        err = capsys.readouterr().err
        assert ("taken     replace_lrn" in err) == expected
        assert ("declined  fold_pad" in err) == expected
        assert err == "" or expected


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (
            Kept(REWRITE, FASTER, None, "faster"),
            "taken     pad_channels at conv1 (Conv -> Conv; to 64): 2.00x [2.00, 2.00]",
        ),
        (Kept(REWRITE, None, None, "forced"), "taken     pad_channels at conv1 (Conv -> Conv; to 64): forced"),
        (
            Rejected(REWRITE, "verify", "it differs"),
            "refused   pad_channels at conv1 (Conv -> Conv; to 64): it differs",
        ),
        (Rejected(REWRITE, "confirm", "slower"), "dropped   pad_channels at conv1 (Conv -> Conv; to 64): slower"),
        (Decline("simplify", "", "it failed"), "declined  simplify: it failed"),
        ("whole model: faster", "so far    whole model: faster"),
    ],
)
def test_one_line(decision: Outcome | str, said: str) -> None:
    assert line(decision).startswith(said)
