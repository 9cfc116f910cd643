"""The inputs on which everything is verified: seeded, varied, of all the sizes that the model declares."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxtune.feeds import Case, cases, random_feeds
from onnxtune.model import Model
from onnxtune.testing import model_of


def model(*inputs: str) -> Model:
    """A model with these inputs; the graph does not matter."""
    text = f"g ({', '.join(inputs)}) => (float[A] y) {{ y = Odd (x) }}"
    return Model(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


def by_name(found: Model, sizes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, dict[str, Any]]:
    return {c.name: c.feeds for c in cases(found, sizes, seed)}


IMAGE = model("float[N, 3, H, W] x")
SIZES = {"x": (1, 3, 32, 24)}


def test_the_cases() -> None:
    found = by_name(IMAGE, SIZES)
    assert list(found) == [
        "normal", "uniform [0, 1)", "ones", "zeros", "normal x 1000", "corner impulses",
        "batch 3", "odd height and width", "small height and width",
    ]  # fmt: skip
    assert all(f["x"].dtype == np.float32 for f in found.values())
    assert found["ones"]["x"].min() == found["ones"]["x"].max() == 1
    assert not found["zeros"]["x"].any()
    assert 0 <= found["uniform [0, 1)"]["x"].min() < found["uniform [0, 1)"]["x"].max() < 1
    assert np.abs(found["normal x 1000"]["x"]).max() > 1000


def test_impulses_in_all_four_corners() -> None:
    x = by_name(IMAGE, SIZES)["corner impulses"]["x"]
    assert np.count_nonzero(x) == 4 * 3
    assert {x[0, 0, 0, 0], x[0, 0, 0, -1], x[0, 0, -1, 0], x[0, 0, -1, -1]} == {1, -2, 3, -4}


def test_other_sizes_where_they_are_dynamic() -> None:
    shapes = {name: f["x"].shape for name, f in by_name(IMAGE, SIZES).items()}
    assert shapes["normal"] == (1, 3, 32, 24)
    assert shapes["batch 3"] == (3, 3, 32, 24)
    assert shapes["odd height and width"] == (1, 3, 33, 27)
    assert shapes["small height and width"] == (1, 3, 16, 14)


@pytest.mark.parametrize(
    ("text", "size", "extra"),
    [
        ("float[1, 3, 8, 8] x", (1, 3, 8, 8), []),
        ("float[N, 3, 8, 8] x", (1, 3, 8, 8), ["batch 3"]),
        ("float[1, 3, H, W] x", (1, 3, 8, 8), ["odd height and width", "small height and width"]),
        ("float[N, 16] x", (1, 16), ["batch 3"]),
        ("float x", (), []),
    ],
)
def test_fixed_sizes_stay_fixed(text: str, size: tuple[int, ...], extra: list[str]) -> None:
    assert list(by_name(model(text), {"x": size}))[6:] == extra


def test_one_symbol_has_one_size() -> None:
    """Square maps stay square; two inputs of one declared size stay equal."""
    square = model("float[N, 3, S, S] x", "float[N, 3, S, S] z")
    for name, feeds in by_name(square, dict.fromkeys("xz", (1, 3, 16, 16))).items():
        assert feeds["x"].shape == feeds["z"].shape, name
        assert feeds["x"].shape[2] == feeds["x"].shape[3], name


def test_one_symbol_on_the_batch_and_elsewhere() -> None:
    shared = model("float[N, 4] x", "float[4, N] z")
    feeds = by_name(shared, {"x": (1, 4), "z": (4, 1)})["batch 3"]
    assert (feeds["x"].shape, feeds["z"].shape) == ((3, 4), (4, 3))


def test_inputs_with_a_fixed_batch_keep_it() -> None:
    mixed = model("float[N, 4] x", "float[1, 4] z")
    feeds = by_name(mixed, {"x": (1, 4), "z": (1, 4)})["batch 3"]
    assert (feeds["x"].shape, feeds["z"].shape) == ((3, 4), (1, 4))


def test_channels_last_and_sequences_have_other_sizes_too() -> None:
    shapes = {n: f["x"].shape for n, f in by_name(model("float[N, H, W, 3] x"), {"x": (1, 32, 24, 3)}).items()}
    assert shapes["odd height and width"] == (1, 33, 27, 3)
    shapes = {n: f["x"].shape for n, f in by_name(model("float[N, 3, L] x"), {"x": (1, 3, 16)}).items()}
    assert shapes["odd height and width"] == (1, 3, 17)


def test_sizes_never_become_zero() -> None:
    found = by_name(IMAGE, {"x": (1, 3, 1, 1)})
    assert found["small height and width"]["x"].shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float", "float32"), ("float16", "float16"), ("double", "float64"), ("uint8", "uint8"), ("int64", "int64"),
     ("int8", "int8"), ("bool", "bool"), ("bfloat16", "bfloat16")],
)  # fmt: skip
def test_types(kind: str, dtype: str) -> None:
    for case in cases(model(f"{kind}[N, 3, 4, 4] x"), {"x": (2, 3, 4, 4)}):
        assert case.feeds["x"].dtype.name == dtype, case.name


def test_integers_vary_and_stay_small() -> None:
    x = random_feeds(model("int64[64] x"), {"x": (64,)})["x"]
    assert (x.min(), x.max()) == (0, 7)
    assert set(random_feeds(model("bool[64] x"), {"x": (64,)})["x"].tolist()) == {True, False}
    assert random_feeds(model("string[2] x"), {"x": (2,)})["x"].tolist() == ["a", "a"]


def test_indices_are_not_replaced_by_extremes() -> None:
    found = by_name(model("float[4] x", "int64[4] i"), {"x": (4,), "i": (4,)})
    assert found["zeros"]["i"].tolist() == found["normal"]["i"].tolist()


def test_two_inputs_are_never_equal_by_chance() -> None:
    """Otherwise a rewrite that swaps them would look right."""
    found = by_name(model("float[8] x", "float[8] z"), {"x": (8,), "z": (8,)})
    for name in ("normal", "uniform [0, 1)", "normal x 1000"):
        assert not np.array_equal(found[name]["x"], found[name]["z"]), name


def test_the_seed_decides() -> None:
    first, again, other = ([*cases(IMAGE, SIZES, s)] for s in (0, 0, 1))

    def same(a: list[Case], b: list[Case]) -> list[bool]:
        return [np.array_equal(p.feeds["x"], q.feeds["x"]) for p, q in zip(a, b, strict=True)]

    assert all(same(first, again))
    fixed = {"ones", "zeros", "corner impulses"}
    assert [c.name in fixed for c in first] == same(first, other)


@pytest.mark.parametrize("kind", ["float", "float16", "int64", "bool"])
def test_an_input_without_axes_is_an_array(kind: str) -> None:
    for case in cases(model(f"{kind} x"), {"x": ()}):
        assert isinstance(case.feeds["x"], np.ndarray), case.name
        assert case.feeds["x"].shape == ()


def test_large_feeds_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those that one call gives."""
    found = Model(model_of("g (float[5, 7] x, float16 z) => (float[5, 7] y) { y = Relu (x) }", {}))
    sizes = {"x": (5, 7), "z": ()}
    whole = list(cases(found, sizes))
    monkeypatch.setattr("onnxtune.feeds.CHUNK", 4)
    for one, other in zip(whole, cases(found, sizes), strict=True):
        assert one.feeds["x"].dtype == np.float32
        assert other.feeds["z"].shape == ()
        np.testing.assert_array_equal(one.feeds["x"], other.feeds["x"])
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(whole[0].feeds["x"], rng.standard_normal((5, 7)).astype(np.float32))
