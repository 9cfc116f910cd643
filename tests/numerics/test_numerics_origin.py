"""Where two models begin to differ: by bisection, past vanishing differences and names that do not correspond."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import Case, random_feeds
from onnxtune.model import Model
from onnxtune.numerics.api import compare
from onnxtune.numerics.origin import Origin, Probe, find_origin, nearest, origin
from onnxtune.runtime import Target
from onnxtune.testing import model_of
from onnxtune.verify import Tolerance

RNG = np.random.default_rng(0)
CHAIN = "".join(f"t{i} = {'Neg' if i % 2 else 'Abs'} (t{i - 1})  " for i in range(1, 40))


def chain() -> Facts:
    return Facts(Model(model_of(f"g (float[4] t0) => (float[4] y) {{ {CHAIN} y = Identity (t39) }}")))


@pytest.mark.parametrize("first", [1, 2, 17, 38, 39])
def test_bisection_asks_few(first: int) -> None:
    asked: list[str] = []

    def diverging(tensors: Any) -> dict[str, str]:
        asked.extend(tensors)
        return {t: "differs" for t in tensors if t == "y" or int(t[1:]) >= first}

    found, above, count = origin(chain(), chain(), "y", diverging)
    assert found == f"t{first}"
    assert above == ((f"t{first - 1}",) if first > 1 else ())
    assert count == 40
    assert len(asked) <= 10


def test_only_the_output_differs() -> None:
    found, above, _ = origin(chain(), chain(), "y", lambda tensors: {t: "differs" for t in tensors if t == "y"})
    assert (found, above) == ("y", ("t39",))


def test_a_name_that_means_something_else_is_left_out() -> None:
    """t20, where bisection looks first, has another size (""), or differs while what follows from it agrees."""
    for said in ("", "differs"):
        odd = {"t20": said, "y": "differs"}
        found, _, count = origin(chain(), chain(), "y", lambda ts, odd=odd: {t: odd[t] for t in ts if t in odd})
        assert (found, count) == ("y", 39)


def test_a_difference_that_vanishes_on_the_way_is_found_above() -> None:
    """Two branches: the guilty one is not where bisection first looks."""
    text = "g (float[4] x) => (float[4] y) { a = Abs (x)  b = Neg (a)  c = Neg (x)  d = Abs (c)  y = Add (b, d) }"
    facts = Facts(Model(model_of(text)))
    guilty = {"a", "b", "y"}
    found, above, _ = origin(facts, facts, "y", lambda ts: {t: "differs" for t in ts if t in guilty})
    assert (found, above) == ("a", ())


def test_nearest_stops_at_the_first() -> None:
    assert nearest(chain(), "t9", {"t2", "t7"}) == ("t7",)
    assert nearest(chain(), "t1", {"t2"}) == ()


# --- with models ---------------------------------------------------------------------------------------------

W = [(RNG.standard_normal((6, 6, 3, 3)) / 7).astype(np.float32) for _ in range(5)]
NET = """g (float[1, 6, 9, 9] x) => (float[1, 6, 9, 9] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0)  b = Relu (a)  c = Conv <pads = [1, 1, 1, 1]> (b, w1)  d = Relu (c)
    e = Conv <pads = [1, 1, 1, 1]> (d, w2)  f = Add (e, b)  h = Conv <pads = [1, 1, 1, 1]> (f, w3)
    y = Conv <pads = [1, 1, 1, 1]> (h, w4) }"""


def net(changed: int | None = None) -> onnx.ModelProto:
    weights = {f"w{i}": w.copy() for i, w in enumerate(W)}
    if changed is not None:
        weights[f"w{changed}"][2, 3, 1, 1] += 0.2
    return model_of(NET, weights)


def found_in(a: onnx.ModelProto, b: onnx.ModelProto) -> Origin:
    result = compare(a, b, threads=1, providers="cpu")
    assert not result.within
    assert result.origin is not None
    return result.origin


@pytest.mark.parametrize(
    ("changed", "tensor", "before"), [(0, "a", ()), (2, "e", ("d",)), (3, "h", ("f",)), (4, "y", ("h",))]
)
def test_the_changed_weight_is_found(changed: int, tensor: str, before: tuple[str, ...]) -> None:
    found = found_in(net(), net(changed))
    assert (found.tensor, found.agreeing, found.made_by_a) == (tensor, before, "Conv")
    assert found.level == "disable"
    assert "tolerance" in found.reason


def test_a_fused_batchnorm_is_not_blamed() -> None:
    """B has folded the BatchNormalization into a convolution whose output kept its name, and is wrong further down."""
    scale = np.array([2.0, 3.0], np.float32)
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    w = RNG.standard_normal((2, 2, 1, 1)).astype(np.float32)
    v = RNG.standard_normal((2, 2, 1, 1)).astype(np.float32)
    head, tail = "g (float[1, 2, 5, 5] x) => (float[1, 2, 5, 5] y)", "r = Relu (n)  y = Conv (r, v)"
    a = model_of(
        f"{head} {{ c = Conv (x, w)  n = BatchNormalization <epsilon = 0.0> (c, s, z, z, o)  {tail} }}",
        {"w": w, "s": scale, "z": zeros, "o": ones, "v": v},
    )
    b = model_of(
        f"{head} {{ c = Conv (x, w)  n = Identity (c)  {tail} }}", {"w": w * scale[:, None, None, None], "v": v * 1.1}
    )
    assert found_in(a, b).tensor == "y"


def test_other_names_inside_leave_the_output() -> None:
    renamed = net(1)
    for node in renamed.graph.node:
        node.input[:] = [i if i in ("x", "") or i.startswith("w") else f"other_{i}" for i in node.input]
        node.output[:] = [o if o == "y" else f"other_{o}" for o in node.output]
    found = found_in(net(), renamed)
    assert (found.tensor, found.compared) == ("y", 1)


def test_also_as_deployed() -> None:
    a, b = Model(net()), Model(net(2))
    case = Case("normal", random_feeds(a, {"x": (1, 6, 9, 9)}))
    found = find_origin(a, b, "y", case, "all", Target(threads=1), Tolerance(1e4), 0)
    assert (found.tensor, found.level) == ("e", "all")


def test_a_tensor_that_cannot_be_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Probe._look

    def look(self: Probe, tensors: Any) -> None:
        if "d" in tensors:
            raise ModelError("d cannot be an output")
        real(self, tensors)

    monkeypatch.setattr(Probe, "_look", look)
    found = found_in(net(), net(2))
    assert (found.tensor, found.agreeing) == ("e", ("c",))
