"""The stages in a row are one convolution, at every pixel; shapes, costs and mid channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convs import run_convs, run_factors
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxtune.calibrate import forms
from onnxtune.calibrate.forms import Form
from onnxtune.windows import Window


def window(kernel: int = 5, stride: int = 1, dilation: int = 1, pad: int = 2) -> Window:
    return Window((kernel,) * 2, (stride,) * 2, (dilation,) * 2, (pad,) * 2, (pad,) * 2)


def mids(form: Form) -> tuple[int, ...]:
    return (3, 4, 2, 3)[: form.middles]


def assert_one_convolution(form: Form, size: tuple[int, int], seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    factors = forms.unfitted(form, (5, 3), mids(form), random)
    kernel = forms.compose(factors)
    assert kernel.shape == (5, 3, *form.window.kernel)
    x = random.standard_normal((2, 3, *size))
    want = run_convs(x, [(kernel, factors.bias, form.window, 1)])
    found = run_factors(x, factors)
    assert found.shape == want.shape
    assert np.abs(found - want).max() <= 1e-5 * max(1, np.abs(want).max())


AWKWARD = (
    window(5),
    window(7, stride=2, pad=3),
    window(11, stride=4, pad=2),
    window(5, dilation=2, pad=4),
    window(4, stride=2, pad=1),
    window(3, pad=1),
    Window((7, 7), (2, 2), (3, 3), (5, 0), (1, 7)),
    Window((5, 3), (2, 1), (1, 2), (0, 3), (2, 1)),
    Window((3, 9), (1, 3), (1, 1), (1, 4), (1, 4)),
    Window((1, 7), (1, 2), (1, 2), (0, 6), (0, 6)),
    Window((9, 9), (1, 1), (1, 1), (0, 0), (0, 0)),
)


@pytest.mark.parametrize("whole", AWKWARD, ids=str)
def test_every_candidate_is_one_convolution(whole: Window) -> None:
    found = list(forms.candidates(whole))
    assert len({f.name for f in found}) == len(found) >= 4
    for form in found:
        for size in ((29, 31), (26, 24)):
            assert_one_convolution(form, size)


axis = st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(1, 2), st.integers(0, 4), st.integers(0, 4))


@settings(max_examples=25, deadline=None)
@given(axis, axis, st.integers(0, 3), st.integers(0, 3))
def test_any_window(rows: tuple[int, ...], columns: tuple[int, ...], more: int, wider: int) -> None:
    whole = Window(*((rows[i], columns[i]) for i in range(5)))
    spans = [d * (k - 1) + 1 for k, d in zip(whole.kernel, whole.dilations, strict=True)]
    found = list(forms.candidates(whole))
    assume(found)
    for form in found:
        assert_one_convolution(form, (spans[0] + more, spans[1] + wider), seed=more)


def test_the_stacks_of_a_kernel() -> None:
    names = [f.name for f in forms.candidates(window(7, pad=3)) if f.name.startswith("stack")]
    assert names == ["stack 3x3-5x5", "stack 5x5-3x3", "stack 3x3-3x3-3x3"]
    assert [f.name for f in forms.candidates(window(5)) if f.name.startswith("stack")] == ["stack 3x3-3x3"]
    names = [f.name for f in forms.candidates(window(7, stride=2, pad=3))]
    assert "stack 3x3/2x2-3x3" in names
    assert "stack 3x3-5x5/2x2" in names
    assert not list(forms.candidates(Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))))
    assert not list(forms.candidates(Window((9,), (1,), (1,), (4,), (4,))))


def test_a_stack_that_does_not_make_up_the_kernel() -> None:
    with pytest.raises(ValueError, match="do not make up"):
        forms.stack(window(5), [(3, 3), (5, 5)])
    with pytest.raises(ValueError, match="do not make up"):
        forms.stack(window(7, stride=3), [(3, 3), (3, 3)], (2, 2))
    with pytest.raises(ValueError, match="smaller than its strides"):
        forms.stack(window(11, stride=4), [(3, 3), (3, 3)], (4, 4))


def test_only_the_middle_stage_of_cp_has_groups() -> None:
    factors = forms.unfitted(forms.cp(window()), (5, 3), (6,), np.random.default_rng(0))
    assert [s.group for s in factors.stages] == [1, 6, 1]
    assert [s.weight.shape for s in factors.stages] == [(6, 3, 1, 1), (6, 1, 5, 5), (5, 6, 1, 1)]
    with pytest.raises(ValueError, match="takes 1 numbers"):
        forms.unfitted(forms.cp(window()), (5, 3), (6, 6), np.random.default_rng(0))


def test_macs_count_the_wider_map_of_the_first_stage() -> None:
    form = forms.stack(window(5), [(3, 3), (3, 3)])
    first, last = 9 * 3 * 4 * (10 + 2) * (8 + 2), 9 * 4 * 5 * 10 * 8
    assert form.macs((5, 3), (4,), (10, 8)) == first + last
    assert forms.unfitted(form, (5, 3), (4,), np.random.default_rng(0)).macs((10, 8)) == first + last


def test_macs_of_a_separable_form_with_strides() -> None:
    form = forms.separable(Window((5, 3), (2, 2), (1, 1), (2, 1), (2, 1)))
    rows = 5 * 3 * 4 * 10 * (2 * 7 + 3 - 2)  # the second stage reads 15 columns besides its two pads
    assert form.macs((5, 3), (4,), (10, 8)) == rows + 3 * 4 * 5 * 10 * 8


@pytest.mark.parametrize("form", list(forms.candidates(window(7, pad=3))), ids=lambda f: f.name)
@pytest.mark.parametrize("multiple", [1, 8])
def test_mid_channels_use_the_budget_and_no_more(form: Form, multiple: int) -> None:
    shape, size, whole = (64, 48), (14, 14), 64 * 48 * 49 * 14 * 14
    mid = form.mid_for(shape, size, 0.4, multiple)
    assert mid is not None
    assert all(m % multiple == 0 for m in mid)
    assert form.macs(shape, mid, size) <= 0.4 * whole < form.macs(shape, [m + multiple for m in mid], size)
    assert form.mid_for(shape, size, 1e-4, multiple) is None


def test_amplification() -> None:
    form = forms.cp(window(3, pad=1))
    factors = forms.unfitted(form, (5, 3), (4,), np.random.default_rng(0))
    one = replace(factors, weights=tuple(np.abs(w) for w in factors.weights))
    assert forms.amplification(one) == pytest.approx(1)
    d, b, a = factors.weights
    twice = (np.concatenate([d, d]), np.concatenate([b, b]), np.concatenate([1001 * a, -1000 * a], axis=1))
    cancelling = replace(factors, weights=twice)
    assert np.allclose(forms.compose(cancelling), forms.compose(factors))
    assert forms.amplification(cancelling) == pytest.approx(2001 * forms.amplification(factors))
