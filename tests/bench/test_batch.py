"""Fixed batches made free where that keeps the outputs, and told apart from where it does not; the knee; room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxtune.bench import room
from onnxtune.bench.batch import batch_is_free, items, sized, with_free_batch
from onnxtune.bench.report import BenchmarkReport, Case, Failed, Measured
from onnxtune.model import Model
from onnxtune.sizes import bind
from onnxtune.testing import model_of

WEIGHTS = {"w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)}


def model(text: str, **weights: object) -> Model:
    return Model(model_of(text, {**WEIGHTS, **{n: np.asarray(w) for n, w in weights.items()}}), "m")


def freed(text: str, **weights: object) -> Model | str:
    made = model(text, **weights)
    return with_free_batch(made, bind(made).sizes)


def run(made: Model, batch: int) -> dict[str, np.ndarray]:
    from onnxtune.feeds import random_feeds
    from onnxtune.runtime import Session, Target

    return Session(made, Target(threads=1)).run(random_feeds(made, sized(made, bind(made).sizes, batch)))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_plain_network_is_freed(batch: int) -> None:
    text = (
        f"g (float[{batch}, 3, 8, 8] x) => (float[{batch}, 144] y)"
        "{ c = Conv (x, w)  r = Relu (c)  y = Reshape (r, s) }"
    )
    found = freed(text, s=np.array([batch, 144]))
    assert isinstance(found, Model)
    assert batch_is_free(found)
    assert run(found, 5)["y"].shape == (5, 144)
    assert not batch_is_free(model(text, s=np.array([batch, 144])))


def test_a_reshape_target_in_a_constant_node() -> None:
    text = (
        "g (float[1, 3, 8, 8] x) => (float[1, 144] y)"
        "{ s = Constant <value_ints = [1, -1]> ()  c = Conv (x, w)  y = Reshape (c, s) }"
    )
    assert freed(text) == ("output 'y' of several inputs has the shape (1, 288), not (2, 144)"), (
        "value_ints are left as they are, and that is seen"
    )


@pytest.mark.parametrize(
    ("nodes", "out", "reason"),
    [
        ("m = ReduceMean <axes = [0], keepdims = 1> (x)  y = Sub (x, m)", "2, 3, 4, 4", "is not what these give"),
        ("y = ReduceSum <keepdims = 1> (x)", "1, 1, 1, 1", "has no batch axis"),
        ("y = Transpose <perm = [1, 0, 2, 3]> (x)", "3, 2, 4, 4", "has no batch axis"),
        ("y = Softmax <axis = 0> (x)", "2, 3, 4, 4", "is not what these give"),
    ],
)
def test_what_mixes_the_batch_keeps_it(nodes: str, out: str, reason: str) -> None:
    found = freed(f"g (float[2, 3, 4, 4] x) => (float[{out}] y) {{ {nodes} }}")
    assert isinstance(found, str)
    assert reason in found


def test_inputs_of_different_first_axes_keep_them() -> None:
    assert "do not share" in str(
        freed("g (float[2, 3] x, float[4, 3] z) => (float[6, 3] y) { y = Concat <axis=0> (x, z) }")
    )


def test_what_does_not_run_at_another_batch_says_so() -> None:
    found = freed("g (float[1, 4] x) => (float[4, 1] y) { y = Reshape (x, t) }", t=np.array([4, 1]))
    assert str(found).startswith("freed of its batch of 1 it does not run: ONNX Runtime cannot run it")


def test_items_are_the_first_axis() -> None:
    assert items({"n": (), "x": (8, 3), "z": (2,)}) == 8
    assert items({"n": ()}) == 1


# --- the knee --------------------------------------------------------------------------------------------


def measured(batch: int, seconds: float) -> Measured:
    return Measured("m", batch, np.full((1, 3, 2), seconds), 1, 0.1, seconds, True, 0.0, 0.0, 10)


def report(*cases: tuple[int, float | None]) -> BenchmarkReport:
    rows = [(b, Failed("m", "out of memory", fits=False) if s is None else measured(b, s)) for b, s in cases]
    return BenchmarkReport({}, {}, tuple(Case(f"batch {b}", b, {}, (row,), ()) for b, row in rows))


def test_the_knee_is_the_smallest_batch_that_is_nearly_best() -> None:
    assert report((1, 1.0), (2, 1.0), (4, 1.03), (8, 2.0)).knee(0) == 4
    assert report((1, 1.0), (2, 1.0), (4, 1.10), (8, 2.0)).knee(0) == 8
    assert report((1, 1.0), (2, 1.0), (4, 1.95), (8, 3.95)).knee(0) == 2
    assert report((1, 1.0), (2, 1.0), (4, None)).knee(0) == 2, "what does not fit has no throughput"


def test_one_batch_has_no_knee() -> None:
    assert report((4, 1.0)).knee(0) is None
    assert report((4, 1.0), (8, None)).knee(0) is None


# --- memory ----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_told_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 16000000 kB\nMemAvailable: 1000000 kB\n")
    monkeypatch.setattr(room, "MEMINFO", info)
    monkeypatch.setattr(room, "CGROUPS", ())
    assert room.available() == 1_024_000_000
    assert room.too_much(400_000_000, 2) is None
    assert room.too_much(600_000_000, 2) == (
        "out of memory: 2 sessions side by side need about 1.2 GB, 1.0 GB are free"
    )


def test_a_container_may_allow_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most, now = tmp_path / "max", tmp_path / "current"
    most.write_text("2000\n")
    now.write_text("1500\n")
    monkeypatch.setattr(room, "CGROUPS", ((most, now),))
    assert room.available() == 500
    most.write_text("max\n")
    assert room.available() != 500


def test_where_nobody_tells_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(room, "CGROUPS", ())
    assert room.available() is None
    assert room.too_much(10**18, 2) is None


@pytest.mark.parametrize(
    ("reason", "lacking"),
    [
        ("std::bad_alloc", True),
        ("Failed to allocate memory for requested buffer of size 4096", True),
        ("CUDA failure 2: out of memory", True),
        ("CUDNN_STATUS_ALLOC_FAILED", True),
        ("the process that ran it was killed (signal 9): out of memory?", True),
        ("Got invalid dimensions for input: x", False),
    ],
)
def test_errors_that_mean_memory(reason: str, lacking: bool) -> None:
    assert room.lacks_memory(reason) == lacking
