"""Fits of narrow layers keep to one thread; the others, and all that comes after, have what there is."""

from __future__ import annotations

import pytest
from threadpoolctl import ThreadpoolController

from onnxtune.blas import one_thread


def threads() -> set[int]:
    return {pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "blas"}


def test_one_thread_within_and_as_many_as_before_afterwards() -> None:
    import scipy.linalg  # noqa: F401  (it brings a library of its own)

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = threads()
        with one_thread(narrow=True):
            assert threads() == {1}
        assert threads() == before
        with one_thread(narrow=False):
            assert threads() == before
        with pytest.raises(ZeroDivisionError), one_thread(narrow=True):
            _ = 1 / 0
        assert threads() == before
