"""The fit: exact where the structure is there, optimal where a closed form is known, never rising, better with data."""

from __future__ import annotations

import numpy as np
import pytest
from convs import run_convs, run_factors
from layers import maps, moments, sample, square, weights

from onnxtune.calibrate import forms
from onnxtune.calibrate.covariance import ridge
from onnxtune.calibrate.forms import Form
from onnxtune.calibrate.models import Metric, model_of
from onnxtune.calibrate.solve import fit, predict, relative_error

FIVE = square(5)
FORMS = [
    (forms.stack(FIVE, [(3, 3), (3, 3)]), (5,)),
    (forms.separable(FIVE), (7,)),
    (forms.bottleneck(FIVE), (3, 4)),
    (forms.bottleneck(FIVE, last=False), (3,)),
    (forms.bottleneck(FIVE, first=False), (4,)),
    (forms.cp(FIVE), (14,)),
    (forms.stack(square(7, 2), [(3, 3), (3, 3)], (2, 2)), (5,)),
    (forms.stack(square(7), [(3, 3), (3, 3), (3, 3)]), (4, 4)),
]
every_form = pytest.mark.parametrize(("form", "mid"), FORMS, ids=[f.name for f, _ in FORMS])


@every_form
@pytest.mark.parametrize("with_data", [True, False])
def test_error_never_rises(form: Form, mid: tuple[int, ...], with_data: bool) -> None:
    weight, bias = weights(8, 6, form.window.kernel[0])
    x = sample(maps(6), form.window)
    data = moments(x, x @ weight.reshape(8, -1).T + bias) if with_data else None
    found = fit(form, weight, bias, data, mid)
    assert all(b <= a for a, b in zip(found.history, found.history[1:], strict=False))
    assert found.iterations == len(found.history) - 1
    assert found.rel_error < 0.9
    if not with_data:
        assert np.array_equal(found.factors.bias, bias)
        whole = np.linalg.norm(weight - forms.compose(found.factors)) / np.linalg.norm(weight)
        assert found.rel_error == pytest.approx(whole)


@every_form
def test_data_aware_beats_data_free_on_rows_held_out(form: Form, mid: tuple[int, ...]) -> None:
    weight, bias = weights(8, 6, form.window.kernel[0])
    x, held = sample(maps(6), form.window), sample(maps(6, 20, seed=0)[10:], form.window, seed=1)
    y, wanted = (rows @ weight.reshape(8, -1).T + bias for rows in (x, held))
    aware, free = (fit(form, weight, bias, data, mid) for data in (moments(x, y), None))
    own = relative_error(y, predict(aware.factors, x))
    assert own == pytest.approx(aware.rel_error, rel=1e-6)
    ours, theirs = (relative_error(wanted, predict(f.factors, held)) for f in (aware, free))
    assert ours < 0.97 * theirs


@pytest.mark.parametrize("seed", range(4))
def test_one_mid_channel_never_ends_worse_than_without_data(seed: int) -> None:
    """Few mid channels have bad valleys: the fit without data is one of the starts."""
    weight, bias = weights(1, 6, 5, seed)
    x = sample(maps(6), FIVE)
    y = x @ weight.reshape(1, -1).T + bias
    form = forms.stack(FIVE, [(3, 3), (3, 3)])
    data = moments(x, y)
    free, aware = (fit(form, weight, bias, given, (1,)).factors for given in (None, data))
    kernel = forms.compose(free).reshape(1, -1)
    centred = x @ kernel.T + data.mean_y - kernel @ data.mean_x
    assert relative_error(y, predict(aware, x)) <= 1.001 * relative_error(y, centred)


