"""Weights that lie in files beside the model: where exactly, checked before a byte is read.

A model file is data from somewhere: what it names must lie in its own folder (symbolic links followed), must be a
regular file, and must hold as many bytes as the tensor's shape and type say. Only these are read, so that neither a
false length nor a false shape makes us allocate what is not there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from onnxtune.errors import ModelError

PACKED = {
    TensorProto.UINT4: 2,
    TensorProto.INT4: 2,
    getattr(TensorProto, "FLOAT4E2M1", -1): 2,
    getattr(TensorProto, "UINT2", -2): 4,
    getattr(TensorProto, "INT2", -3): 4,
}
"""Types of which several values share a byte, and how many."""
UNTOLD = (TensorProto.UNDEFINED, TensorProto.STRING)
"""Types that have no bytes of their own."""


@dataclass(frozen=True)
class Span:
    """`length` bytes of a file from `offset` on."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.length)


def nbytes(tensor: TensorProto) -> int:
    """Bytes that the tensor's values take. Raises ValueError for a type without bytes or a negative size."""
    if tensor.data_type in UNTOLD or any(d < 0 for d in tensor.dims):
        raise ValueError("its type or shape has no size")
    count = math.prod(tensor.dims)
    if tensor.data_type in PACKED:
        return -(-count // PACKED[tensor.data_type])
    try:
        return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        raise ValueError(f"its element type {tensor.data_type} is unknown") from None


def span(tensor: TensorProto, model: Path) -> Span:
    """Where the tensor's bytes lie. Raises ModelError: outside the model's folder, missing, too short, no numbers."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    shown = f"{model}: external data of '{tensor.name}'"
    target = _target(location, model, shown)
    try:
        offset, wanted = int(entries.get("offset") or 0), nbytes(tensor)
        stated = int(entries["length"]) if entries.get("length") else wanted
        have = target.stat().st_size
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown} cannot be read ({str(error)[:200]})") from None
    if offset < 0 or stated != wanted or offset + wanted > have:
        raise ModelError(
            f"{shown} cannot be read ({location:.200} holds {have} bytes; {wanted} from {offset} on are wanted,"
            f" {stated} are promised)"
        )
    return Span(target, offset, wanted)


def _target(location: str, model: Path, shown: str) -> Path:
    """The file that a location names: beside the model, or beside what the model is a symbolic link to.

    (Download caches keep links in one folder to files in another; both the model and its data are links then.)
    """
    missing = ModelError(f"{model}: external data file is missing: {location[:200]}")
    try:
        folders = {model.absolute().parent: None, model.resolve().parent: None}
        roots = [f.resolve() for f in folders]
        for folder in folders:
            target = folder / location
            if Path(location).is_absolute() or not any(target.resolve().is_relative_to(r) for r in roots):
                raise ModelError(f"{shown} lies outside the folder: {location[:200]}")
            if target.is_file():
                return target
    except (OSError, ValueError, RuntimeError):  # a name that no file can have; links in a circle
        raise missing from None
    raise missing
