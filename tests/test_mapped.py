"""Weights that stay in files, on a small model with the threshold lowered."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxtune
from onnxtune import mapped, runtime, temporary, trial
from onnxtune import model as models
from onnxtune.apply import apply
from onnxtune.cache import Cache
from onnxtune.catalog import catalog, choose
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.mapped import array, is_mapped
from onnxtune.measure import Plan
from onnxtune.model import Model, load, save
from onnxtune.proposal import Proposal
from onnxtune.propose import propose
from onnxtune.rule import OWN, Card, Rule
from onnxtune.runtime import Session, Target
from onnxtune.tune import wholes

WIDTH = 48
X = np.random.default_rng(5).standard_normal((1, 3, 6, 6)).astype(np.float32)


def network() -> onnx.ModelProto:
    """Conv, BatchNorm, Conv (large weights), and a bias (small)."""
    rng = np.random.default_rng(0)
    values = {
        "stem": rng.standard_normal((WIDTH, 3, 3, 3)),
        "w": rng.standard_normal((WIDTH, WIDTH, 3, 3)) / 20,
        "v": rng.standard_normal((WIDTH, WIDTH, 3, 3)) / 20,
        "bias": rng.standard_normal(WIDTH),
        **{n: rng.uniform(0.5, 1.5, WIDTH) for n in ("gamma", "beta", "mean", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["b"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["b", "gamma", "beta", "mean", "var"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "v", "bias"], ["y"], pads=[1] * 4),
    ]
    weights = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()]
    weights[1].doc_string = "the first large one"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 6, 6]) for n, c in (("x", 3), ("y", WIDTH)))
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, *, external: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    save(Model(network()), path, external=external)
    return path


@pytest.fixture
def everything_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAPPED_ABOVE", 0)
    monkeypatch.setattr(runtime, "IN_MEMORY", 0)


@pytest.fixture(params=[True, False], ids=["beside", "inside"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The model with its weights in a file beside it, and in the model file."""
    return written(tmp_path / "in", external=request.param)


def outputs(model: Model, level: runtime.Level = "all") -> np.ndarray:
    return Session(model, Target(threads=1), level).run({"x": X})["y"]


def mapped_names(proto: onnx.ModelProto) -> set[str]:
    return {t.name for t in proto.graph.initializer if is_mapped(t)}


def folding() -> Rule:
    (rule,) = choose(catalog([], plugins=False), ["fold_batchnorm"])
    return rule


def weight(model: Model, name: str) -> TensorProto:
    return next(t for t in model.proto.graph.initializer if t.name == name)


def test_small_models_are_read_into_memory(path: Path) -> None:
    model = load(path)
    assert model.store is None
    assert not mapped_names(model.proto)


@pytest.mark.usefixtures("everything_large")
def test_large_weights_stay_in_files(path: Path) -> None:
    model = load(path)
    assert mapped_names(model.proto) == {"w", "v"}
    values = Facts(model).constant("w")
    assert values is not None
    assert np.array_equal(values, numpy_helper.to_array(network().graph.initializer[1]))
    assert not values.flags.owndata
    assert not values.flags.writeable
    assert weight(model, "w").doc_string == "the first large one"
    assert Facts(model).shape("d") == (1, WIDTH, 6, 6)
    assert models.tensor_bytes(model) == models.tensor_bytes(Model(network()))


