"""The paths of large models, on small ones (the large: `python tests/robustness/scale.py weights|nodes|deep`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import scale


@pytest.mark.slow
def test_above_what_one_message_holds(tmp_path: Path) -> None:
    """76 MB of weights with the threshold at 16 MB: the same code as above 2 GiB."""
    stored, peak, wrong = scale.large(tmp_path, 76, limit=2**24)
    assert not wrong
    assert stored > 70e6
    assert peak


def test_no_recursion_along_a_chain() -> None:
    assert scale.through(scale.chain(3000))[1] == "nothing to gain"


def test_ifs_in_each_other() -> None:
    assert scale.through(scale.nested(30))[1] == "nothing to gain"
