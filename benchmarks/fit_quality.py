"""How well factorised forms answer for the large kernels of trained models, fitted with data and without.

    python -m benchmarks.fit_quality --shared FOLDER [--output benchmarks/results/fit_quality.json] [--only MODEL ...]

For every dense convolution with a kernel of 5 or more: each form at about a quarter and half of the layer's
multiply-accumulates, fitted to the layer on 80 % of the calibration images and judged on the other 20 %.
The error is the square root of E|y - y'|^2 / E|y - mean y|^2 on patches of images that were held out.
"without data" has the layer's own bias; "with its mean" the bias that data would give the same kernel.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from benchmarks.suite.trained import luma
from onnxtune.calibrate import forms
from onnxtune.calibrate.forms import Factors, Form
from onnxtune.calibrate.moments import Accumulator, Array, Moments
from onnxtune.calibrate.patches import patches, positions_of, values
from onnxtune.calibrate.solve import Fitted, fit, predict, relative_error
from onnxtune.windows import Window

MODELS = ("own_alex11_cifar10", "own_lenet5_cifar10", "own_srcnn955_x3", "caffe_lenet_mnist")
RATIOS = (0.25, 0.5)
SMALLEST = 5


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with rows of its input and output, of images to fit on and of images to judge on."""

    name: str
    weight: Array
    bias: Array | None
    window: Window
    size: tuple[int, ...]
    fit: tuple[NDArray[Any], NDArray[Any]]
    held: tuple[NDArray[Any], NDArray[Any]]


