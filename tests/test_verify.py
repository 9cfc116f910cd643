"""Is it still the same function? Wrong rewrites of all kinds are caught, right ones pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxtune import verify as module
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import Case, cases
from onnxtune.model import Model
from onnxtune.runtime import Target
from onnxtune.testing import model_of
from onnxtune.verify import Verdict, Verifier

RNG = np.random.default_rng(0)
W = (RNG.standard_normal((6, 4, 3, 3)) / 6).astype(np.float32)
V = (RNG.standard_normal((5, 6, 3, 3)) / 7).astype(np.float32)
X = "float[N, 4, 11, 9] x"
Y = "float[N, C, H, D] y"
NET = "c = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (c)  y = Conv <pads = [1, 1, 1, 1]> (r, v)"
SIZES = {"x": (1, 4, 11, 9)}


def model(nodes: str, x: str = X, y: str = Y, **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({x}) => ({y}) {{ {nodes} }}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items())
    return Model(proto)


def verifier(original: Model, sizes: Any = None, **options: Any) -> Verifier:
    sizes = sizes or SIZES
    return Verifier(original, Facts(original, sizes), cases(original, sizes), Target(threads=1), **options)


def judge(before: Model, after: Model, sizes: Any = None, **options: Any) -> Verdict:
    return verifier(before, sizes, **options).verify(after)


def test_how_far_the_original_moves_is_asked_only_where_rounding_alone_does_not_explain_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    movement = module.movement

    def noted(*args: Any) -> Any:
        asked.append(args)
        return movement(*args)

    monkeypatch.setattr(module, "movement", noted)
    holds = verifier(model(NET, w=W, v=V))
    order = RNG.permutation(6)
    assert holds.verify(model(NET, w=W[order], v=V[:, order])).ok
    assert not asked
    assert not holds.verify(model(NET, w=W, v=V * np.float32(1.001))).ok
    assert not holds.verify(model(NET, w=W, v=V * np.float32(1.002))).ok
    assert len(asked) == len(holds.cases), "once each"


def test_the_same_model() -> None:
    verdict = judge(model(NET, w=W, v=V), model(NET, w=W, v=V))
    assert verdict.ok
    assert verdict.error < 1e-6
    assert verdict.cases == 7
    assert verdict.reason == ""


def test_another_order_of_sums_is_the_same() -> None:
    """The channels in between in another order: nothing but rounding changes."""
    order = RNG.permutation(6)
    verdict = judge(model(NET, w=W, v=V), model(NET, w=W[order], v=V[:, order]))
    assert verdict.ok
    assert 0 < verdict.error < 1e-5


@pytest.mark.parametrize(
    "after",
    [
        model(NET.replace("[1, 1, 1, 1]> (r", "[0, 0, 2, 2]> (r"), w=W, v=V),
        model('p = Pad <mode = "edge"> (x, q)  c = Conv (p, w)  r = Relu (c)  y = Conv <pads = [1, 1, 1, 1]> (r, v)',
              w=W, v=V, q=np.array([0, 0, 1, 1] * 2)),
        model(NET, w=W[[1, 0, 2, 3, 4, 5]], v=V),
        model(NET, w=W, v=np.where(np.arange(5)[:, None, None, None] == 3, 0, V).astype(np.float32)),
        model(NET.replace("Relu", "Abs"), w=W, v=V),
        model(NET.replace("Relu (c)", "Clip (c, z, s)"), w=W, v=V, z=np.float32(0), s=np.float32(6)),
        model(NET, w=W * np.float32(1.01), v=V),
    ],
    ids=["shifted", "border", "channels swapped", "dead channel", "sign", "saturates", "one percent"],
)  # fmt: skip
def test_wrong_numbers(after: Model) -> None:
    verdict = judge(model(NET, w=W, v=V), after)
    assert not verdict.ok
    assert "output 'y'[" in verdict.reason
    assert "tolerance" in verdict.reason
    assert "\n" not in verdict.reason


@pytest.mark.parametrize(
    ("nodes", "y", "reason"),
    [
        (NET.replace("r, v)", "r, v) ").replace("y =", "t =") + " y = Concat <axis = 1> (t, t)", Y, "was float32[1, 5"),
        (NET.replace("y =", "t =") + " y = Cast <to = 11> (t)", Y.replace("float", "double"), "is float64"),
        (NET.replace("y =", "t =") + " z = Sub (t, t)  n = Div (z, z)  y = Add (t, n)", Y, "not finite where it was"),
        (NET.replace("y =", "z ="), Y.replace("y", "z"), "'y'"),
        ("y = Conv (x, v)", Y, "ONNX Runtime cannot"),
        ("y = Odd (x)", Y, "ONNX Runtime cannot"),
    ],
    ids=["shape", "type", "NaN", "output missing", "does not run", "does not load"],
)
def test_wrong_in_other_ways(nodes: str, y: str, reason: str) -> None:
    verdict = judge(model(NET, w=W, v=V), model(nodes, y=y, w=W, v=V))
    assert not verdict.ok
    assert reason in verdict.reason


def test_wrong_for_other_batches_or_sizes_only() -> None:
    before = model("y = Relu (x)")
    batch = model("r = Relu (x)  y = Reshape (r, s)", s=np.array([1, 4, 11, 9]))
    verdict = judge(before, batch)
    assert not verdict.ok
    dynamic = model("y = GlobalAveragePool (x)", "float[1, 4, H, W] x")
    fixed = model("y = AveragePool <kernel_shape = [11, 9]> (x)", "float[1, 4, H, W] x")
    assert not judge(dynamic, fixed).ok


def test_wrong_for_extremes_only() -> None:
    before = model("y = Relu (x)")
    after = model("y = Clip (x, z, s)", z=np.float32(0), s=np.float32(100))
    verdict = judge(before, after)
    assert not verdict.ok
    assert "normal x 1000" in verdict.reason


def test_wrong_without_optimisations_only() -> None:
    """Both levels are compared; the reason says which one."""
    verdict = judge(model("y = Relu (x)"), model("y = Neg (x)"))
    assert "level disable" in verdict.reason


def test_large_magnitudes_are_judged_by_their_own_scale() -> None:
    big = np.float32(1e6)
    order = RNG.permutation(6)
    assert judge(model(NET, w=W * big, v=V * big), model(NET, w=W[order] * big, v=V[:, order] * big)).ok
    assert not judge(model(NET, w=W * big, v=V * big), model(NET, w=W * big, v=V * big * np.float32(1.01))).ok


def test_tiny_magnitudes_too() -> None:
    tiny = np.float32(1e-9)
    assert judge(model(NET, w=W * tiny, v=V), model(NET, w=W * tiny, v=V)).ok
    assert not judge(model(NET, w=W * tiny, v=V), model(NET, w=W * tiny, v=V * np.float32(1.01))).ok


def test_integer_outputs_are_equal_or_wrong() -> None:
    nodes, y = "y = ArgMax <axis = 1> (x)", "int64[N, 1, H, D] y"
    assert judge(model(nodes, y=y), model(nodes, y=y)).ok
    verdict = judge(model(nodes, y=y), model(nodes.replace("ArgMax", "ArgMin"), y=y))
    assert not verdict.ok
    assert "values differ" in verdict.reason


def test_classes_at_a_tie_may_move_as_they_move_by_themselves() -> None:
    """Where the original's own answer hangs on the last bit, the rewrite's may too."""
    nodes = NET.replace("y =", "t =") + " y = ArgMax <axis = 1> (t)"
    order = RNG.permutation(6)
    y = "int64[N, 1, H, D] y"
    assert judge(model(nodes, y=y, w=W, v=V), model(nodes, y=y, w=W[order], v=V[:, order])).ok


def test_half_precision() -> None:
    x, y = X.replace("float", "float16"), Y.replace("float", "float16")
    w, v, order = W.astype(np.float16), V.astype(np.float16), RNG.permutation(6)
    assert judge(model(NET, x, y, w=w, v=v), model(NET, x, y, w=w[order], v=v[:, order])).ok
    assert not judge(model(NET, x, y, w=w, v=v), model(NET, x, y, w=w, v=v * np.float16(1.2))).ok


def test_double_precision_is_judged_as_such() -> None:
    m = RNG.standard_normal((9, 5))
    before = model("y = MatMul (x, m)", "double[N, 9] x", "double[N, 5] y", m=m)
    for factor, equal in ((1 + 1e-15, True), (1 + 1e-8, False)):
        after = model("y = MatMul (x, m)", "double[N, 9] x", "double[N, 5] y", m=m * factor)
        assert judge(before, after, {"x": (2, 9)}).ok == equal


def test_the_users_tolerances() -> None:
    before, after = model(NET, w=W, v=V), model(NET, w=W, v=V * np.float32(1.01))
    assert judge(before, after, rtol=0.02, atol=0.0).ok
    assert not judge(before, after, rtol=0.001, atol=0.0).ok
    assert judge(before, after, atol=1e6).ok


def test_several_outputs_are_all_compared() -> None:
    y = "float[N, 4, 11, 9] y, float[N, 4, 11, 9] z"
    before = model("y = Relu (x)  z = Neg (x)", y=y)
    verdict = judge(before, model("y = Relu (x)  z = Abs (x)", y=y))
    assert "output 'z'" in verdict.reason


def test_cases_on_which_the_original_fails_are_left_out_and_named() -> None:
    fixed = model("y = Reshape (x, s)", s=np.array([1, 4, 99]), y="float[A, B, C] y")
    found = verifier(fixed)
    assert [s.partition(":")[0] for s in found.skipped] == ["batch 3"]
    assert "batch 3" not in found.cases
    assert found.verify(fixed).ok


def test_an_original_that_never_runs() -> None:
    broken = model("y = Reshape (x, s)", s=np.array([1, 4, 98]), y="float[A, B, C] y")
    with pytest.raises(ModelError, match="ONNX Runtime cannot run it"):
        verifier(broken)
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        verifier(model("y = Odd (x)"))


def test_the_users_inputs_are_compared_too() -> None:
    """A rewrite that is wrong for negative zero-mean data only would pass on the user's ones: all count."""
    original = model("y = Relu (x)")
    case = Case("user input 1", {"x": np.full((2, 4, 11, 9), 1e9, np.float32)})
    found = Verifier(original, Facts(original, SIZES), [case], Target(threads=1))
    verdict = found.verify(model("y = Clip (x, z, s)", z=np.float32(0), s=np.float32(1e8)))
    assert not verdict.ok
    assert "user input 1" in verdict.reason


