"""The paths of large models, on small ones (the large: `python tests/robustness/scale.py nodes|deep`)."""

from __future__ import annotations

import pytest
import scale


@pytest.mark.slow
def test_no_recursion_along_a_chain() -> None:
    assert scale.through(scale.chain(400))[1] == "nothing to gain"


def test_ifs_in_each_other() -> None:
    assert scale.through(scale.nested(30))[1] == "nothing to gain"
