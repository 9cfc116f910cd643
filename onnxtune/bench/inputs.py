"""The user's own inputs for a benchmark, from a NPZ file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.arrays import read_arrays
from onnxtune.errors import DataError


def read_inputs(path: Path) -> Mapping[str, NDArray[Any]]:
    """Arrays by name, in memory. Raises DataError naming the file."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: expected a NPZ file with arrays named like the inputs")
    with tempfile.TemporaryDirectory(prefix="onnxtune-") as scratch:
        return {n: np.array(a) for n, a in read_arrays(path, Path(scratch)).items()}
