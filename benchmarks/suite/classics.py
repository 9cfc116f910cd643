"""The nine architectures that the onnx package ships without weights, with seeded He-random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper, version_converter

CLASSICS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
OPSET = 13


def classic(name: str) -> onnx.ModelProto:
    """The architecture with weights (every channel different) as initializers, at opset 13."""
    model = onnx.load(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx")
    graph = model.graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    made = {n.output[0]: tuple(map(int, stored[n.input[0]])) for n in graph.node if n.op_type == "ConstantOfShape"}
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    rng = np.random.default_rng(0)
    for node in nodes:
        for place, tensor in enumerate(node.input):
            if tensor in made:
                values = _values(node.op_type, place, made.pop(tensor), rng)
                graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), tensor))
    read = {i for n in nodes for i in n.input}
    weights = [i for i in graph.initializer if i.name in read]
    named = {i.name for i in weights}
    inputs = [i for i in graph.input if i.name in read - named]
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input.extend(inputs)
    model.ir_version = 8
    model = version_converter.convert_version(model, OPSET)
    onnx.checker.check_model(model)
    return _with_mild_logits(model)


def _with_mild_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the last layer scaled so that a final Softmax is not saturated, and shows it when logits change."""
    made_by = {o: n for n in model.graph.node for o in n.output}
    last = made_by[model.graph.output[0].name]
    if last.op_type != "Softmax":
        return model
    layer = made_by[last.input[0]]
    while layer.op_type not in ("Gemm", "Conv"):
        layer = made_by[layer.input[0]]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(layer.output[0]))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal(fed.shape).astype(np.float32)
    logits = np.asarray(session.run([layer.output[0]], {fed.name: x})[0])
    for weight in (i for i in model.graph.initializer if i.name in layer.input[1:]):
        mild = numpy_helper.to_array(weight) * (3 / logits.std())
        weight.CopyFrom(numpy_helper.from_array(mild.astype(np.float32), weight.name))
    return model


def _values(op_type: str, place: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    if op_type in ("Conv", "Gemm") and place == 1:
        return np.asarray(rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])))
    if op_type == "Unsqueeze" or (op_type == "BatchNormalization" and place in (1, 4)):  # a scale, a variance
        return 1 + 0.1 * rng.random(shape)
    return 0.01 * rng.standard_normal(shape)
