"""Cases for `merge_parallel_convs`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, weights_of

SAME = "pads = [1, 1, 1, 1]"


def _block(branches: str, channels: int, size: int) -> onnx.ModelProto:
    weights = {
        "w3": weights_of(channels, channels, 3, 3),
        "w1": weights_of(channels, channels, 1, 1),
        "wt": weights_of(channels, channels, 3, 1),
        "wf": weights_of(channels, channels, 1, 3),
        "d3": weights_of(channels, 1, 3, 3),
        "d1": weights_of(channels, 1, 1, 1),
        "k": weights_of(channels, 1, 1),
    }
    used = {n: w for n, w in weights.items() if f"{n})" in branches}
    return model(f"N, {channels}, {size}, {size}", f"z = Relu (x)  {branches}  y = Relu (s)", used)


def cases() -> Iterator[CaseOf]:
    repvgg = f"a = Conv <{SAME}> (z, w3)  b = Conv (z, w1)  s = Sum (a, b, z)"
    for channels, size in ((64, 28), (256, 14)):
        yield CaseOf(f"RepVGG block, {channels} channels, {size}x{size}", _block(repvgg, channels, size))
    cross = f"""a = Conv <{SAME}> (z, w3)  b = Conv <pads = [1, 0, 1, 0]> (z, wt)
                c = Conv <pads = [0, 1, 0, 1]> (z, wf)  s = Sum (a, b, c)"""
    yield CaseOf("ACNet block, 64 channels, 28x28", _block(cross, 64, 28))
    mobile = f"a = Conv <{SAME}, group = 128> (z, d3)  b = Conv <group = 128> (z, d1)  s = Sum (a, b, z)"
    yield CaseOf("MobileOne depthwise block, 128 channels, 28x28", _block(mobile, 128, 28))
    mixer = f"a = Conv <{SAME}, group = 128> (z, d3)  b = Sub (a, z)  c = Mul (b, k)  s = Add (z, c)"
    yield CaseOf("RepMixer token mixer, 128 channels, 28x28", _block(mixer, 128, 28))
    skip = f"a = Conv <{SAME}> (z, w3)  s = Add (z, a)"
    yield CaseOf("skip around one 3x3, 64 channels, 28x28 (ORT fuses the Add)", _block(skip, 64, 28))
    thin = "b = Conv (z, w1)  s = Add (z, b)"
    yield CaseOf("skip around one 1x1, 64 channels, 28x28 (ORT fuses the Add)", _block(thin, 64, 28))
