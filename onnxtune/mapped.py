"""Weights that stay in files: those of a large model are mapped when somebody looks at them, never held all at once.

A weight in a file is a TensorProto with external data whose location is the absolute path of a file in a Store's
folder. Only this module makes such tensors; what a model file says of its external data is checked before
(`onnxtune.external`), and never gets here. Sessions are made from small model files that stand beside the weights
in the same folder, so that ONNX Runtime maps the same bytes: it reads names in the model's own folder only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxtune import temporary
from onnxtune.external import Span, nbytes

SMALLEST = 2**16
"""Bytes from which a weight is worth a mapping of its own."""
PAGE = 4096
"""Weights of at least SMALLEST bytes begin at multiples of it, so that they can be mapped alone."""
WORD = 64
"""The same for smaller ones: what vector instructions like."""
M_MMAP_THRESHOLD, BLOCK = -3, 2**20
NATIVE = frozenset(
    {
        TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL,
        TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
    }
)  # fmt: skip
"""Element types that numpy reads as they lie in the file. (Weights of others are small, and are held in memory.)"""
VALUES = frozenset({"raw_data", "external_data", "data_location"})
"""Fields of a tensor that say what its values are or where they lie."""


def is_mapped(tensor: TensorProto) -> bool:
    """Do its values lie in a file?"""
    return tensor.data_location == TensorProto.EXTERNAL


def mappable(tensor: TensorProto) -> bool:
    """Could its values lie in a file, and would it be worth it? They are raw bytes, or external data by now."""
    stored = tensor.HasField("raw_data") or is_mapped(tensor)
    return stored and tensor.data_type in NATIVE and nbytes(tensor) >= SMALLEST


def array(tensor: TensorProto) -> NDArray[Any]:
    """The values, in the tensor's shape; read-only and mapped where they lie in a file. Do not keep it: what has been
    read of a mapping counts as this process's memory."""
    if not is_mapped(tensor):
        return numpy_helper.to_array(tensor)
    where = _where(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(where.path, dtype, "r", where.offset, tuple(tensor.dims)).view(np.ndarray)


def content(tensor: TensorProto) -> bytes | memoryview:
    """The raw bytes of a tensor that has such."""
    return array(tensor).reshape(-1).view(np.uint8).data if is_mapped(tensor) else tensor.raw_data


def mapped_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of weights that lie in files."""
    return sum(nbytes(t) for t in proto.graph.initializer if is_mapped(t))


def embedded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all its weights in memory; the same object where they are."""
    if not any(map(is_mapped, proto.graph.initializer)):
        return proto
    return with_weights(proto, map(_filled, proto.graph.initializer))


def with_weights(proto: onnx.ModelProto, weights: Iterable[TensorProto]) -> onnx.ModelProto:
    """The model with these initializers. Those that it has are not copied."""
    result = onnx.ModelProto()
    copy_fields(proto, result, leave={"graph"})
    result.graph.SetInParent()
    copy_fields(proto.graph, result.graph, leave={"initializer"})
    for weight in weights:
        result.graph.initializer.append(weight)
    return result


def without_values(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with empty weights in the place of those that lie in files; the same object where none does."""
    if not any(map(is_mapped, proto.graph.initializer)):
        return proto
    empty = (
        TensorProto(name=t.name, data_type=t.data_type, dims=[0], raw_data=b"") if is_mapped(t) else t
        for t in proto.graph.initializer
    )
    return with_weights(proto, empty)


def hollow(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inputs in the place of weights that lie in files, for tools that cannot read these.

    What holds for any values of an input holds for these. Weights that are inputs already stay as they are.
    """
    listed = {v.name for v in proto.graph.input}
    apart = [t for t in proto.graph.initializer if is_mapped(t) and t.name not in listed]
    names = {t.name for t in apart}
    result = with_weights(proto, (t for t in proto.graph.initializer if t.name not in names))
    result.ir_version = max(result.ir_version, 4)
    result.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in apart)
    return result


def refilled(changed: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """What a tool made of `hollow(before)`, with those weights in their place that are still used."""
    listed = {v.name for v in before.graph.input}
    apart = {t.name: t for t in before.graph.initializer if is_mapped(t) and t.name not in listed}
    used = {i for n in changed.graph.node for i in n.input} | {o.name for o in changed.graph.output}
    result = with_weights(changed, [*changed.graph.initializer, *(t for n, t in apart.items() if n in used)])
    inputs = [v for v in changed.graph.input if v.name not in apart]
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    return result


class Store:
    """A folder for weights, gone when nobody holds the Store any more, or the process ends.

    With `near`, a file with weights, it is made where that can be linked to: in the system's folder for temporary
    files, else beside it. Raises OSError when no folder can be made.
    """

    def __init__(self, near: Span | None = None) -> None:
        _give_back_blocks()
        self.folder = _folder(None if near is None else near.path)
        weakref.finalize(self, _remove, self.folder, os.getpid())
        self._links: dict[Path, Path] = {}

    def linked(self, path: Path) -> Path:
        """The file under a name in the folder: a hard link, so that it stays when `path` is replaced; else a copy.
        Raises OSError when there is no room for that."""
        path = path.resolve()
        if path not in self._links:
            name = self.folder / f"given-{len(self._links)}"
            if not _link(path, name):
                shutil.copyfile(path, name)
            self._links[path] = name
        return self._links[path]

    def refer(self, tensor: TensorProto, where: Span) -> TensorProto:
        """The tensor with its values in the file that a span names."""
        return _referring(tensor, self.linked(where.path), where.offset)

    def kept(self, tensor: TensorProto) -> TensorProto:
        """The tensor with its values written into the folder, where that is worth it. Raises OSError (no room)."""
        if is_mapped(tensor) or not mappable(tensor):
            return tensor
        path = self.folder / "made"
        with path.open("ab") as stream:
            return _referring(tensor, path, append(stream, tensor))


@contextlib.contextmanager
def beside(proto: onnx.ModelProto) -> Iterator[Path]:
    """A model file in the folder where its weights lie."""
    weights = proto.graph.initializer
    named = with_weights(proto, (_renamed(t, lambda p: p.name) if is_mapped(t) else t for t in weights))
    with scratch(proto) as path:
        path.write_bytes(named.SerializeToString())
        yield path


@contextlib.contextmanager
def scratch(proto: onnx.ModelProto) -> Iterator[Path]:
    """The name of a model file in the folder where a model's weights lie, and `<name>.data`; both go afterwards."""
    (folder,) = {_where(t).path.parent for t in proto.graph.initializer if is_mapped(t)}
    handle, name = tempfile.mkstemp(".onnx", "model-", folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        for path in (name, name + ".data"):
            with contextlib.suppress(OSError):  # Windows keeps what a session has open
                Path(path).unlink(missing_ok=True)


def placed(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A model that was read from a Store's folder, with its weights where they lie in it."""
    here = (_renamed(t, lambda p: str(folder / p)) if is_mapped(t) else t for t in proto.graph.initializer)
    return with_weights(proto, here)


def apart(proto: onnx.ModelProto, data: Path, least: int = 1024) -> onnx.ModelProto:
    """Write the values of all weights of `least` bytes or more into the file `data`, one after the other; returns the
    model that names this file by its name alone. `data` is not made where there is no such weight."""

    def written(tensor: TensorProto) -> TensorProto:
        raw = is_mapped(tensor) or len(tensor.raw_data) >= least
        if not raw:
            return tensor
        with data.open("ab") as stream:
            return _renamed(_referring(tensor, data, append(stream, tensor)), lambda p: p.name)

    return with_weights(proto, map(written, proto.graph.initializer))


def append(stream: BinaryIO, tensor: TensorProto) -> int:
    """Write a tensor's raw bytes at the next place that suits them; returns where that is."""
    values = content(tensor)
    step = PAGE if len(values) >= SMALLEST else WORD
    offset = -(-stream.tell() // step) * step
    stream.write(bytes(offset - stream.tell()))
    stream.write(values)
    return offset


def _where(tensor: TensorProto) -> Span:
    entries = {e.key: e.value for e in tensor.external_data}
    return Span(Path(entries["location"]), int(entries["offset"]), int(entries["length"]))


def _referring(tensor: TensorProto, path: Path, offset: int) -> TensorProto:
    result = TensorProto(data_location=TensorProto.EXTERNAL)
    copy_fields(tensor, result, leave=VALUES)
    for key, value in (("location", str(path)), ("offset", str(offset)), ("length", str(nbytes(tensor)))):
        result.external_data.add(key=key, value=value)
    return result


def _renamed(tensor: TensorProto, name: Callable[[Path], str]) -> TensorProto:
    result = TensorProto()
    result.CopyFrom(tensor)
    for entry in result.external_data:
        if entry.key == "location":
            entry.value = name(Path(entry.value))
    return result


def _filled(tensor: TensorProto) -> TensorProto:
    if not is_mapped(tensor):
        return tensor
    result = TensorProto(raw_data=bytes(content(tensor)))
    copy_fields(tensor, result, leave=VALUES)
    return result


def copy_fields(source: Any, target: Any, leave: frozenset[str] | set[str]) -> None:
    """All fields that are set in a protobuf message but those to leave."""
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a process that was forked from it ends before
        temporary.remove(folder)


def _give_back_blocks() -> None:
    """From now on blocks of BLOCK bytes and more go back to the system when they are freed.

    glibc raises its limit for that to 32 MB as it goes (mallopt(3), M_MMAP_THRESHOLD), unless it is set, and keeps
    what is smaller: of the weights of a session that is made and dropped, several times their size.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, BLOCK)


def _folder(near: Path | None) -> Path:
    if near is not None:
        for parent in (None, near.resolve().parent):
            with contextlib.suppress(OSError):
                folder = temporary.make("weights", parent)
                if _link(near.resolve(), folder / "probe"):
                    (folder / "probe").unlink()
                    return folder
                temporary.remove(folder)
    return temporary.make("weights")


def _link(path: Path, name: Path) -> bool:
    """Make a hard link; False where the file system, or its rules, do not let us."""
    try:
        name.hardlink_to(path)
    except OSError:
        return False
    return True
