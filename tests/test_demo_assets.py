"""The shipped demo model is what its README says: a legal export with something to gain in it, and accurate."""

import re
from collections import Counter

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxtune import demo
from onnxtune.model import load
from onnxtune.runtime import Session, Target


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(demo.model_path())


@pytest.fixture(scope="module")
def weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def nodes(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_model_is_legal_and_uses_only_opset_17(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]


def test_input_and_output_have_a_dynamic_batch(model: onnx.ModelProto) -> None:
    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    assert [described(value) for value in model.graph.input] == [
        ("image", onnx.TensorProto.FLOAT, ["batch", 1, 32, 32])
    ]
    assert [described(value) for value in model.graph.output] == [("logits", onnx.TensorProto.FLOAT, ["batch", 10])]


def test_operators(model: onnx.ModelProto) -> None:
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 5,
        "BatchNormalization": 6,
        "Relu": 6,
        "LRN": 1,
        "MaxPool": 3,
        "Flatten": 1,
        "Gemm": 2,
        "Dropout": 1,
        "Constant": 2,
    }


def test_convolutions_have_odd_channel_counts_and_large_kernels(
    model: onnx.ModelProto, weights: dict[str, NDArray[np.float32]]
) -> None:
    shapes = [weights[node.input[1]].shape for node in nodes(model, "Conv")]
    assert shapes == [(31, 1, 5, 5), (63, 31, 5, 5), (63, 63, 3, 3), (63, 63, 3, 3), (63, 63, 3, 3)]


def test_lrn_has_the_constants_of_alexnet(model: onnx.ModelProto) -> None:
    (lrn,) = nodes(model, "LRN")
    assert attributes(lrn) == {"size": 5, "alpha": pytest.approx(1e-4), "beta": 0.75, "bias": 1.0}


def test_batch_normalization_and_dropout_are_in_inference_mode(model: onnx.ModelProto) -> None:
    assert all(attributes(node).get("training_mode", 0) == 0 for node in nodes(model, "BatchNormalization"))
    (dropout,) = nodes(model, "Dropout")
    constants = {node.output[0]: attributes(node)["value"] for node in nodes(model, "Constant")}
    ratio, training_mode = (numpy_helper.to_array(constants[name]) for name in dropout.input[1:])
    assert ratio == 0.5
    assert training_mode.dtype == np.bool_
    assert not training_mode


def test_fully_connected_head(model: onnx.ModelProto, weights: dict[str, NDArray[np.float32]]) -> None:
    kinds = [node.op_type for node in model.graph.node if node.op_type != "Constant"]
    assert kinds[-6:] == ["Flatten", "Gemm", "BatchNormalization", "Relu", "Dropout", "Gemm"]
    assert [weights[node.input[1]].shape for node in nodes(model, "Gemm")] == [(127, 63 * 4 * 4), (10, 127)]


def held_out_images_and_labels() -> None:
    with np.load(demo.FOLDER / "digits.npz", allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    assert (images.dtype, images.shape) == (np.uint8, (360, 32, 32))
    assert (labels.dtype, labels.shape) == (np.uint8, (360,))
    assert set(labels.tolist()) == set(range(10))


def test_accuracy_is_the_one_in_the_readme() -> None:
    readme = (demo.FOLDER / "README.md").read_text("utf-8")
    stated = re.search(r"Held-out accuracy: (\d\.\d{4}) \((\d+) of (\d+) images\)", readme)
    assert stated is not None
    images, labels = demo.held_out_images()
    accuracy = demo.accuracy(demo.model_path(), images, labels)
    assert (round(accuracy * len(labels)), len(labels)) == (int(stated[2]), int(stated[3]))
    assert float(stated[1]) == round(accuracy, 4) >= 0.97


def held_out_images_give_the_same_logits_alone_as_in_a_batch() -> None:
    images = demo.held_out_images()[0][:8]
    session = Session(load(demo.model_path()), Target())
    together = session.run({"image": images})["logits"]
    alone = np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


def test_files_are_small() -> None:
    assert sum(file.stat().st_size for file in demo.FOLDER.iterdir()) < 2_500_000
