"""The benchmark suite: its networks run, its tables and figure say what the results say."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.suite import figure, table
from benchmarks.suite.architectures import ARCHITECTURES
from benchmarks.suite.classics import classic
from benchmarks.suite.contenders import Contender, make
from benchmarks.suite.net import Net


def run(model: onnx.ModelProto, batch: int = 1) -> list[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else batch for d in fed.shape]
    return list(session.run(None, {fed.name: np.random.default_rng(0).random(shape, np.float32)}))


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "convnext", "repvgg_a0", "unet", "yolo_spp"])
def test_built_networks_run_at_any_batch(name: str) -> None:
    model = ARCHITECTURES[name]()
    assert all(np.isfinite(o).all() and o.std() > 0 for o in run(model, batch=2))


def test_built_networks_are_the_same_every_time() -> None:
    assert ARCHITECTURES["mobilenet_v2"]() == ARCHITECTURES["mobilenet_v2"]()


def test_classics_have_mild_logits() -> None:
    (probabilities,) = run(classic("squeezenet"))
    assert 1e-3 < probabilities.max() < 0.9
    weights = [i for i in classic("squeezenet").graph.initializer if len(i.dims) == 4]
    assert len(np.unique(onnx.numpy_helper.to_array(weights[0])[:, 0, 0, 0])) == weights[0].dims[0]


def small(tmp_path: Path) -> Path:
    net = Net(8)
    path = tmp_path / "small.onnx"
    onnx.save(net.model("small", net.classify(net.conv(net.input, 8, 3, act="Relu6"), 4)), path)
    return path


@pytest.mark.parametrize(
    "contender", [Contender("onnxslim"), Contender("onnxtune exact", {"exact_only": True, "time_budget": 1})]
)
def test_contenders_make_a_model_and_say_what_they_took(tmp_path: Path, contender: Contender) -> None:
    made = make(contender, small(tmp_path), tmp_path / "out.onnx")
    assert made.failure == ""
    assert made.facts["seconds"] > 0
    assert 10e6 < made.facts["peak_bytes"] < 8e9
    assert run(onnx.load(made.path))[0].shape == (1, 4)


def test_a_contender_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    made = make(Contender("onnxslim"), tmp_path / "broken.onnx", tmp_path / "out.onnx")
    assert made.failure
    assert not made.path.exists()


def entry(speedup: float, **more: Any) -> dict[str, Any]:
    return {
        "median": 0.01 / speedup,
        "speedup": speedup,
        "low": speedup - 0.02,
        "high": speedup + 0.02,
        "error": 1e-6,
        "made": {"seconds": 1.0, "peak_bytes": 200e6, "rules": {"pad_channels": 2}, "gate": None},
        **more,
    }


RESULTS: dict[str, Any] = {
    "machine": {"cpu": {"model": "A processor"}, "versions": {"onnxruntime": "1.30"}, "key": "k"},
    "batch": 1,
    "threads": 1,
    "models": [
        {
            "model": "one",
            "kind": "trained",
            "large": True,
            "metric": "top1",
            "contenders": {
                "original": entry(1.0, score=0.8),
                "onnxsim": entry(1.01),
                "onnxslim": entry(1.5),
                "onnxtune exact": entry(1.4),
                "onnxtune within 1%": entry(4.0, score=0.795),
            },
            "failures": {"onnxoptimizer": "IndexError: list index"},
            "against_best_peer": {"peer": "onnxslim", "speedup": 0.93, "low": 0.9, "high": 0.96, "verdict": "slower"},
        },
        {"model": "two", "kind": "classic", "skipped": "its batch is fixed"},
    ],
}


def test_the_table_has_every_model_and_what_was_left_out() -> None:
    text = table.markdown(RESULTS)
    assert "| one | 10.00 | 1.01x | 1.50x | failed | 1.40x [1.38, 1.42] | 1e-06 | pad_channels x2 |" in text
    assert "| one | top1 | 0.8 | onnxtune within 1% | 4.00x [3.98, 4.02] | 0.795 |" in text
    assert "- two: its batch is fixed" in text
    assert "onnxoptimizer: IndexError" in text


def test_bold_is_for_what_is_ahead_of_every_other() -> None:
    ahead = copy.deepcopy(RESULTS)
    ahead["models"][0]["against_best_peer"]["verdict"] = "faster"
    assert "**1.40x" in table.markdown(ahead)
    assert "**1.40x [" not in table.markdown(RESULTS)


def test_the_summary_names_the_models_where_a_peer_is_ahead() -> None:
    text = table.summary(RESULTS)
    assert "behind onnxslim: one 0.93x" in text
    assert "onnxtune within 1%: 4.000x of 1 models" in text


def test_the_figure_is_the_same_every_time() -> None:
    drawn = figure.svg(RESULTS)
    assert drawn == figure.svg(json.loads(json.dumps(RESULTS)))
    assert drawn.startswith("<?xml")
