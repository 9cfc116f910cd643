"""Real models: nothing breaks, and what is said is what an expert would say.

Each list was made by looking at the model: what stands there is true and worth acting on; what does not would be noise.
Hints (info) are not listed; they are only checked not to be many.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxtune.checking import check
from onnxtune.finding import SEVERITIES

EXPECTED = {
    "caffe_lenet_mnist": {"CK201", "CK401"},
    "ch_ppocr_mobile_v2.0_cls_infer": set(),
    "cifar_resnet20": {"CK303"},
    "cifar_resnet20_bn": {"CK303"},
    "espcn_x3": set(),
    "esr_rlfn_x4": {"CK107", "CK301"},
    "fsrcnn_x3": {"CK201"},
    "minifasnet_v2": {"CK301"},
    "mlperf_kws_dscnn": set(),
    "mlperf_resnet8_cifar10": set(),
    "mlperf_resnet8_cifar10_nhwc": set(),
    "mlperf_resnet8_cifar10_qdq": set(),
    "mobilenetv1_025_128_float": set(),
    "mobilenetv1_025_128_qdq": set(),
    "ort_mnist": {"CK101", "CK201", "CK601"},
    "own_alex11_cifar10": {"CK201", "CK401"},
    "own_lenet5_cifar10": {"CK201", "CK401"},
    "own_odd_cifar10": {"CK301"},
    "own_odd_cifar10_dynamo": {"CK301"},
    "own_repvgg_cifar10": {"CK206"},
    "own_slim_l1_cifar10": {"CK303"},
    "own_srcnn955_x3": {"CK201"},
    "version-RFB-320": {"CK601"},
    "yunet_n_320_320": set(),
}
LIGHT = {
    "bvlc_alexnet": {"CK201"},
    "densenet121": set(),
    "inception_v1": {"CK201"},
    "inception_v2": set(),
    "resnet50": set(),
    "shufflenet": set(),
    "squeezenet": set(),
    "vgg19": set(),
    "zfnet512": {"CK201"},
}
"""Beside CK601: they list their weights, which are made by ConstantOfShape, as inputs."""
HINTS = 6


def said(path: Path) -> set[str]:
    """Codes of everything above info, with a look at what any report must be like."""
    report = check(path, providers="cpu")
    assert [SEVERITIES.index(f.severity) for f in report.findings] == sorted(
        (SEVERITIES.index(f.severity) for f in report.findings), reverse=True
    )
    hints = [f for f in report.findings if f.severity == "info"]
    assert len(hints) <= HINTS
    for finding in report.findings:
        assert "nan" not in finding.message
        assert finding.worth is None or (finding.worth.speedup or 0) > 1
    report.to_json()
    return {f.code for f in report.at_least("advice")}


@pytest.mark.shared
@pytest.mark.parametrize("name", EXPECTED)
def test_shared_models(name: str, shared: Path) -> None:
    assert said(shared / "models" / f"{name}.onnx") == EXPECTED[name]


@pytest.mark.shared
def test_every_shared_model_is_listed(shared: Path) -> None:
    assert {p.stem for p in (shared / "models").glob("*.onnx")} == set(EXPECTED)


@pytest.mark.parametrize("name", LIGHT)
def test_light_models(name: str) -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    assert said(folder / f"light_{name}.onnx") == LIGHT[name] | {"CK601"}
