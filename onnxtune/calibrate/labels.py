"""What is known to be right for each sample: class numbers, or target arrays for dense outputs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.arrays import SUFFIXES, read_arrays
from onnxtune.errors import DataError


def read_labels(path: Path, count: int, names: Sequence[str], scratch: Path) -> NDArray[Any]:
    """Labels (count,) or targets (count, ...) from NPY, NPZ (one array), or CSV.

    A CSV holds one class number per line in the samples' order, or file name and class number when `names`
    (the samples' file names, else empty) occur in its first column. Raises DataError naming the file.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.suffix.lower() in SUFFIXES:
        arrays = read_arrays(path, scratch)
        if len(arrays) != 1:
            raise DataError(f"{path}: holds {len(arrays)} arrays; labels are one array")
        return checked(next(iter(arrays.values())), count, str(path))
    return checked(_from_csv(path, names), count, str(path))


def checked(labels: NDArray[Any], count: int, where: str) -> NDArray[Any]:
    """The labels, when there is one for each sample and they are numbers. Raises DataError."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iuf" or labels.ndim == 0:
        raise DataError(f"{where}: labels of type {labels.dtype} are no class numbers or targets")
    if len(labels) != count:
        raise DataError(f"{where}: {len(labels)} labels for {count} samples")
    if labels.ndim == 1 and labels.dtype.kind == "f":
        whole = labels.astype(np.int64)
        if not np.array_equal(whole, labels):
            raise DataError(f"{where}: class numbers must be whole")
        labels = whole
    if labels.ndim == 1 and labels.size and labels.min() < 0:
        raise DataError(f"{where}: class numbers start at 0, found {labels.min()}")
    return labels.astype(np.int64) if labels.ndim == 1 else labels


def _from_csv(path: Path, names: Sequence[str]) -> NDArray[Any]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row and any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    if rows and not _is_number(rows[0][-1]):
        rows = rows[1:]  # a heading
    bad = next((row for row in rows if not _is_number(row[-1])), None)
    if bad is not None or not rows:
        raise DataError(f"{path}: '{','.join(bad)}' has no class number" if bad else f"{path}: holds no labels")
    if names and len(rows[0]) > 1:
        known = {Path(row[0].strip()).name: float(row[-1]) for row in rows}
        missing = next((n for n in names if n not in known), None)
        if missing is not None:
            raise DataError(f"{path}: has no label for '{missing}'")
        return np.array([known[n] for n in names])
    return np.array([float(row[-1]) for row in rows])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
