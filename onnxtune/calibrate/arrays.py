"""Samples in NPY and NPZ files. Nothing is unpickled; memory does not grow with the number of samples.

A NPY file is mapped into memory. A NPZ file is a zip archive: a member is decompressed block by block
into a temporary NPY file, which is mapped. Headers are read first, so that a file which claims more than
there is, or more than the disk can hold, is refused before anything is written.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.errors import DataError, one_line

BLOCK = 2**20
SUFFIXES = (".npy", ".npz")


def read_arrays(path: Path, scratch: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a NPY file (under the name "") or NPZ file, mapped read-only; `scratch` holds unpacked members.

    Raises DataError naming the file: missing, truncated, pickled objects, not such a file.
    """
    try:
        return {"": _map(path, path)} if path.suffix.lower() == ".npy" else _unpack(path, scratch)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path}: not a NPZ file, or truncated ({one_line(error)})") from None


def _unpack(path: Path, scratch: Path) -> dict[str, NDArray[Any]]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise DataError(f"{path}: '{member.filename}' in it is not an array")
            with archive.open(member) as stream:
                shape, dtype = _header(stream, path)
            size = math.prod(shape) * dtype.itemsize
            if not size <= member.file_size <= size + BLOCK:
                raise DataError(f"{path}: '{member.filename}' does not hold what its header says")
            if member.file_size > shutil.disk_usage(scratch).free / 2:
                raise DataError(f"{path}: '{member.filename}' unpacks to {size / 1e9:.3g} GB, too much for the disk")
            unpacked = Path(tempfile.mkdtemp(dir=scratch)) / "member.npy"
            with archive.open(member) as stream, unpacked.open("wb") as target:
                shutil.copyfileobj(stream, target, BLOCK)
            found[member.filename.removesuffix(".npy")] = _map(unpacked, path)
    if not found:
        raise DataError(f"{path}: holds no arrays")
    return found


def _map(file: Path, named: Path) -> NDArray[Any]:
    with file.open("rb") as stream:
        shape, dtype = _header(stream, named)
        start = stream.tell()
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    if file.stat().st_size < start + math.prod(shape) * dtype.itemsize:
        raise DataError(f"{named}: truncated (its header promises {'x'.join(map(str, shape))} values)")
    return np.lib.format.open_memmap(file, mode="r")


def _header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise DataError(f"{path}: not a NumPy file, or truncated ({one_line(error)})") from None
    if dtype.hasobject:
        raise DataError(f"{path}: holds pickled Python objects, which are not read")
    return shape, dtype


def by_input(arrays: Mapping[str, NDArray[Any]], names: tuple[str, ...], path: Path) -> dict[str, NDArray[Any]]:
    """The arrays by input name: named like the inputs, or the single one for a model with one input."""
    if all(n in arrays for n in names):
        return {n: arrays[n] for n in names}
    if len(names) == 1:
        others = [a for k, a in arrays.items() if k not in LABEL_NAMES]
        if len(others) == 1:
            return {names[0]: others[0]}
    missing = next(n for n in names if n not in arrays)
    held = ", ".join(f"'{k}'" for k in arrays)
    raise DataError(f"{path}: holds no array '{missing}' (it holds {held}); arrays are named like the model's inputs")


LABEL_NAMES = ("labels", "label", "y", "targets")
"""Names under which a NPZ file may bring its labels along."""


def missing_channel(stack: Sequence[int], sample: Sequence[int | str | None]) -> int | None:
    """The axis of a sample (one channel, first or last) that a stack of samples is written without.

    None where there is no such axis, or where the stack could as well be a single sample without a sample axis.
    """
    if len(stack) != len(sample) or len(stack) < 3 or stack[0] == 1:
        return None
    fits = [a for a in (0, len(sample) - 1) if sample[a] == 1 and [*stack[1:]] == [*sample[:a], *sample[a + 1 :]]]
    return fits[0] if len(fits) == 1 else None