@every_form
def test_structure_is_found_again(form: Form, mid: tuple[int, ...]) -> None:
    planted = forms.unfitted(form, (8, 6), mid, np.random.default_rng(3))
    weight, x = forms.compose(planted), sample(maps(6), form.window)
    data = moments(x, x @ weight.reshape(8, -1).T + planted.bias)
    for given in (data, None)[len(form.stages) > 2 and not form.depthwise :]:  # three with data: minutes
        found = fit(form, weight, planted.bias, given, mid, iterations=150, tolerance=1e-5, steps=60)
        assert found.rel_error < 3e-7
        assert np.allclose(found.factors.bias, planted.bias, atol=1e-4)


@every_form
def test_same_seed_same_answer(form: Form, mid: tuple[int, ...]) -> None:
    weight, bias = weights(8, 6, form.window.kernel[0])
    a, b = (fit(form, weight, bias, None, mid, iterations=3, seed=5) for _ in range(2))
    assert all(np.array_equal(p, q) for p, q in zip(a.factors.weights, b.factors.weights, strict=True))


def test_the_stages_run_as_fitted() -> None:
    """On whole maps in ONNX Runtime: relative error as promised, and the stages equal their one kernel."""
    x = maps(6)
    for form, mid in FORMS:
        weight, bias = weights(8, 6, form.window.kernel[0])
        rows = sample(x, form.window)
        found = fit(form, weight, bias, moments(rows, rows @ weight.reshape(8, -1).T + bias), mid)
        want = run_convs(x, [(weight, bias, form.window, 1)])
        got = run_factors(x, found.factors)
        one = run_convs(x, [(forms.compose(found.factors), found.factors.bias, form.window, 1)])
        assert np.abs(got - one).max() <= 1e-5 * np.abs(one).max()
        error = np.linalg.norm(want - got) / np.linalg.norm(want - want.mean((0, 2, 3), keepdims=True))
        assert error == pytest.approx(found.rel_error, rel=0.1)


def test_output_bottleneck_is_the_closed_form() -> None:
    """5x5 - 1x1: Q = leading eigenvectors of W C W^T; the lost eigenvalues are the error."""
    weight, bias = weights(8, 6, 5)
    x = sample(maps(6), FIVE)
    data = moments(x, x @ weight.reshape(8, -1).T + bias)
    flat = weight.reshape(8, -1)
    values = np.linalg.eigvalsh(flat @ ridge(data.xx, 1e-2) @ flat.T)[::-1]
    found = fit(
        forms.bottleneck(FIVE, first=False), weight, bias, data, (3,), ridge=1e-2, iterations=100, tolerance=1e-7
    )
    assert found.history[-1] == pytest.approx((values[3:].sum() / data.yy.sum()) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("form", "unfold"),
    [
        (forms.separable(FIVE), lambda w: w.transpose(0, 3, 1, 2).reshape(8 * 5, -1)),
        (forms.bottleneck(FIVE, last=False), lambda w: w.transpose(0, 2, 3, 1).reshape(8 * 25, -1)),
        (forms.bottleneck(FIVE, first=False), lambda w: w.reshape(8, -1)),
    ],
    ids=["separable", "input", "output"],
)
def test_without_data_forms_without_overlap_are_truncated_singular_values(form: Form, unfold: object) -> None:
    weight, bias = weights(8, 6, 5)
    lost = np.linalg.svd(unfold(weight), compute_uv=False)[4:]
    found = fit(form, weight, bias, None, (4,))
    assert found.rel_error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(weight), rel=1e-9)


@pytest.mark.parametrize(("mid", "exact"), [(9, False), (10, True)])
def test_bound_on_exact_stacks(mid: int, exact: bool) -> None:
    """5x5 = 3x3 after 3x3 with 6 channels needs 9 (m 6) 2 - m^2 >= 25 36: m >= 9.1."""
    weight, bias = weights(6, 6, 5)
    form = forms.stack(FIVE, [(3, 3), (3, 3)])
    found = fit(form, weight, bias, None, (mid,), iterations=30, tolerance=1e-4, steps=40)
    assert (found.rel_error < 1e-6) is exact
    assert found.rel_error < 2e-2


