"""Small models on which a rule wins or loses, one file per rule: `<rule>.py` with `cases()`.

`discover` finds the files; there is no list to edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.testing import model_of


class CaseOf(NamedTuple):
    """One small model; `name` says what it is in a few words, size included.

    `levels`: the settings of a rule whose levels are timed, with random weights: what data could buy.
    """

    name: str
    model: onnx.ModelProto
    levels: Mapping[str, Any] | None = None


def discover(rules: Collection[str] = ()) -> Iterator[tuple[str, CaseOf]]:
    """(rule, case) for all cases of the named rules, of every rule when none is named."""
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if not rules or found.name in rules:
            module = importlib.import_module(f"{__name__}.{found.name}")
            yield from ((found.name, case) for case in module.cases())


def weights_of(*shape: int) -> NDArray[np.float32]:
    """Seeded He-random weights of a shape (C_out, ...)."""
    scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
    return np.asarray(np.random.default_rng(0).standard_normal(shape) * scale, np.float32)


def model(
    x: str, body: str, weights: Mapping[str, NDArray[Any]] | None = None, y: str = "N, C, H, W"
) -> onnx.ModelProto:
    """A model from x to y in ONNX text; `x` and `y` are the dimensions."""
    return model_of(f"g (float[{x}] x) => (float[{y}] y) {{ {body} }}", weights)


def conv_cases(
    shapes: Iterable[tuple[int, int, int, int, int]], ratios: Sequence[float] = (0.25, 0.5)
) -> Iterator[CaseOf]:
    """Cases for rules that replace one convolution (kernel, stride, C_in, C_out, size of the output map): levels that
    leave these shares of its multiply-accumulates."""
    for k, stride, into, out, size in shapes:
        body = f"c = Conv <{same(k)}, strides = [{stride}, {stride}]> (x, w, b)  y = Relu (c)"
        weights = {"w": weights_of(out, into, k, k), "b": weights_of(out)}
        built = model(f"N, {into}, {size * stride}, {size * stride}", body, weights)
        name = f"{k}x{k}{f'/{stride}' if stride > 1 else ''}, {into} -> {out}, {size}x{size}"
        for ratio in ratios:
            settings = {"ratios": [ratio], "min_share": 0.0}
            yield CaseOf(f"{name}: {ratio:.0%} of its multiply-accumulates", built, settings)


def same(k: int) -> str:
    """Attributes of a k x k window that keeps the map's size."""
    return f"kernel_shape = [{k}, {k}], pads = [{k // 2}, {k // 2}, {k // 2}, {k // 2}]"