def test_the_graph_is_the_same_graph(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(path).graph_sha256()
    monkeypatch.setattr(models, "MAPPED_ABOVE", 0)
    after = load(path)
    assert mapped_names(after.proto)
    assert after.graph_sha256() == before


@pytest.mark.usefixtures("everything_large")
@pytest.mark.parametrize("level", ["disable", "all"])
def test_sessions_read_the_files(path: Path, level: runtime.Level) -> None:
    model = load(path)
    assert model.store is not None
    before = sorted(model.store.folder.iterdir())
    got = outputs(model, level)
    np.testing.assert_allclose(got, outputs(Model(network()), level), rtol=1e-4, atol=1e-4)
    assert sorted(model.store.folder.iterdir()) == before, "the model file that the session was made from is gone"


@pytest.mark.usefixtures("everything_large")
def test_the_folder_goes_with_the_model(path: Path) -> None:
    model = load(path)
    assert model.store is not None
    folder = model.store.folder
    assert folder.is_dir()
    del model
    assert not folder.exists()
    assert {p.name for p in path.parent.iterdir()} <= {"net.onnx", "net.onnx.data"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.usefixtures("everything_large")
def test_the_folder_does_not_go_with_a_forked_process(path: Path) -> None:
    model = load(path)
    code = (
        "import os, sys\n"
        "from onnxtune import model\n"
        "model.MAPPED_ABOVE = 0\n"
        "m = model.load(sys.argv[1])\n"
        "if not os.fork():\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(m.store.folder.is_dir(), m.store.folder)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    said, _, folder = done.stdout.strip().partition(" ")
    assert said == "True"
    assert not Path(folder).exists(), "the process itself cleans up at its end"
    assert model.store is not None
    assert model.store.folder.is_dir()


@pytest.mark.skipif(temporary._fcntl is None, reason="folders cannot be locked here")
@pytest.mark.usefixtures("everything_large")
def test_the_folder_of_a_killed_process_goes_with_the_next_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(temporary, "_swept", set())
    code = (
        "import os, signal, sys\nfrom onnxtune import model\nmodel.MAPPED_ABOVE = 0\nm = model.load(sys.argv[1])\n"
        "print(m.store.folder, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(done.stdout.strip())
    assert done.returncode == -signal.SIGKILL
    assert left.parent == tmp_path
    assert any(p.stat().st_size for p in left.iterdir()), "weights lie there"
    os.utime(left, (0, 0))
    model = load(path)
    assert model.store is not None
    assert not left.exists()
    assert model.store.folder.is_dir()
    assert np.isfinite(outputs(model)).all()


@pytest.mark.usefixtures("everything_large")
@pytest.mark.parametrize("external", [None, True, False])
def test_saved(path: Path, tmp_path: Path, external: bool | None) -> None:
    model = load(path)
    (tmp_path / "out").mkdir()
    save(model, tmp_path / "out" / "o.onnx", external=external)
    apart = model.external if external is None else external
    bare = onnx.load(tmp_path / "out" / "o.onnx", load_external_data=False)
    places = {e.value for t in bare.graph.initializer for e in t.external_data if e.key == "location"}
    assert places == ({"o.onnx.data"} if apart else set())
    (tmp_path / "out").rename(tmp_path / "moved")
    onnx.checker.check_model(tmp_path / "moved" / "o.onnx")
    assert load(tmp_path / "moved" / "o.onnx").graph_sha256() == model.graph_sha256()
    full = onnx.load(tmp_path / "moved" / "o.onnx")
    assert np.array_equal(*(numpy_helper.to_array(m.graph.initializer[2]) for m in (full, network())))


@pytest.mark.usefixtures("everything_large")
def test_saved_over_what_it_was_read_from(path: Path) -> None:
    model = load(path)
    digest = model.graph_sha256()
    changed = onnx.ModelProto()
    changed.CopyFrom(model.proto)
    changed.graph.doc_string = "new"
    save(model.with_proto(changed), path)
    assert model.graph_sha256() == digest, "the old bytes are still there for who holds them"
    again = load(path)
    assert again.graph_sha256() == digest
    assert again.proto.graph.doc_string == "new"


@pytest.mark.usefixtures("everything_large")
def test_where_no_link_can_be_made_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, external=True)
    monkeypatch.setattr(mapped, "_link", lambda path, name: False)
    model = load(path)
    (tmp_path / "net.onnx.data").unlink()
    np.testing.assert_allclose(outputs(model), outputs(Model(network())), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("everything_large")
def test_links_as_download_caches_have_them(tmp_path: Path) -> None:
    path = written(tmp_path / "blobs", external=True)
    (tmp_path / "snapshot").mkdir()
    for file in path.parent.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    model = load(tmp_path / "snapshot" / "net.onnx")
    assert mapped_names(model.proto) == {"w", "v"}
    np.testing.assert_allclose(outputs(model), outputs(Model(network())), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("everything_large")
@pytest.mark.parametrize("absolute", [True, False])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, absolute: bool) -> None:
    path = written(tmp_path / "in", external=True)
    outside = (path.parent / "net.onnx.data").rename(tmp_path / "secret")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(outside) if absolute else "../secret"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="lies outside the folder"):
        load(path)


@pytest.mark.usefixtures("everything_large")
def test_a_proto_cannot_bring_its_own_places(tmp_path: Path) -> None:
    written(tmp_path, external=True)
    model = load(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="its weights are external data"):
        load(model.proto)


@pytest.mark.usefixtures("everything_large")
def test_no_room_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, external=False)

    def full(store: object, tensor: TensorProto) -> TensorProto:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mapped.Store, "kept", full)
    with pytest.raises(ModelError, match=r"net\.onnx: its weights cannot be kept in .*No space left"):
        load(path)


@pytest.mark.usefixtures("everything_large")
def test_new_weights_go_to_the_store(path: Path) -> None:
    model = load(path)
    kept = model.kept(numpy_helper.from_array(np.full((200, 200), 3, np.float32), "new"))
    assert is_mapped(kept)
    assert np.array_equal(array(kept), np.full((200, 200), 3, np.float32))
    assert not is_mapped(model.kept(numpy_helper.from_array(np.ones(3, np.float32), "small")))
    assert np.array_equal(array(weight(model, "w")), numpy_helper.to_array(network().graph.initializer[1]))


@pytest.mark.usefixtures("everything_large")
def test_what_was_fused_is_the_same_session(path: Path) -> None:
    model = load(path)
    assert model.store is not None
    before = sorted(model.store.folder.iterdir())
    with runtime.fused(model, Target(threads=1)) as fused:
        assert [n.op_type for n in fused.proto.graph.node] == ["Conv", "Conv", "Relu", "Conv"]
        assert mapped_names(fused.proto) == {t.name for t in fused.proto.graph.initializer if mapped.nbytes(t) > 2**16}
        assert np.array_equal(outputs(fused), outputs(model))
    assert sorted(model.store.folder.iterdir()) == before


@pytest.mark.usefixtures("everything_large")
def test_two_large_models_are_timed_against_each_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one session each, made in two steps."""
    model, made = load(path), list[Model]()
    monkeypatch.setattr(trial, "LARGE", 0)
    monkeypatch.setattr(trial, "Session", lambda m, *rest: made.append(m) or Session(m, *rest))
    timer = trial.Timer(Target(threads=1), Cache(None))
    other = apply(model, [p for p in propose(Facts(model), [folding()], {}) if isinstance(p, Proposal)])
    plan = Plan(warmup=0, rounds=2, duration=0.01, blocks=1, most=1)
    found = timer.models(model, other, {"x": (1, 3, 6, 6)}, plan)
    assert found.comparison is not None, found.problem
    assert [len(m.proto.graph.node) for m in made] == [4, 4], "BatchNorm is gone from both"
    made.clear()
    subject = timer.subject(model, {"x": (1, 3, 6, 6)})
    rival = subject.rival(other)
    for rounds in (3, 4):
        assert timer.against(subject, rival, replace(plan, rounds=rounds)).comparison is not None
    assert len(made) == 2, "both stay loaded for the second plan"


@pytest.mark.usefixtures("everything_large")
def test_tools_see_inputs_in_their_place(path: Path) -> None:
    before = load(path).proto
    hollow = mapped.hollow(before)
    assert [v.name for v in hollow.graph.input] == ["x", "w", "v"]
    onnx.checker.check_model(hollow)
    del hollow.graph.node[2:]
    hollow.graph.output[0].name = "b"
    after = mapped.refilled(hollow, before)
    assert [v.name for v in after.graph.input] == ["x"]
    assert mapped_names(after) == {"w"}, "a weight that is not used any more is gone"
    assert mapped_names(before) == {"w", "v"}


def optimized(path: Path, out: Path) -> bytes:
    """Everything that is written when all exact rewrites that can be are forced."""
    result = onnxtune.optimize(
        path, providers="cpu", threads=1, measure=False, exact_only=True, force_rules=["fold_batchnorm"], plugins=False
    )
    assert result.report.counts()["fold_batchnorm"] == 1
    assert not mapped_names(result.model)
    onnx.checker.check_model(result.model, full_check=True)
    result.save(out, external=True)
    return out.read_bytes() + out.with_name(out.name + ".data").read_bytes()


def test_the_same_bytes_in_memory_and_in_files(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = optimized(path, tmp_path / "o.onnx")
    monkeypatch.setattr(models, "MAPPED_ABOVE", 0)
    monkeypatch.setattr(runtime, "IN_MEMORY", 0)
    assert optimized(path, tmp_path / "o.onnx") == inside
    again = onnxtune.optimize(
        tmp_path / "o.onnx", providers="cpu", threads=1, measure=False, exact_only=True,
        force_rules=["fold_batchnorm"], plugins=False,
    )  # fmt: skip
    assert again.report.status == "already tuned", "the stamp holds for weights in files, too"


@pytest.mark.usefixtures("everything_large")
@pytest.mark.parametrize("source", [OWN, "some-package"])
def test_rules_on_the_whole_model(path: Path, source: str) -> None:
    """Somebody else's gets all weights in memory; in the end they lie in files again."""
    model, seen = load(path), list[onnx.ModelProto]()

    def entry(proto: onnx.ModelProto, settings: object) -> onnx.ModelProto:
        seen.append(proto)
        result = onnx.ModelProto()
        result.CopyFrom(proto)
        result.graph.node[0].name = "first"
        return result

    rule = Rule(Card("mine", "X-mine", "Mine.", "Because.", source=source), "model", entry)
    run: Any = SimpleNamespace(rule_settings={})
    changed = wholes._change(run, model, rule)
    assert isinstance(changed, onnx.ModelProto)
    assert not mapped_names(seen[0])
    assert ("w" in {i.name for i in seen[0].graph.initializer}) == (source != OWN)
    adopted = model.adopt(changed)
    assert mapped_names(adopted.proto) == {"w", "v"}
    assert np.array_equal(outputs(adopted), outputs(model))


@pytest.mark.usefixtures("everything_large")
def test_what_does_not_fit_one_message_is_not_given_to_plugins(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wholes, "PROTOBUF_LIMIT", 1000)
    rule = Rule(Card("mine", "X-mine", "Mine.", "Because.", source="some-package"), "model", lambda p, s: p)
    run: Any = SimpleNamespace(rule_settings={})
    assert "do not fit the one message" in str(wholes._change(run, load(path), rule))


@pytest.mark.usefixtures("everything_large")
def test_weights_that_are_inputs_too(tmp_path: Path) -> None:
    """As IR version 3 has all of them: frozen, the opset raised, and still the same function."""
    proto = network()
    proto.ir_version = 3
    proto.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in proto.graph.initializer
    )
    proto.opset_import[0].version = 12
    save(Model(proto), tmp_path / "old.onnx", external=True)
    model = load(tmp_path / "old.onnx")
    assert Facts(model).constant("w") is None, "a caller may feed another"
    assert mapped_names(mapped.hollow(model.proto)) == {"w", "v"}
    np.testing.assert_allclose(outputs(model), outputs(Model(network())), rtol=1e-4, atol=1e-4)
    result = onnxtune.optimize(
        tmp_path / "old.onnx", providers="cpu", threads=1, measure=False, exact_only=True, plugins=False,
        force_rules=["freeze_initializers", "upgrade_opset", "fold_batchnorm"],
    )  # fmt: skip
    assert set(result.report.counts()) >= {"freeze_initializers", "upgrade_opset", "fold_batchnorm"}
    result.save(tmp_path / "new.onnx")
    np.testing.assert_allclose(outputs(load(tmp_path / "new.onnx")), outputs(model), rtol=1e-4, atol=1e-4)
