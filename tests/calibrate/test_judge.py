"""Which metric judges which output, what a worse network costs, and what cannot be judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from smallnet import classifier, images, write_data

from onnxtune.calibrate.dataset import open_dataset
from onnxtune.calibrate.functions import named
from onnxtune.calibrate.judge import Judge, joined, plan_outputs
from onnxtune.errors import DataError, UsageError
from onnxtune.model import Model
from onnxtune.runtime import Target
from onnxtune.testing import model_of


def worse(proto: onnx.ModelProto, noise: float) -> Model:
    """The model with noise on its weights."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    rng = np.random.default_rng(0)
    for tensor in changed.graph.initializer:
        value = numpy_helper.to_array(tensor)
        moved = value + noise * np.abs(value).mean() * rng.standard_normal(value.shape)
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return Model(changed)


def test_more_noise_costs_more(tmp_path: Path) -> None:
    proto = classifier()
    with open_dataset(str(write_data(tmp_path)), Model(proto)) as data:
        judge = Judge(Model(proto), data, Target())
        indices = np.arange(300)
        drops = [judge.drop(judge.score(worse(proto, s), indices), indices) for s in (0.0, 0.3, 3.0)]
    assert judge.main.metric == "top1"
    assert drops[0].estimate == 0
    assert drops[0].before is not None
    assert drops[0].before > 0.7
    assert drops[0].estimate <= drops[1].estimate < drops[2].estimate
    assert drops[2].labelled is not None
    assert drops[2].labelled > 0.1


def test_scores_of_folds_are_joined_in_their_order(tmp_path: Path) -> None:
    proto = classifier()
    with open_dataset(str(write_data(tmp_path)), Model(proto)) as data:
        judge = Judge(Model(proto), data, Target())
        folds = [np.array([5, 3]), np.array([0, 299])]
        indices, scores = joined([(f, judge.score(Model(proto), f)) for f in folds])
    np.testing.assert_allclose(scores["logits"], judge.before["logits"][indices], atol=1e-5)


LOGITS, MAP = np.zeros((2, 10), np.float32), np.zeros((2, 1, 8, 8), np.float32)
CLASSES, TARGETS = np.zeros(5, np.int64), np.zeros((5, 1, 8, 8))


@pytest.mark.parametrize(
    ("output", "labels", "metric", "chosen"),
    [
        (LOGITS, CLASSES, None, "top1"),
        (LOGITS, None, None, "agreement"),
        (LOGITS, None, "top1", "top1"),
        (LOGITS[:, :, None, None], CLASSES, None, "top1"),
        (MAP, None, None, "relative_error"),
        (MAP, TARGETS, None, "psnr"),
        (MAP, None, "psnr", "psnr"),
        (LOGITS[:, :1], None, None, "relative_error"),
    ],
)
def test_metric_by_output_and_labels(output: Any, labels: Any, metric: str | None, chosen: str) -> None:
    (plan,) = plan_outputs({"y": output}, labels, metric)
    assert plan.metric == chosen
    assert plan.why


def test_every_output_is_judged() -> None:
    plans = plan_outputs({"a": LOGITS, "ids": np.zeros(2, np.int64), "b": MAP}, None, None)
    assert [(p.output, p.metric) for p in plans] == [("a", "agreement"), ("b", "relative_error")]


@pytest.mark.parametrize(("output", "metric"), [(MAP, "top1"), (LOGITS, "f1"), (np.zeros(2, np.int64), None)])
def test_metrics_that_do_not_fit(output: Any, metric: str | None) -> None:
    with pytest.raises(UsageError):
        plan_outputs({"y": output}, None, metric)


