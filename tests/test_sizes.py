"""Binding dynamic dimensions: the user's sizes, else assumptions that are said; contradictions are refused."""

from __future__ import annotations

import onnx
import pytest

from onnxtune.errors import ModelError, UsageError
from onnxtune.model import Model
from onnxtune.sizes import bind, bind_tensors, parse_shapes, unfed, with_batch
from onnxtune.testing import model_of


def model(*inputs: str) -> Model:
    text = f"g ({', '.join(inputs)}) => (float[A] y) {{ y = Odd (x) }}"
    return Model(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), "m.onnx")


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("x:1x3x224x224", "x", (1, 3, 224, 224)),
        ("x:1,3,224,224", "x", (1, 3, 224, 224)),
        ("input:0:1x3", "input:0", (1, 3)),
        ("max/x:7", "max/x", (7,)),
    ],
)
def test_shapes_as_people_write_them(text: str, name: str, shape: tuple[int, ...]) -> None:
    assert parse_shapes((text,)) == {name: shape}


@pytest.mark.parametrize(
    "text", ["x", "x:", ":1x3", "1x3x8x8", "x:1x-1", "x:0x3", "x:1xN", "x:1xx3", "x:1x3x", "x:1.5"]
)
def test_shapes_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="expected name:1x3x224x224"):
        parse_shapes((text,))


@pytest.mark.parametrize(
    ("text", "size", "said"),
    [
        ("float[2, 3, 8, 9] x", (2, 3, 8, 9), []),
        ("float[N, 3, 8, 9] x", (1, 3, 8, 9), []),
        ("float[N, 3, H, W] x", (1, 3, 224, 224), ["axis 2", "axis 3"]),
        ("float[N, C, H, W] x", (1, 3, 224, 224), ["axis 1", "axis 2", "axis 3"]),
        ("float[N, H, W, 3] x", (1, 224, 224, 3), ["axis 1", "axis 2"]),
        ("float[N, F] x", (1, 16), ["axis 1"]),
        ("float[N, 3, S, S] x", (1, 3, 224, 224), ["axis 2"]),
        ("float x", (), []),
    ],
)
def test_assumptions_are_sensible_and_said(text: str, size: tuple[int, ...], said: list[str]) -> None:
    binding = bind(model(text))
    assert binding.sizes == {"x": size}
    assert len(binding.assumed) == len(said)
    assert all(axis in text and "was assumed" in text for axis, text in zip(said, binding.assumed, strict=True))


def test_a_symbol_has_one_size_everywhere() -> None:
    both = model("float[N, 3, H, W] x", "float[N, 1, H, W] z")
    assert bind(both, {"z": (2, 1, 5, 7)}).sizes == {"x": (2, 3, 5, 7), "z": (2, 1, 5, 7)}


def test_placeholders_are_no_symbols() -> None:
    """ "?" on every open axis: the batch of 1 is not the height."""
    found = model("float[N, 3, H, W] x")
    for axis in (0, 2, 3):
        found.proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    assert bind(found).sizes == {"x": (1, 3, 224, 224)}


def test_inputs_with_a_default_need_no_size() -> None:
    found = model("float[2] x", "float[N] w")
    found.proto.graph.initializer.append(onnx.helper.make_tensor("w", 1, [1], [1.0]))
    assert bind(found).sizes == {"x": (2,)}


def test_lists_are_as_good_as_tuples() -> None:
    assert bind(model("float[N, 3] x"), {"x": [2, 3]}).sizes == {"x": (2, 3)}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"q": (1,)}, "names 'q', but the inputs are: x"),
        ({"x": (1, 4, 8, 8)}, "does not fit the declared Nx3xHxW"),
        ({"x": (1, 3, 8)}, "does not fit"),
        ({"x": ()}, "does not fit"),
        ({"x": (0, 3, 8, 8)}, "at least 1"),
    ],
)
def test_contradictions(given: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(model("float[N, 3, H, W] x"), given)


def test_unknown_rank_must_be_given() -> None:
    found = model("float[N] x")
    found.proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match="'x' has no declared rank; give --input-shapes"):
        bind(found)
    assert bind(found, {"x": (1, 2, 3)}).sizes == {"x": (1, 2, 3)}


@pytest.mark.parametrize(("kind", "word"), [("seq", "a sequence"), ("optional", "an optional value")])
def test_what_is_no_tensor_cannot_be_fed(kind: str, word: str) -> None:
    found = model(f"{kind}(float[N]) x, float[N, 3] z")
    with pytest.raises(ModelError, match=rf"m\.onnx: input 'x' is {word}; only tensors can be fed"):
        bind(found)
    assert unfed(found) == f"input 'x' is {word}; only tensors can be fed"
    assert bind_tensors(found).sizes == {"z": (1, 3)}
    assert bind_tensors(found, {"z": (4, 3)}).sizes == {"z": (4, 3)}


def test_a_batch_for_throughput_where_the_model_leaves_it_open() -> None:
    text = "g (float[N, 3] x, float[1, 3] z) => (float[N, 3] y) { y = Add (x, z) }"
    opened = Model(model_of(text, {}))
    sizes = bind(opened).sizes
    assert with_batch(opened, sizes, {}, 32) == ({"x": (32, 3), "z": (1, 3)}, True)
    assert with_batch(opened, sizes, {"x": (1, 3)}, 32) == ({"x": (1, 3), "z": (1, 3)}, False)
