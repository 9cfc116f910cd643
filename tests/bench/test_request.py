"""What the command line's words mean."""

from __future__ import annotations

import pytest

from onnxtune.bench.request import numbers, shape_cases, share
from onnxtune.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ()),
        ("4", (4,)),
        ("1, 2,4", (1, 2, 4)),
        ("1,2,4,...,32", (1, 2, 4, 8, 16, 32)),
        ("1,2,...,8", (1, 2, 4, 8)),
        ("1,2,3,...,6", (1, 2, 3, 4, 5, 6)),
        ("8,16,24,...,48", (8, 16, 24, 32, 40, 48)),
        ("1,3,...,9", (1, 3, 5, 7, 9)),
    ],
)
def test_numbers(text: str | None, expected: tuple[int, ...]) -> None:
    assert numbers(text, "--batch", int) == expected


@pytest.mark.parametrize("text", ["a", "1,,2", "1,...,8", "1,2,...", "1,2,4,...,33", "2,1,...,8", "1,1,...,8", "1.5"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match=r"--batch .*"):
        numbers(text, "--batch", int)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125), ("0", 0.0)])
def test_share(text: str, value: float) -> None:
    assert share(text, "--fail-slower") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "x", "-1%", "nan", "inf"])
def test_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="expected a share"):
        share(text, "--fail-slower")


def test_shapes_given_once_hold_in_every_case() -> None:
    assert shape_cases(()) == []
    assert shape_cases(("x:1x2", "y:3")) == [{"x": (1, 2), "y": (3,)}]
    assert shape_cases(("x:1x2", "x:1x4", "y:3")) == [{"x": (1, 2), "y": (3,)}, {"x": (1, 4), "y": (3,)}]


def test_shapes_of_different_number_do_not_pair() -> None:
    with pytest.raises(UsageError, match="give each one, or all as many"):
        shape_cases(("x:1", "x:2", "y:1", "y:2", "y:3"))