def _judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str) -> Judge:
    (tmp_path / f"{name}.py").write_text(f"import numpy as np\ndef score(outputs, labels):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    proto = classifier()
    with open_dataset(str(write_data(tmp_path)), Model(proto)) as data:
        return Judge(Model(proto), data, Target(), metric=f"{name}:score")


def test_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = _judged(tmp_path, monkeypatch, "metric_one", "return (outputs['logits'].argmax(1) == labels).astype(float)")
    assert 0.7 < judge.before["logits"].mean() <= 1


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("metric_raises", "raise KeyError('boom')", "it raised KeyError"),
        ("metric_scalar", "return 0.5", "a score for each"),
        ("metric_nan", "return np.full(len(labels), np.nan)", "NaN or infinite"),
        ("metric_exits", "raise SystemExit(4)", "it raised SystemExit: 4"),
        ("metric_words", "return ['good'] * len(labels)", "it returned a list that is no numbers"),
        ("metric_none", "return None", "(that is no numbers|NaN or infinite|a score for each)"),
    ],
)
def test_users_function_that_fails(
    name: str, body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"--metric {name}:score: .*{message}"):
        _judged(tmp_path, monkeypatch, name, body)


def test_functions_that_do_not_exist(tmp_path: Path) -> None:
    proto = classifier()
    with open_dataset(str(write_data(tmp_path)), Model(proto)) as data:
        for metric in ("no_such_module:f", "json:no_such", "json:__name__"):
            with pytest.raises(UsageError, match="--metric"):
                Judge(Model(proto), data, Target(), metric=metric)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("module_raises", "raise RuntimeError('boom')", "cannot be imported: it raised RuntimeError: boom"),
        ("module_exits", "import sys; sys.exit(3)", "cannot be imported: it raised SystemExit: 3"),
        ("module_broken", "def score(:", "cannot be imported: it raised SyntaxError: .*module_broken.py, line 1"),
        ("module_needs", "import no_such_module", r"cannot be imported \(No module named 'no_such_module'\)"),
        ("", "", "expected module:function"),
    ],
)
def test_modules_that_fail(name: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^--metric {name}:score: {message}"):
        named("--metric", f"{name}:score")


def test_ctrl_c_in_the_users_code_is_no_error_of_his(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_waits.py").write_text("raise KeyboardInterrupt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        named("--metric", "module_waits:score")


def test_labels_beyond_the_classes(tmp_path: Path) -> None:
    x, labels = images(50)
    labels[7] = 4
    np.savez(tmp_path / "d.npz", image=x, labels=labels)
    proto = classifier()
    with (
        open_dataset(str(tmp_path / "d.npz"), Model(proto)) as data,
        pytest.raises(DataError, match="label 4, but output 'logits' has 4 classes"),
    ):
        Judge(Model(proto), data, Target())


def test_psnr_against_targets(tmp_path: Path) -> None:
    text = "g (float[N, 1, 8, 8] x) => (float[N, 1, 8, 8] y) { y = Mul (x, k) }"
    model, dimmer = (Model(model_of(text, {"k": np.array(v, np.float32)})) for v in (1.0, 0.9))
    x = np.random.default_rng(0).random((20, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, targets=np.clip(x + 0.1, 0, 1))
    with open_dataset(str(tmp_path / "d.npz"), model) as data:
        judge = Judge(model, data, Target())
        drop = judge.drop(judge.score(dimmer, np.arange(20)), np.arange(20))
    assert drop.metric == "psnr"
    assert drop.before is not None
    assert drop.before > 20
    assert drop.estimate > 1
    assert drop.bound > drop.estimate


def test_border_pixels_need_not_count(tmp_path: Path) -> None:
    """Zero padding spoils the border of the rewritten output only."""
    text = "g (float[N, 1, 12, 12] x) => (float[N, 1, 12, 12] y) { %s }"
    model = Model(model_of(text % "y = Identity (x)"))
    frame = np.pad(np.zeros((8, 8), np.float32), 2, constant_values=0.5)
    spoiled = Model(model_of(text % "y = Add (x, f)", {"f": frame}))
    x = np.random.default_rng(0).random((20, 1, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, targets=x + 0.01)
    with open_dataset(str(tmp_path / "d.npz"), model) as data:
        drops = []
        for border in (0, 2):
            judge = Judge(model, data, Target(), crop_border=border)
            drops.append(judge.drop(judge.score(spoiled, np.arange(20)), np.arange(20)).estimate)
        with pytest.raises(UsageError, match="--crop-border 6"):
            Judge(model, data, Target(), crop_border=6)
    assert drops[0] > 20
    assert abs(drops[1]) < 1e-3
