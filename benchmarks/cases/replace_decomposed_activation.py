"""Cases for `replace_decomposed_activation`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, weights_of
from onnxtune.testing import model_of

SPELLINGS = (
    (
        "HardSwish (Add, Clip, Mul, Div)",
        17,
        "s = Add (c, three) t = Clip (s, zero, six) u = Mul (c, t) a = Div (u, six)",
    ),
    ("ReLU6 (Relu, Min)", 17, "s = Relu (c) a = Min (s, six)"),
    ("Mish (Softplus, Tanh, Mul)", 17, "s = Softplus (c) t = Tanh (s) a = Mul (c, t)"),
    ("SiLU (Neg, Exp, Add, Div)", 17, "n = Neg (c) e = Exp (n) d = Add (e, one) a = Div (c, d)"),
    ("GELU (Erf; ORT fuses it)", 20, "d = Div (c, root) e = Erf (d) f = Add (e, one) m = Mul (c, f) a = Mul (m, half)"),
    *(
        (
            f"GELU (Tanh), opset {opset}",
            opset,
            """p = Pow (c, three) q = Mul (p, cubic) r = Add (c, q) s = Mul (r, outer) t = Tanh (s)
               u = Add (t, one) k = Mul (c, u) a = Mul (k, half)""",
        )
        for opset in (17, 20)
    ),
)
NUMBERS = {
    "zero": 0, "one": 1, "three": 3, "six": 6, "half": 0.5,
    "root": 2**0.5, "cubic": 0.044715, "outer": (2 / np.pi) ** 0.5,
}  # fmt: skip


def cases() -> Iterator[CaseOf]:
    """Each between two convolutions."""
    for name, opset, body in SPELLINGS:
        text = f"c = Conv <pads = [1, 1, 1, 1]> (x, w)  {body}  y = Conv (a, v)"
        numbers = {
            k: np.array(v, np.float32) for k, v in NUMBERS.items() if any(f"{e}{k}" in body for e in ("(", ", "))
        }
        weights = {"w": weights_of(32, 16, 3, 3), "v": weights_of(32, 32, 1, 1), **numbers}
        graph = f"g (float[N, 16, 56, 56] x) => (float[N, 32, H, W] y) {{ {text} }}"
        yield CaseOf(name, model_of(graph, weights, opset=opset))
