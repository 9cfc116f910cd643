"""Reading and writing: whole or not at all; what cannot be used is one ModelError that says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

from onnxtune.errors import ModelError
from onnxtune.model import Model, load, save, tensor_bytes, write_text
from onnxtune.testing import model_of

WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 7, 7)).astype(np.float32)


def conv() -> onnx.ModelProto:
    """A convolution whose weight is large enough (4.7 kB) to be stored apart."""
    return model_of("g (float[N, 3, 9, 9] x) => (float[N, 8, 3, 3] y) { y = Conv (x, w) }", {"w": WEIGHT})


def write_external(folder: Path, location: str = "weights.bin", *, data: Path | None = None) -> Path:
    """A model file that says its weight lies at `location`; the bytes are written to `data`."""
    proto = conv()
    tensor = proto.graph.initializer[0]
    if data is not None:
        data.write_bytes(tensor.raw_data)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def weight_of(model: Model, name: str = "w") -> np.ndarray:
    return numpy_helper.to_array(next(i for i in model.proto.graph.initializer if i.name == name))


# --- reading ---------------------------------------------------------------------------------------------


def test_round_trip_is_the_same_file(tmp_path: Path) -> None:
    path, again = tmp_path / "a.onnx", tmp_path / "b.onnx"
    path.write_bytes(conv().SerializeToString())
    model = load(path)
    assert (model.name, model.path, model.external, model.opset) == ("a.onnx", path, False, 17)
    save(model, again)
    assert load(again).proto == conv()


def test_a_proto_is_taken_as_it_is() -> None:
    proto, copy = conv(), conv()
    assert load(proto).proto is proto
    assert proto == copy
    model = load(proto)
    assert load(model) is model


def test_inputs_leave_out_those_with_a_default() -> None:
    proto = model_of("g (float[2] x, float[2] w) => (float[2] y) { y = Add (x, w) }", {"w": np.ones(2, np.float32)})
    assert [i.name for i in load(proto).inputs] == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"this is a text file, not a model\n" * 40, "not an ONNX model"),
        (b'{"json": true}', "not an ONNX model"),
        (b"\x00" * 64, "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not an ONNX model"),
        (b"\x08\x08", "no graph in it"),
    ],
)
def test_not_a_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole, path = conv().SerializeToString(), tmp_path / "model.onnx"
    for size in [*range(1, len(whole) - 1, max(1, len(whole) // 97)), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(conv().SerializeToString())
    path.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        load(path)


def test_a_graph_that_the_checker_refuses(tmp_path: Path) -> None:
    proto = conv()
    proto.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load(proto)
    del proto.graph.node[:]
    with pytest.raises(ModelError, match="no nodes"):
        load(proto)


# --- external data ---------------------------------------------------------------------------------------


def test_external_data_is_read(tmp_path: Path) -> None:
    model = load(write_external(tmp_path, data=tmp_path / "weights.bin"))
    assert model.external
    assert np.array_equal(weight_of(model), WEIGHT)


def test_external_data_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    model = load(write_external(tmp_path, "sub/weights.bin", data=tmp_path / "sub" / "weights.bin"))
    assert np.array_equal(weight_of(model), WEIGHT)


def test_external_data_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_external(tmp_path, data=tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(weight_of(load("model.onnx")), WEIGHT)


def test_external_data_of_a_constant_node(tmp_path: Path) -> None:
    """Weights in attributes may be stored apart too."""
    proto = model_of("g (float[N, 3, 9, 9] x) => (float[N, 8, 3, 3] y) { w = Constant <value_int = 1> ()"
                     " y = Conv (x, k) }", {"k": WEIGHT})  # fmt: skip
    del proto.graph.initializer[:]
    proto.graph.node[0].CopyFrom(
        onnx.helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHT, "k"))
    )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="k.bin", convert_attribute=True)
    model = load(path)
    assert model.external
    assert np.array_equal(numpy_helper.to_array(model.proto.graph.node[0].attribute[0].t), WEIGHT)
    (tmp_path / "k.bin").unlink()
    with pytest.raises(ModelError, match="external data file is missing"):
        load(path)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../weights.bin", "outside the folder"),
        ("sub/../../weights.bin", "outside the folder"),
        ("{absolute}", "outside the folder"),
        ("absent.bin", "is missing"),
        ("sub", "is missing"),
        ("", "is missing"),
    ],
)
def test_external_data_that_must_not_be_read(tmp_path: Path, location: str, message: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "weights.bin"
    path = write_external(folder, location.format(absolute=outside), data=outside)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_external_data_through_a_symbolic_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = write_external(folder, data=tmp_path / "secret.bin")
    try:
        (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")
    with pytest.raises(ModelError, match="outside the folder"):
        load(path)


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = write_external(tmp_path, data=tmp_path / "weights.bin")
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load(path)


def test_a_proto_with_its_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_external(tmp_path, data=tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="external data"):
        load(onnx.load(path, load_external_data=False))


# --- writing ---------------------------------------------------------------------------------------------


def test_external_data_is_written_beside_and_named_relative(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save(load(conv()), path, external=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    stored = onnx.load(path, load_external_data=False).graph.initializer[0]
    assert {e.key: e.value for e in stored.external_data}["location"] == "out.onnx.data"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("out.onnx", "out.onnx.data"):
        (tmp_path / name).rename(moved / name)
    model = load(moved / "out.onnx")
    assert model.external
    assert np.array_equal(weight_of(model), WEIGHT)


def test_a_model_that_came_in_two_files_leaves_in_two(tmp_path: Path) -> None:
    model = load(write_external(tmp_path, data=tmp_path / "weights.bin"))
    save(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    save(model, tmp_path / "one.onnx", external=False)
    assert not (tmp_path / "one.onnx.data").exists()
    assert weight_of(load(tmp_path / "one.onnx")).tobytes() == WEIGHT.tobytes()


def test_saving_changes_no_model_in_memory(tmp_path: Path) -> None:
    model = load(conv())
    save(model, tmp_path / "out.onnx", external=True)
    assert model.proto == conv()


def test_the_content_hash_does_not_depend_on_where_weights_are_stored(tmp_path: Path) -> None:
    model = load(conv())
    save(model, tmp_path / "one.onnx", external=False)
    save(model, tmp_path / "two.onnx", external=True)
    assert {load(tmp_path / n).graph_sha256() for n in ("one.onnx", "two.onnx")} == {model.graph_sha256()}


def test_the_content_hash_sees_graph_weights_opset_and_not_metadata() -> None:
    model = load(conv())

    def changed(change: Callable[[onnx.ModelProto], object]) -> bool:
        proto = conv()
        change(proto)
        return load(proto).graph_sha256() != model.graph_sha256()

    assert changed(lambda p: p.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 1)))
    assert changed(lambda p: p.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT * 2, "w")))
    assert changed(lambda p: setattr(p.opset_import[0], "version", 16))
    assert changed(lambda p: setattr(p.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "M"))
    assert not changed(lambda p: p.metadata_props.add(key="a", value="b"))
    assert not changed(lambda p: setattr(p, "doc_string", "text"))


def test_an_output_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_text("old")
    save(load(conv()), path)
    assert load(path).proto == conv()
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("external", [False, True])
def test_a_failing_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    path = tmp_path / "out.onnx"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"out\.onnx: cannot be written \(No space left"):
        save(load(conv()), path, external=external)
    with pytest.raises(ModelError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_a_folder_that_is_not_there_or_is_the_target(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        save(load(conv()), tmp_path / "none" / "out.onnx")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        save(load(conv()), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)  # root, as in containers, may write everywhere
    with pytest.raises(ModelError, match=r"cannot be written \(Permission denied\)"):
        save(load(conv()), tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "report.md", "größer\n")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "größer\n"
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]


# --- sizes and foreign graphs ----------------------------------------------------------------------------


def test_tensor_bytes_counts_initializers_and_constants() -> None:
    proto = model_of("g (float[2] x) => (float[2] y) { c = Constant <value = float[2] {1, 2}> () y = Sum (x, c, w) }",
                     {"w": np.ones(2, np.float32)})  # fmt: skip
    assert tensor_bytes(load(proto)) == 16
    proto.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))
    assert tensor_bytes(load(proto)) == 16


def test_adopting_a_graph_keeps_metadata_and_interface() -> None:
    proto = conv()
    proto.doc_string, proto.producer_name, proto.model_version = "about", "exporter", 7
    proto.metadata_props.add(key="author", value="somebody")
    changed = onnx.ModelProto()
    changed.CopyFrom(conv())
    changed.producer_name = "simplifier"
    changed.graph.node[0].name = "renamed"
    changed.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    result = load(proto).adopt(changed).proto
    assert (result.doc_string, result.producer_name, result.model_version) == ("about", "exporter", 7)
    assert result.metadata_props == proto.metadata_props
    assert result.graph.input == proto.graph.input
    assert result.graph.node[0].name == "renamed"


@pytest.mark.parametrize("part", ["input", "output"])
def test_adopting_another_interface_is_refused(part: str) -> None:
    changed = conv()
    getattr(changed.graph, part)[0].name = "other"
    with pytest.raises(ModelError, match="inputs or outputs"):
        load(conv()).adopt(changed)
