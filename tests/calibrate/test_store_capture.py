"""Fits that are remembered, and models cut down to some of their tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from smallnet import classifier, images

from onnxtune.calibrate import store as store_module
from onnxtune.calibrate.capture import exposing
from onnxtune.calibrate.store import FitStore, fit_key
from onnxtune.errors import DataError
from onnxtune.later import Later
from onnxtune.model import Model
from onnxtune.proposal import Fragment
from onnxtune.runtime import Session, Target

WEIGHT = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
FRAGMENT = Fragment((helper.make_node("Mul", ["x", "w"], ["y"]),), (WEIGHT,))


def never() -> tuple[Fragment, float]:
    raise AssertionError("it was fitted again")


def test_resumes_from_disk(tmp_path: Path) -> None:
    FitStore(tmp_path).get("k", lambda: (FRAGMENT, 0.25))
    fragment, error = FitStore(tmp_path, resume=True).get("k", never)
    assert error == 0.25
    assert fragment.nodes[0] == FRAGMENT.nodes[0]
    np.testing.assert_array_equal(numpy_helper.to_array(fragment.initializers[0]), [0, 1, 2])


def test_without_resume_only_its_own_memory_counts(tmp_path: Path) -> None:
    FitStore(tmp_path).get("k", lambda: (FRAGMENT, 0.25))
    store = FitStore(tmp_path)
    assert store.get("k", lambda: (FRAGMENT, 0.5))[1] == 0.5
    assert store.get("k", never)[1] == 0.5


def test_a_large_fit_is_read_again_instead_of_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE", 8)
    for folder in (tmp_path, None, tmp_path / "file" / "fits"):
        (tmp_path / "file").write_text("this is no folder")
        store = FitStore(folder)
        for fragment, error in (store.get("k", lambda: (FRAGMENT, 0.25)), store.get("k", never)):
            assert isinstance(fragment.stored[0], Later)
            assert error == 0.25
            np.testing.assert_array_equal(numpy_helper.to_array(fragment.initializers[0]), [0, 1, 2])


def test_a_large_fit_resumes_and_goes_when_the_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE", 8)
    store = FitStore(tmp_path)
    store.get("k", lambda: (FRAGMENT, 0.25))
    fragment, _ = FitStore(tmp_path, resume=True).get("k", never)
    np.testing.assert_array_equal(numpy_helper.to_array(fragment.initializers[0]), [0, 1, 2])
    (weights,) = tmp_path.glob("*.weight")
    weights.write_bytes(weights.read_bytes()[:7])
    assert FitStore(tmp_path, resume=True).get("k", lambda: (FRAGMENT, 0.5))[1] == 0.5
    store.tidy()
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="are gone"):
        fragment.initializers  # noqa: B018


def test_scratch_files_live_as_long_as_the_weights_that_are_read_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE", 8)
    fragment, _ = FitStore(None).get("k", lambda: (FRAGMENT, 0.25))
    (weight,) = fragment.stored
    assert isinstance(weight, Later)
    np.testing.assert_array_equal(weight.array(), [0, 1, 2])
    folder = weight.make.file.parent  # type: ignore[attr-defined]
    del weight, fragment
    assert not folder.exists()


def test_a_damaged_file_is_fitted_again(tmp_path: Path) -> None:
    FitStore(tmp_path).get("k", lambda: (FRAGMENT, 0.25))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:7])
    assert FitStore(tmp_path, resume=True).get("k", lambda: (FRAGMENT, 0.5))[1] == 0.5


def test_a_folder_that_cannot_be_made_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert FitStore(tmp_path / "file" / "fits").get("k", lambda: (FRAGMENT, 0.5))[1] == 0.5


def test_keys_tell_everything_apart() -> None:
    assert fit_key(a=1, b=[1, 2]) == fit_key(b=[1, 2], a=1)
    assert fit_key(a=1) != fit_key(a=2)


@pytest.mark.parametrize("tensors", [["a"], ["b", "image"], ["c", "f"]])
def test_exposed_tensors_have_their_values(tensors: list[str]) -> None:
    model = Model(classifier())
    x = images(3)[0]
    cut = exposing(model, tensors)
    got = Session(cut, Target(), "disable").run({"image": x})
    assert list(got) == tensors
    every = Session(exposing(model, ["a", "b", "c", "f", "image"]), Target(), "disable").run({"image": x})
    for name in tensors:
        np.testing.assert_array_equal(got[name], every[name])
    assert len(exposing(model, ["a"]).proto.graph.node) == 1
