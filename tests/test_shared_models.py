"""Real trained models: every rule that fires is made to stay, and the outputs are the same.

The models are not part of the project: without them these tests are skipped, visibly.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxtune
from onnxtune.apply import apply
from onnxtune.catalog import cards
from onnxtune.channels.flow import analyse
from onnxtune.channels.resized import resize
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.sizes import bind

MODELS = (
    "caffe_lenet_mnist",
    "ch_ppocr_mobile_v2.0_cls_infer",
    "cifar_resnet20",
    "cifar_resnet20_bn",
    "espcn_x3",
    "esr_rlfn_x4",
    "fsrcnn_x3",
    "minifasnet_v2",
    "mlperf_kws_dscnn",
    "mlperf_resnet8_cifar10",
    "mlperf_resnet8_cifar10_nhwc",
    "mlperf_resnet8_cifar10_qdq",
    "mobilenetv1_025_128_float",
    "mobilenetv1_025_128_qdq",
    "ort_mnist",
    "own_alex11_cifar10",
    "own_lenet5_cifar10",
    "own_odd_cifar10",
    "own_odd_cifar10_dynamo",
    "own_repvgg_cifar10",
    "own_slim_l1_cifar10",
    "own_srcnn955_x3",
    "version-RFB-320",
    "yunet_n_320_320",
)
SIZES = {
    "ch_ppocr_mobile_v2.0_cls_infer": ("x", (1, 3, 48, 96)),
    "espcn_x3": ("input", (1, 1, 21, 24)),
    "fsrcnn_x3": ("input", (1, 1, 21, 24)),
    "own_srcnn955_x3": ("input", (1, 1, 33, 30)),
}
QUANTISED = ("QuantizeLinear", "DequantizeLinear")

pytestmark = [pytest.mark.shared, pytest.mark.slow]


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], *, optimised: bool = True) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, feeds)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", MODELS)
def test_every_rule_forced_on_a_real_model(name: str, shared: Path) -> None:
    path = shared / "models" / f"{name}.onnx"
    sizes = dict([SIZES[name]]) if name in SIZES else {}
    forced = [c.name for c in cards(plugins=False) if c.name not in ("simplify", "upgrade_opset")]
    result = onnxtune.optimize(path, threads=1, providers="cpu", input_shapes=sizes, force_rules=forced)
    before, after = onnx.load(path), result.model
    onnx.checker.check_model(after, full_check=True)
    stored = {i.name for i in before.graph.initializer}
    assert list(after.graph.input) == [i for i in before.graph.input if i.name not in stored]
    assert list(after.graph.output) == list(before.graph.output)
    counts = [Counter(n.op_type for n in p.graph.node if n.op_type in QUANTISED) for p in (before, after)]
    assert counts[0] == counts[1], "quantised models come out intact"
    rng = np.random.default_rng(99)
    measured = result.report.settings["measured_sizes"]
    for batch in (1, 3):
        feeds = {}
        for value in after.graph.input:
            dynamic = value.type.tensor_type.shape.dim[0].dim_param
            shape = (batch if dynamic else measured[value.name][0], *measured[value.name][1:])
            feeds[value.name] = rng.random(shape, dtype=np.float32)
        for want, have in zip(run(before, feeds), run(after, feeds), strict=True):
            assert want.shape == have.shape
            np.testing.assert_allclose(have, want, rtol=0, atol=2e-4 * max(1e-3, float(np.abs(want).max())))


@pytest.mark.usefixtures("quick")
def test_rules_fire_on_real_models(shared: Path) -> None:
    """The channel engine, the head rules and the frozen weights all have something to do somewhere."""
    fired: Counter[str] = Counter()
    for name, rules in (
        ("version-RFB-320", ["freeze_initializers", "simplify", "cancel_concat_slice", "fold_batchnorm"]),
        ("own_odd_cifar10", ["pad_channels", "use_global_pool"]),
    ):
        result = onnxtune.optimize(
            shared / "models" / f"{name}.onnx", threads=1, providers="cpu", only=rules, force_rules=rules
        )
        fired += result.report.counts()
    assert set(fired) == {
        "freeze_initializers",
        "simplify",
        "cancel_concat_slice",
        "fold_batchnorm",
        "pad_channels",
        "use_global_pool",
    }


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("mlperf_resnet8_cifar10_nhwc", 6),
        ("mlperf_resnet8_cifar10_qdq", 6),
        ("mobilenetv1_025_128_qdq", 14),
        ("ch_ppocr_mobile_v2.0_cls_infer", 25),
        ("esr_rlfn_x4", 25),
        ("minifasnet_v2", 20),
        ("yunet_n_320_320", 22),
    ],
)
def test_all_classes_of_channels_can_be_padded(name: str, classes: int, shared: Path) -> None:
    """At least so many, by different amounts, at both optimisation levels."""
    model = Model(onnx.load(shared / "models" / f"{name}.onnx"))
    channels = analyse(Facts(model, bind(model, dict([SIZES[name]]) if name in SIZES else None).sizes))
    sizes = {r.index: r.size + 1 + r.index % 4 for r in channels.runs if not r.reason}
    assert len(sizes) >= classes
    removes, fragment = resize(channels, channels.padded(sizes), "test")
    after = apply(model, [Proposal("test", "", removes, fragment)]).proto
    onnx.checker.check_model(after, full_check=True)
    (value,) = model.proto.graph.input
    shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
    if name in SIZES:
        shape[1:] = SIZES[name][1][1:]
    feeds = {value.name: np.random.default_rng(3).random(shape, dtype=np.float32)}
    for optimised in (False, True):
        before, have = (run(p, feeds, optimised=optimised) for p in (model.proto, after))
        for want, found in zip(before, have, strict=True):
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * max(1e-2, float(np.abs(want).max())))