def test_more_mid_channels_than_the_kernel_has_ranks() -> None:
    weight, bias = weights(4, 3, 3)
    for form, mid in ((forms.separable(square(3)), (20,)), (forms.cp(square(3)), (60,))):
        assert fit(form, weight, bias, None, mid).rel_error < 1e-6


def test_target_makes_up_for_errors_of_earlier_layers() -> None:
    """Input from a damaged net, answers from the original: the fit to both beats the fit to the layer alone."""
    weight, bias = weights(8, 6, 5)
    x = maps(6)
    damaged = x + 0.3 * np.roll(x, 1, axis=1) + 0.2
    rows, wrong = sample(x, FIVE), sample(damaged, FIVE)
    y = rows @ weight.reshape(8, -1).T + bias
    form, mid = FORMS[0]
    own = fit(form, weight, bias, moments(wrong, y).answered_by(weight, bias), mid)
    both = fit(form, weight, bias, moments(wrong, y), mid)
    ours, theirs = (relative_error(y, predict(f.factors, wrong)) for f in (both, own))
    assert ours < 0.8 * theirs
    assert both.rel_error == pytest.approx(ours, rel=1e-6)


@every_form
def test_derivatives(form: Form, mid: tuple[int, ...]) -> None:
    """forward is the derivative of value, backward its adjoint, last the features of the last stage."""
    random = np.random.default_rng(0)
    model = model_of(form)
    w = forms.unfitted(form, (8, 6), mid, random).weights
    change = [random.standard_normal(x.shape) for x in w]
    moved = tuple(x + 1e-6 * d for x, d in zip(w, change, strict=True))
    forward = model.forward(w, change)
    assert np.allclose((model.value(moved) - model.value(w)) / 1e-6, forward, atol=1e-4)
    gradient = random.standard_normal(forward.shape)
    back = model.backward(w, gradient)
    assert np.vdot(forward, gradient) == pytest.approx(sum(np.vdot(a, b) for a, b in zip(back, change, strict=True)))
    assert np.allclose(model.last(w, gradient), back[-1].reshape(8, -1))
    assert np.allclose(model.value(model.balance(w)), model.value(w))


@every_form
def test_the_preconditioner_is_definite(form: Form, mid: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    model = model_of(form)
    w = forms.unfitted(form, (8, 6), mid, random).weights
    rows = sample(maps(6), form.window)
    full = moments(rows, rows[:, :0]).xx
    metric = Metric.of(full, 6, int(np.prod(form.window.kernel)))
    features = model.last(w, full.reshape(-1, 6, *form.window.kernel))
    gram = model.last(w, features.T.reshape(-1, 6, *form.window.kernel))
    solve = model.preconditioner(w, metric, gram)
    a, b = ([random.standard_normal(x.shape) for x in w] for _ in range(2))
    inner = [sum(np.vdot(p, q) for p, q in zip(u, solve(v), strict=True)) for u, v in ((a, b), (b, a))]
    assert inner[0] == pytest.approx(inner[1], rel=1e-6)
    assert sum(np.vdot(p, q) for p, q in zip(a, solve(a), strict=True)) > 0


@every_form
def test_goes_on_from_a_fit_to_similar_data(form: Form, mid: tuple[int, ...]) -> None:
    """A few iterations from there do what all of them from afresh do; none of the others' starts is tried."""
    weight, bias = weights(8, 6, form.window.kernel[0])
    one, other = (sample(part, form.window) for part in np.split(maps(6, images=120), 2))
    first, second = (moments(x, x @ weight.reshape(8, -1).T + bias) for x in (one, other))
    near = [w.astype(np.float32) for w in fit(form, weight, bias, first, mid).factors.weights]
    again = fit(form, weight, bias, second, mid, iterations=4, near=near)
    assert again.iterations <= 4
    assert again.rel_error <= again.history[0] * (1 + 1e-9)
    assert again.rel_error <= 1.05 * fit(form, weight, bias, second, mid).rel_error
    still = fit(form, weight, bias, second, mid, iterations=0, near=near)
    assert still.history == again.history[:1]
