"""Measurements by content: what decides the time is in the key, what does not is not; damage costs nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxtune import cache as module
from onnxtune.cache import Cache, cache_path, measurement_key, structure
from onnxtune.comparison import Comparison, compare
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.runtime import Target
from onnxtune.testing import model_of

PLAN = Plan(seed=3)
SIZES = {"x": (1, 3, 9, 9)}


def comparison(shift: float = 0.0) -> Comparison:
    samples = np.random.default_rng(0).uniform(1, 1.02, (2, 6, 5, 2)) + shift
    return compare(*samples, seed=PLAN.seed, confidence=PLAN.confidence)


def conv(seed: int = 0, names: str = "xwcy", channels: int = 8, dims: str = "N, 3, 9, 9") -> onnx.ModelProto:
    x, w, c, y = names
    weight = np.random.default_rng(seed).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    return model_of(f"g (float[{dims}] {x}) => (float[N, {channels}, A, B] {y})"
                    f"{{ {c} = Conv <pads = [0, 0, 1, 1]> ({x}, {w})  {y} = Relu ({c}) }}", {w: weight})  # fmt: skip


def key(before: onnx.ModelProto, after: onnx.ModelProto | None = None, **changes: object) -> str:
    target = changes.pop("target", Target(threads=1))
    plan = changes.pop("plan", PLAN)
    sizes = changes.pop("sizes", {before.graph.input[0].name: (1, 3, 9, 9)})
    return measurement_key(Model(before), Model(after or conv(7)), sizes, target, plan)  # type: ignore[arg-type]


def test_a_blurred_answer_is_asked_again(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(1, 2, (2, 6, 5, 2))
    blurred = compare(*samples, seed=PLAN.seed, confidence=PLAN.confidence)
    assert blurred.verdict == "no measurable change"
    first = Cache(tmp_path / "m.sqlite")
    first.put("k", blurred)
    assert first.get("k", PLAN) is blurred
    assert Cache(tmp_path / "m.sqlite").get("k", PLAN) is None


# --- the key ---------------------------------------------------------------------------------------------


def test_names_and_weights_do_not_matter() -> None:
    assert key(conv()) == key(conv(seed=1)) == key(conv(names="abde"))
    proto = conv()
    proto.graph.name, proto.doc_string, proto.graph.node[0].name = "other", "text", "node"
    proto.metadata_props.add(key="a", value="b")
    assert key(proto) == key(conv())


def change(act: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = conv()
    act(proto)
    return proto


@pytest.mark.parametrize(
    "other",
    [
        conv(channels=16),
        conv(dims="N, 3, 9, 10"),
        change(lambda p: setattr(p.opset_import[0], "version", 13)),
        change(lambda p: setattr(p.graph.node[1], "op_type", "Tanh")),
        change(lambda p: setattr(p.graph.node[1], "domain", "com.example")),
        change(lambda p: p.graph.node[0].attribute[0].ints.__setitem__(0, 1)),
        change(lambda p: p.graph.node[1].input.__setitem__(0, "x")),
        change(lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 10)),
        change(lambda p: p.graph.output.append(onnx.helper.make_tensor_value_info("c", 1, None))),
    ],
    ids=["channels", "input shape", "opset", "operator", "domain", "attribute", "wiring", "type", "outputs"],
)
def test_structure_matters(other: onnx.ModelProto) -> None:
    assert structure(other) != structure(conv())
    assert key(other) != key(conv())
    assert key(conv(), other) != key(conv())


@pytest.mark.parametrize("as_input", [False, True])
@pytest.mark.parametrize(
    ("op_type", "first", "second"),
    [
        ("Reshape", np.array([1, -1]), np.array([3, -1])),
        ("Pow", np.array(2, np.float32), np.array(0.5, np.float32)),
        ("Tile", np.array([1, 2]), np.array([1, 1])),
    ],
)
def test_values_that_are_structure_matter(op_type: str, first: np.ndarray, second: np.ndarray, as_input: bool) -> None:
    """A shape, an exponent, repeats: also where an old exporter lists them among the inputs."""

    def proto(value: np.ndarray) -> onnx.ModelProto:
        listed = f", {'float[]' if value.dtype == np.float32 else 'int64[2]'} s" if as_input else ""
        text = f"g (float[3, 4] x{listed}) => (float[A, B] y) {{ y = {op_type} (x, s) }}"
        result = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        result.graph.initializer.append(numpy_helper.from_array(value, "s"))
        return result

    assert structure(proto(first)) != structure(proto(second))


def test_values_of_constant_nodes_count_like_those_of_initializers() -> None:
    def proto(value: np.ndarray) -> onnx.ModelProto:
        node = onnx.helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(value, "name"))
        result = model_of("g (float[A] x) => (float[A] y) { k = Relu (x)  y = Mul (x, k) }")
        result.graph.node[0].CopyFrom(node)
        return result

    weight = np.ones(100, np.float32)
    assert structure(proto(weight)) == structure(proto(weight * 2))
    assert structure(proto(weight)) != structure(proto(weight[:50]))
    assert structure(proto(np.array([2], np.int64))) != structure(proto(np.array([3], np.int64)))


def test_the_size_that_was_measured_matters() -> None:
    """A dynamic model is one structure at all sizes, but not one speed."""
    small, large = ({"x": (1, 3, s, s)} for s in (32, 224))
    assert key(conv(dims="N, 3, H, W"), sizes=small) != key(conv(dims="N, 3, H, W"), sizes=large)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": Target(threads=2)},
        {"target": Target("CUDAExecutionProvider", {}, 1)},
        {"target": Target("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}, 1)},
        {"plan": replace(PLAN, rounds=99)},
        {"plan": replace(PLAN, duration=9.0)},
    ],
)
def test_target_and_plan_matter(changes: dict[str, object]) -> None:
    assert key(conv(), **changes) != key(conv())


def test_versions_and_device_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(conv())
    monkeypatch.setattr(module, "versions", lambda: {"onnxruntime": "0.0.1"})
    assert key(conv()) != before
    monkeypatch.undo()
    assert key(conv()) == before
    monkeypatch.setattr("onnxtune.runtime.cpu_name", lambda: "another processor")
    assert key(conv()) != before


# --- the store -------------------------------------------------------------------------------------------


def equal(first: Comparison | None, second: Comparison) -> bool:
    assert first is not None
    return (first.low, first.high, first.speedup, first.noise) == (
        second.low, second.high, second.speedup, second.noise
    ) and np.array_equal(first.before, second.before)  # fmt: skip


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "below" / "m.sqlite"
    store = Cache(path)
    assert store.get("k", PLAN) is None
    assert store.info() == {"path": str(path), "entries": 0, "bytes": 0}
    assert not path.exists(), "looking writes nothing"
    store.put("k", comparison())
    assert equal(Cache(path).get("k", PLAN), comparison())
    assert Cache(path).get("other", PLAN) is None
    info = store.info()
    assert info["entries"] == 1
    assert info["bytes"] == path.stat().st_size
    store.put("k", comparison(1.0))
    assert equal(Cache(path).get("k", PLAN), comparison(1.0))
    assert store.clear() == 1
    assert store.get("k", PLAN) is None
    assert not list(path.parent.iterdir())


def test_without_a_path_it_lives_in_memory() -> None:
    store = Cache(None)
    store.put("k", comparison())
    assert equal(store.get("k", PLAN), comparison())
    assert store.info()["entries"] == 0
    store.clear()
    assert store.get("k", PLAN) is None


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXTUNE_CACHE_DIR", str(tmp_path))
    assert cache_path() == tmp_path / "measurements.sqlite"
    monkeypatch.delenv("ONNXTUNE_CACHE_DIR")
    assert "onnxtune" in cache_path().parts


def stored(path: Path) -> Path:
    Cache(path).put("k", comparison())
    return path


def damage_text(path: Path) -> None:
    path.write_text("this is no database" * 100)


def damage_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996
    path.write_bytes(data)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def damage_blob(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("UPDATE measurements SET samples = ?", (b"1234567",))
    base.close()


def damage_table(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE other (a)")
    base.close()


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [damage_text, damage_page, damage_cut, damage_blob, damage_table, damage_empty], ids=lambda f: f.__name__
)
def test_a_damaged_file_is_only_forgotten(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = stored(tmp_path / "m.sqlite")
    damage(path)
    store = Cache(path)
    assert store.get("k", PLAN) is None
    assert store.info()["entries"] in (0, 1)
    store.put("k", comparison())
    assert equal(Cache(path).get("k", PLAN), comparison())
    store.clear()
    assert not path.exists()


def test_a_file_that_another_process_holds_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "m.sqlite")
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        store = Cache(path)
        assert store.get("k", PLAN) is None
        store.put("new", comparison())
        assert store.get("new", PLAN) is not None, "in memory at least"
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert Cache(path).get("k", PLAN) is not None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Cache(tmp_path / "file" / "m.sqlite")
    assert store.get("k", PLAN) is None
    store.put("k", comparison())
    assert equal(store.get("k", PLAN), comparison())
    assert store.info()["entries"] == 0


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    code = f"""
import numpy as np
from pathlib import Path
from onnxtune.cache import Cache
from onnxtune.comparison import compare
import sys
for i in range(20):
    Cache(Path({str(path)!r})).put(f"{{sys.argv[1]}}{{i}}", compare(*np.ones((2, 4, 2, 2)), seed=0))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE) for name in "ab"]
    errors = [w.communicate(timeout=60)[1] for w in writers]
    assert errors == [b"", b""]
    assert Cache(path).info()["entries"] == 40
    assert Cache(path).get("b19", PLAN) is not None
