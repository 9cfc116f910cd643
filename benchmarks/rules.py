"""Where each rule wins and where it loses: small models made for it, one rule at a time.

    python -m benchmarks.rules [RULE ...] --output benchmarks/results/rules.json

Every case runs `onnxtune.optimize(only=rule)` with an empty cache on one CPU thread and prints what the
whole model gained, or the best of what was tried and not kept. Writes JSON (with all samples) and Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

import onnxtune
from onnxtune.runtime import cpu_name, versions
from onnxtune.testing import model_of


class CaseOf(NamedTuple):
    """One small model for one rule."""

    rule: str
    name: str
    model: onnx.ModelProto


def _random(*shape: int) -> NDArray[np.float32]:
    scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
    return np.asarray(np.random.default_rng(0).standard_normal(shape) * scale, np.float32)


def _model(x: str, body: str, weights: dict[str, NDArray[Any]] | None = None, y: str = "N, C, H, W") -> onnx.ModelProto:
    return model_of(f"g (float[{x}] x) => (float[{y}] y) {{ {body} }}", weights)


def _same(k: int) -> str:
    return f"kernel_shape = [{k}, {k}], pads = [{k // 2}, {k // 2}, {k // 2}, {k // 2}]"


def _chain(channels: int, size: int) -> onnx.ModelProto:
    """Three 3x3 convolutions with ReLU between two of 16 channels."""
    same = "pads = [1, 1, 1, 1]"
    body = f"""a = Conv <{same}> (x, v0)  b = Relu (a)  c = Conv <{same}> (b, v1)  d = Relu (c)
               e = Conv <{same}> (d, v2)  f = Relu (e)  y = Conv <{same}> (f, v3)"""
    counts = [16, channels, channels, channels, 16]
    weights = {f"v{i}": _random(counts[i + 1], counts[i], 3, 3) for i in range(4)}
    return _model(f"N, 16, {size}, {size}", body, weights)


def _spp(channels: int, size: int) -> onnx.ModelProto:
    pools = " ".join(f"p{k} = MaxPool <{_same(k)}> (x)" for k in (5, 9, 13))
    return _model(f"N, {channels}, {size}, {size}", f"{pools} y = Concat <axis = 1> (x, p5, p9, p13)")


def cases() -> Iterator[CaseOf]:
    """All cases, wins and losses."""
    for channels, size in ((64, 55), (192, 28), (256, 13)):
        text = "c = Relu (x)  y = LRN <size = 5, alpha = 0.0001> (c)"
        model = _model(f"N, {channels}, {size}, {size}", text)
        yield CaseOf("replace_lrn", f"LRN on {channels}x{size}x{size}", model)
    for channels, size in ((512, 13), (256, 20)):
        name = f"SPP 5/9/13 on {channels}x{size}x{size}"
        yield CaseOf("cascade_max_pool", name, _spp(channels, size))
    for k, channels, size in ((13, 512, 13), (9, 64, 56), (5, 512, 13), (5, 64, 56)):
        model = _model(f"N, {channels}, {size}, {size}", f"y = MaxPool <{_same(k)}> (x)")
        yield CaseOf("cascade_max_pool", f"MaxPool {k}x{k} on {channels}x{size}x{size}", model)
    for channels in (17, 31, 63, 65, 127):
        yield CaseOf("pad_channels", f"three 3x3 convolutions, {channels} channels, 28x28", _chain(channels, 28))
    for channels in (103, 231):
        weights = {"u": _random(channels, 64, 1, 1), "v": _random(channels, 1, 3, 3), "w": _random(64, channels, 1, 1)}
        body = f"a = Conv (x, u)  b = Relu (a)  c = Conv <pads = [1,1,1,1], group = {channels}> (b, v)  y = Conv (c, w)"
        yield CaseOf(
            "pad_channels", f"depthwise 3x3, {channels} channels, 20x20", _model("N, 64, 20, 20", body, weights)
        )
    constant = {"w": np.repeat(_random(1024, 256), 49, axis=1) / np.float32(49), "b": _random(1024)}
    head = "z = Relu (x)  f = Flatten (z)  y = Gemm <transB = 1> (f, w, b)"
    name = "spatially constant FC 256x7x7 -> 1024"
    yield CaseOf("replace_fc_head", name, _model("N, 256, 7, 7", head, constant, "N, M"))
    for c, j, k in ((16, 120, 5), (256, 1024, 7)):
        body = "z = Relu (x)  c = Conv (z, w, b)  d = Relu (c)  y = Flatten (d)"
        model = _model(f"N, {c}, {k}, {k}", body, {"w": _random(j, c, k, k), "b": _random(j)}, "N, M")
        yield CaseOf("replace_fc_head", f"Conv {k}x{k} over the whole map, {c} -> {j}", model)
    body = "z = Relu (x)  c = Conv (z, w, b)  y = GlobalAveragePool (c)"
    weights = {"w": _random(1000, 512, 1, 1), "b": _random(1000)}
    yield CaseOf("use_global_pool", "Conv 1x1 512 -> 1000 on 13x13, then GAP", _model("N, 512, 13, 13", body, weights))
    body = "z = Relu (x)  y = AveragePool <kernel_shape = [7, 7]> (z)"
    yield CaseOf("use_global_pool", "AveragePool over the whole map, 2048x7x7", _model("N, 2048, 7, 7", body))
    body = "z = Relu (x)  t = Gemm <transB = 1> (z, w)  y = Gemm <transB = 1> (t, v)"
    weights = {"w": _random(1024, 2048), "v": _random(1000, 1024)}
    yield CaseOf("merge_linear_layers", "FC 2048 -> 1024 -> 1000", _model("N, 2048", body, weights, "N, M"))
    statistics = {k: np.full(128, v, np.float32) for k, v in (("s", 1.1), ("b", 0.2), ("m", 0.3), ("v", 0.9))}
    body = "t = Gemm <transB = 1> (x, w)  z = BatchNormalization (t, s, b, m, v)  y = Relu (z)"
    weights = {"w": _random(128, 256), **statistics}
    yield CaseOf("fold_batchnorm", "FC 256 -> 128 + BatchNorm", _model("N, 256", body, weights, "N, M"))
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w)  z = BatchNormalization (c, s, b, m, v)  y = Relu (z)"
    weights = {"w": _random(128, 64, 3, 3), **statistics}
    yield CaseOf("fold_batchnorm", "Conv 3x3 + BatchNorm (ORT folds it)", _model("N, 64, 28, 28", body, weights))
    body = "p = Pad (x, k)  c = Conv (p, w)  y = Relu (c)"
    weights = {"w": _random(64, 64, 3, 3), "k": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    yield CaseOf("fold_pad", "Pad + Conv 3x3 (ORT folds it)", _model("N, 64, 28, 28", body, weights))
    body = """a = Relu (x)  b = Sigmoid (x)  c = Concat <axis = 2> (a, b)  d = Slice (c, zero, two, axis)
              e = Slice (c, two, four, axis)  y = Sub (d, e)"""
    weights = {k: np.array([v], np.int64) for k, v in (("zero", 0), ("two", 2), ("four", 4), ("axis", 2))}
    yield CaseOf("cancel_concat_slice", "boxes joined and cut, 4420x4", _model("N, 4420, 2", body, weights, "N, A, B"))
    body = "a = Identity (x)  b = Dropout (a)  c = Relu (b)  d = Identity (c)  y = Neg (d)"
    yield CaseOf("remove_noop", "Identity and Dropout (ORT removes them)", _model("N, 64, 28, 28", body))


def run(case: CaseOf) -> dict[str, Any]:
    """What the rule did to the case, with all samples."""
    result = onnxtune.optimize(case.model, providers="cpu", threads=1, only=(case.rule,), cache=False)
    report = result.report.to_dict()
    tried = [o for o in report["outcomes"] if o.get("comparison")]
    best = max(tried, key=lambda o: float(o["comparison"]["speedup"]), default=None)
    whole = report["comparison"] if report["status"] == "faster" else None
    reasons = [o["reason"] for o in report["outcomes"] if "reason" in o]
    kept = [o["rewrite"]["title"] for o in report["outcomes"] if o["kind"] == "kept"]
    return {
        "rule": case.rule,
        "case": case.name,
        "status": report["status"],
        "whole": whole,
        "best_region": best["comparison"] if best else None,
        "kept": kept,
        "reasons": reasons,
    }


def markdown(results: dict[str, Any]) -> str:
    setting = f"{results['device']}, 1 thread, batch 1, ONNX Runtime {results['versions']['onnxruntime']}."
    lines = [
        f"{setting} Whole small model, original over result, 99 % interval; what was not kept shows its best region.",
        "",
        "| rule | case | kept | not kept |",
        "|---|---|---|---|",
    ]
    for row in results["cases"]:
        kept = f"**{_ratio(row['whole'])}**" if row["whole"] else ""
        other = "" if row["whole"] else _ratio(row["best_region"]) if row["best_region"] else "not tried"
        lines.append(f"| {row['rule']} | {row['case']} | {kept} | {other} |")
    return "\n".join(lines) + "\n"


def _ratio(comparison: dict[str, Any]) -> str:
    return f"{comparison['speedup']:.2f}x [{comparison['low']:.2f}, {comparison['high']:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rules.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {"device": cpu_name(), "cores": os.cpu_count(), "versions": versions(), "cases": []}
    for case in cases():
        if not arguments.rules or case.rule in arguments.rules:
            results["cases"].append(run(case))
            print(markdown(results).splitlines()[-1], flush=True)
    arguments.output.write_text(json.dumps(results))
    arguments.output.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
