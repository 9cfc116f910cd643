"""The user's own inputs for a benchmark, from a NPZ file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.arrays import read_arrays
from onnxtune.errors import DataError
from onnxtune.temporary import temporary


def read_inputs(path: Path) -> Mapping[str, NDArray[Any]]:
    """Arrays by name, in memory. Raises DataError naming the file."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: expected a NPZ file with arrays named like the inputs")
    with temporary("inputs") as scratch:
        return {n: np.array(a) for n, a in read_arrays(path, scratch).items()}
