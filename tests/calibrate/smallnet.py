"""A small classifier with a large kernel, and images of two kinds that it tells apart; no training needed.

The first layer's 5x5 kernels are smooth (sums of few separable ones), as trained ones are; the head is least squares
on what the layers before give, so that the network really classifies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.model import Model
from onnxtune.runtime import Session, Target
from onnxtune.testing import model_of

CLASSES = 4


def images(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy gratings (count, 3, 12, 12) of CLASSES directions, with their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    rows, columns = np.mgrid[0:12, 0:12]
    angle = (np.pi * labels / CLASSES)[:, None, None]
    wave = np.sin(1.1 * (rows * np.sin(angle) + columns * np.cos(angle)) + rng.uniform(0, 6, (count, 1, 1)))
    maps = wave[:, None] * rng.uniform(0.5, 1.5, (count, 3, 1, 1)) + 1.1 * rng.standard_normal((count, 3, 12, 12))
    return maps.astype(np.float32), labels


def _pair(rng: np.random.Generator, rank: int, out: int, into: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Channel mixes of low rank for each spatial shape: (rank, out, 3), (rank, 3, into)."""
    return rng.standard_normal((rank, out, 3)), rng.standard_normal((rank, 3, into)) / np.sqrt(3)


def classifier(kernel: int = 5, width: int = 24) -> onnx.ModelProto:
    """Conv kxk 3 -> width, Relu, Conv kxk width -> width, Relu, GlobalAveragePool, Gemm -> CLASSES; input `image`."""
    rng = np.random.default_rng(1)

    def smooth(out: int, into: int) -> NDArray[np.float32]:
        rank = 3
        shapes = np.einsum("ru,rv->ruv", *rng.standard_normal((2, rank, kernel)))
        weight = np.einsum("rom,rmc,ruv->ocuv", *_pair(rng, rank, out, into), shapes) / rank
        weight = weight + 0.1 * rng.standard_normal(weight.shape)
        return np.asarray(weight * np.sqrt(2 / (into * kernel * kernel)), np.float32)

    p = kernel // 2
    same = f"pads = [{p}, {p}, {p}, {p}]"
    text = f"""g (float[N, 3, 12, 12] image) => (float[N, {CLASSES}] logits) {{
        a = Conv <{same}> (image, u, ub)  b = Relu (a)  c = Conv <{same}> (b, v, vb)  d = Relu (c)
        e = GlobalAveragePool (d)  f = Flatten (e)  logits = Gemm <transB = 1> (f, w, wb) }}"""
    weights = {
        "u": smooth(width, 3),
        "ub": np.asarray(0.1 * rng.standard_normal(width), np.float32),
        "v": smooth(width, width),
        "vb": np.asarray(0.1 * rng.standard_normal(width), np.float32),
        "w": np.zeros((CLASSES, width), np.float32),
        "wb": np.zeros(CLASSES, np.float32),
    }
    x, labels = images(600, seed=99)
    body = text.replace(f"=> (float[N, {CLASSES}] logits)", f"=> (float[N, {width}] f)").partition("logits = ")[0] + "}"
    features = Session(Model(model_of(body, {k: weights[k] for k in ("u", "ub", "v", "vb")})), Target()).run(
        {"image": x}
    )
    f = np.column_stack([features["f"], np.ones(len(x))])
    solution = np.linalg.lstsq(f, 8 * np.eye(CLASSES)[labels], rcond=None)[0]
    weights["w"], weights["wb"] = np.float32(solution[:-1].T), np.float32(solution[-1])
    return model_of(text, weights)


def write_data(folder: Path, count: int = 300, *, labels: bool = True) -> Path:
    """A NPZ file of images, with their labels."""
    x, y = images(count)
    arrays = {"image": x, "labels": y} if labels else {"image": x}
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