def test_not_finite_in_the_original_is_nobodys_fault() -> None:
    """Overflow of half precision at large inputs: other places are still compared."""
    x, y = "float16[N, 4] x", "float16[N, 4] y"
    before = model("y = Mul (x, k)", x, y, k=np.array([1e4, 1, 1, 1], np.float16))
    sizes = {"x": (1, 4)}
    assert judge(before, before, sizes).ok
    assert not judge(before, model("y = Mul (x, k)", x, y, k=np.array([1e4, 1, 2, 1], np.float16)), sizes).ok


def test_empty_outputs() -> None:
    before = model("y = Slice (x, a, b)", a=np.array([0]), b=np.array([0]))
    assert judge(before, before).ok


def test_model_of_checks_what_this_file_leaves_open() -> None:
    with pytest.raises(onnx.checker.ValidationError):
        model_of("g (float[2] x) => (float[2] y) { y = Odd (x) }")


def test_unlike_sees_kinds_and_not_values() -> None:
    """What holds of a model that is only to be about the same."""
    text = "g (float[N, 2, H, 4] x) => (float[N, 2, A, B] y) { y = %s }"

    def verifier(body: str, weights: dict[str, np.ndarray] | None = None) -> Verifier:
        model = Model(model_of(text % body, weights))
        sizes = {"x": (1, 2, 4, 4)}
        return Verifier(model, Facts(model, sizes), cases(model, sizes), Target(threads=1))

    original = verifier("Relu (x)")
    assert original.unlike(verifier("Sigmoid (x)")) == ""
    assert "another shape" in original.unlike(verifier("MaxPool <kernel_shape = [2, 2]> (x)"))
    assert "not finite" in original.unlike(verifier("Div (x, zero)", {"zero": np.zeros(1, np.float32)}))
    assert "does not run" in original.unlike(verifier("Add (x, one)", {"one": np.ones((1, 2, 4, 4), np.float32)}))