def images(shared: Path, name: str) -> NDArray[np.float32]:
    """(N, C, H, W), as manifest.json says the model wants them."""
    entry = json.loads((shared / "manifest.json").read_text())[name]
    if entry["task"] == "sr":
        return _enlarged(shared, entry["scale"])
    x = np.load(shared / "data" / f"{entry['task']}_calib2000.npz")["x"][:1000].astype(np.float32)
    if entry["task"] == "mnist":
        return np.asarray(x[:, None] * np.float32(entry["mul"]))
    x = (x - np.array(entry["sub"], np.float32)) * np.array(entry["mul"], np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _enlarged(shared: Path, scale: int) -> NDArray[np.float32]:
    """Luma of photos, made smaller and larger again: crops of 48 x 48 in the order of the photos."""
    crops = []
    for rgb in np.load(shared / "data" / "faces24_320x240.npz").values():
        for photo in rgb if rgb.ndim == 4 else rgb[None]:
            whole = Image.fromarray(photo)
            small = whole.resize((whole.width // scale, whole.height // scale), Image.Resampling.BICUBIC)
            again = small.resize((small.width * scale, small.height * scale), Image.Resampling.BICUBIC)
            bright = luma(again)
            for top in range(0, bright.shape[0] - 47, 48):
                crops += [bright[top : top + 48, left : left + 48] for left in range(0, bright.shape[1] - 47, 48)]
    return np.stack(crops)[:, None].astype(np.float32)


def layers(shared: Path, name: str) -> Iterator[Layer]:
    """The model's large dense convolutions."""
    model = onnx.load(shared / "models" / f"{name}.onnx")
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    convs = [n for n in model.graph.node if n.op_type == "Conv" and max(constants[n.input[1]].shape[2:]) >= SMALLEST]
    fed, given = model.graph.input[0].name, {o.name for o in model.graph.output}
    wanted = {t for n in convs for t in (n.input[0], n.output[0])} - {fed}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(t) for t in sorted(wanted - given))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = images(shared, name)
    found = dict(zip(sorted(wanted), session.run(sorted(wanted), {fed: x}), strict=True)) | {fed: x}
    for node in convs:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight = constants[node.input[1]].astype(np.float64)
        bias = constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else None
        pads, two = attributes.get("pads", [0] * 4), (1, 1)
        strides, dilations = (tuple(attributes.get(a, two)) for a in ("strides", "dilations"))
        window = Window(tuple(weight.shape[2:]), strides, dilations, tuple(pads[:2]), tuple(pads[2:]))
        ins, outs = found[node.input[0]], found[node.output[0]]
        at = positions_of(np.arange(len(ins)), outs.shape[2:], 24, 0)
        part = len(ins) * 4 // 5
        rows = [(patches(ins[s], at[s], window), values(outs[s], at[s])) for s in (slice(part), slice(part, None))]
        yield Layer(node.output[0], weight, bias, window, outs.shape[2:], rows[0], rows[1])


def moments(layer: Layer) -> Moments:
    x, y = layer.fit
    gathered = Accumulator(x.shape[1], y.shape[1])
    for i in range(0, len(x), 4096):
        gathered.add(x[i : i + 4096], y[i : i + 4096])
    return gathered.finish()


def judged(layer: Layer, form: Form, mid: tuple[int, ...], data: Moments) -> dict[str, Any]:
    """Errors on rows that were held out, and what the fit took."""
    free, _ = _timed(layer, form, mid, None)
    aware, seconds = _timed(layer, form, mid, data)
    kernel = forms.compose(free.factors).reshape(len(layer.weight), -1)
    centred = replace(free.factors, bias=data.mean_y - kernel @ data.mean_x)
    whole = layer.weight.size * int(np.prod(layer.size))
    return {
        "form": form.name,
        "mid": list(mid),
        "macs": round(aware.factors.macs(layer.size) / whole, 4),
        "without_data": _held(layer, free.factors),
        "with_its_mean": _held(layer, centred),
        "with_data": _held(layer, aware.factors),
        "on_own_rows": round(aware.rel_error, 5),
        "iterations": aware.iterations,
        "seconds": round(seconds, 2),
    }


def _timed(layer: Layer, form: Form, mid: tuple[int, ...], data: Moments | None) -> tuple[Fitted, float]:
    start = time.process_time()
    found = fit(form, layer.weight, layer.bias, data, mid)
    return found, time.process_time() - start


def _held(layer: Layer, factors: Factors) -> float:
    x, y = layer.held
    return round(relative_error(y, predict(factors, x)), 5)


def markdown(results: list[dict[str, Any]]) -> str:
    lines = [
        "Relative error on held-out patches; the smallest in bold. Seconds: CPU time of the fit with data.",
        "",
        "| model | layer | form | mid | MACs x | without data | with its mean | with data | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        mid = ",".join(map(str, row["mid"]))
        free, aware = f"{row['with_its_mean']:.3f}", f"{row['with_data']:.3f}"
        if row["with_data"] < row["with_its_mean"]:
            aware = f"**{aware}**"
        else:
            free = f"**{free}**"
        plain, seconds = f"{row['without_data']:.3f}", f"{row['seconds']:.1f}"
        cells = (row["model"], row["layer"], row["form"], mid, f"{row['macs']:.2f}", plain, free, aware, seconds)
        lines.append("| " + " | ".join(cells) + " |")
    better = sum(r["with_data"] < min(r["with_its_mean"], r["without_data"]) for r in results)
    return "\n".join(lines) + f"\n\nThe fit with data is better in {better} of {len(results)} cases.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/, data/ and manifest.json")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fit_quality.json"))
    parser.add_argument("--only", nargs="*", default=MODELS)
    arguments = parser.parse_args()
    results = []
    for name in arguments.only:
        for layer in layers(arguments.shared, name):
            data = moments(layer)
            o, c, *kernel = layer.weight.shape
            label = f"{'x'.join(map(str, kernel))} {c} -> {o}"
            for form in forms.candidates(layer.window):
                for ratio in RATIOS:
                    mid = form.mid_for((o, c), layer.size, ratio)
                    if mid is None:
                        continue
                    row = {"model": name, "layer": label, "tensor": layer.name, "ratio": ratio}
                    results.append(row | judged(layer, form, mid, data))
                    print(markdown(results).splitlines()[-3], flush=True)
    arguments.output.write_text(json.dumps(results, indent=1))
    arguments.output.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
