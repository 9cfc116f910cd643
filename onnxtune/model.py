"""Reading and writing ONNX files: whole or not at all, external data included."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from onnxtune import temporary
from onnxtune.crashes import trying
from onnxtune.domains import contradiction, spelt_out, unify
from onnxtune.errors import ModelError, one_line
from onnxtune.external import Span, span
from onnxtune.mapped import (
    Store,
    apart,
    content,
    embedded,
    is_mapped,
    mappable,
    mapped_bytes,
    with_weights,
    without_values,
)
from onnxtune.wellformed import fault, tensors

LOG = logging.getLogger(__name__)
logging.getLogger("onnxtune").addHandler(logging.NullHandler())  # silent unless the application says otherwise
LAST_WHOLE = TensorProto.FLOAT8E5M2FNUZ
"""Element types beyond it take parts of a byte."""
PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that still fit one protobuf message (2 GiB less a margin for the graph itself)."""
MAPPED_ABOVE = 2**28
"""Bytes of weights above which those of a model read from a file stay in files (see `onnxtune.mapped`)."""
FIELDS = {f.name: f.number for f in TensorProto.DESCRIPTOR.fields}
"""Of a tensor, in the order in which they are hashed."""


@dataclass(frozen=True, eq=False)
class Model:
    """An ONNX model in memory, weights included. Treated as immutable: a rewrite makes a new one.

    `name` is what messages call it (the file's name, or "model" for a ModelProto).
    `external` says that its weights came from files beside it. `store` holds the weights that stay in files.
    """

    proto: onnx.ModelProto
    name: str = "model"
    path: Path | None = None
    external: bool = False
    store: Store | None = None

    @property
    def opset(self) -> int:
        """Version of the default operator set (0 when the model imports none)."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    @property
    def initializer_names(self) -> frozenset[str]:
        return frozenset(i.name for i in self.proto.graph.initializer)

    @property
    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """Graph inputs that a caller must feed: those that no initializer gives a default."""
        stored = self.initializer_names
        return tuple(i for i in self.proto.graph.input if i.name not in stored)

    @property
    def outputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        return tuple(self.proto.graph.output)

    def with_proto(self, proto: onnx.ModelProto) -> Model:
        return Model(proto, self.name, self.path, self.external, self.store)

    def kept(self, tensor: TensorProto) -> TensorProto:
        """A new weight of this model, in the store where there is one. Raises ModelError when that has no room."""
        if self.store is None:
            return tensor
        try:
            return self.store.kept(tensor)
        except OSError as error:
            raise _no_room(self.name, self.store.folder, error) from None

    def adopt(self, changed: onnx.ModelProto) -> Model:
        """This model with another's graph, opsets and functions; metadata and interface stay this one's.

        Raises ModelError when the other graph has other inputs (but for weights) or outputs.
        """
        graph = changed.graph
        stored = {i.name for i in graph.initializer} | {i.values.name for i in graph.sparse_initializer}
        declared = {v.name: v for v in self.proto.graph.input}
        required = [v.name for v in self.inputs]
        inputs = [v.name for v in graph.input if v.name not in stored]
        outputs = [v.name for v in self.outputs]
        kept = [name for name in required if name in set(inputs)]  # a tool may have dropped unused ones: they come back
        if inputs != kept or [v.name for v in graph.output] != outputs:
            raise ModelError("it changes the model's inputs or outputs")
        proto = onnx.ModelProto()
        proto.CopyFrom(changed)
        unify(proto)
        for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(proto, field, getattr(self.proto, field))
        del proto.metadata_props[:], proto.graph.input[:], proto.graph.output[:]
        proto.metadata_props.extend(self.proto.metadata_props)
        weights = [v for v in graph.input if v.name in stored]
        proto.graph.input.extend([*self.inputs, *(declared.get(v.name, v) for v in weights)])
        proto.graph.output.extend(self.proto.graph.output)
        proto.graph.name, proto.graph.doc_string = self.proto.graph.name, self.proto.graph.doc_string
        listed = {i.name for i in proto.graph.input}
        least = 1 if all(w.name in listed for w in proto.graph.initializer) else 4  # up to 3 all had to be listed
        proto.ir_version = max(proto.ir_version, self.proto.ir_version, least)
        return self.with_proto(proto)

    def graph_sha256(self) -> str:
        """Content hash of the graph, opsets and functions: everything that decides the results."""
        digest = hashlib.sha256()
        for opset in sorted(self.proto.opset_import, key=lambda o: o.domain):
            digest.update(f"{opset.domain}:{opset.version};".encode())
        for function in self.proto.functions:
            digest.update(function.SerializeToString(deterministic=True))
        graph = self.proto.graph
        for part in (graph.node, graph.input, graph.output, graph.sparse_initializer):
            for item in part:
                digest.update(item.SerializeToString(deterministic=True))
        for tensor in graph.initializer:
            _hash_tensor(digest, tensor)
        return digest.hexdigest()


def _hash_tensor(digest: hashlib._Hash, tensor: TensorProto) -> None:
    """A weight without the note of which file it once came from."""
    values = (("raw_data", content(tensor)),) if is_mapped(tensor) else ()
    said = [(f.name, value) for f, value in tensor.ListFields() if f.name not in ("data_location", "external_data")]
    for name, value in sorted((*said, *values), key=lambda part: FIELDS[part[0]]):
        digest.update(name.encode())
        digest.update(value if isinstance(value, bytes | memoryview) else repr(value).encode())


def tensor_bytes(model: Model) -> int:
    """Bytes of all stored weights: initializers and Constant nodes."""
    graph = model.proto.graph
    constants = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")]
    return sum(_nbytes(t) for t in [*graph.initializer, *constants])


def file_bytes(model: Model) -> int:
    """Bytes of the model and its weights as one file."""
    return model.proto.ByteSize() + mapped_bytes(model.proto)


def _nbytes(tensor: TensorProto) -> int:
    """By its dims where these tell: to ask `raw_data` for its length copies all of it."""
    if tensor.data_type > LAST_WHOLE and tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    count = math.prod(tensor.dims)
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError):
        return count


def load(source: str | os.PathLike[str] | onnx.ModelProto | Model) -> Model:
    """Read a model from a path or take a ModelProto (which is not changed).

    Raises ModelError: missing, unreadable, empty, truncated or not ONNX; external data that is
    missing or escapes the model's folder; a graph that `onnx.checker` refuses.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, onnx.ModelProto):
        if problem := fault(source) or contradiction(source):
            raise ModelError(f"model: not a valid ONNX model ({problem})")
        if any(uses_external_data(t) for t in tensors(source.graph)):
            raise ModelError("model: its weights are external data; load them first or give the path")
        model = Model(_unified(source))
        _check(model)
    else:
        with trying("file", os.fspath(source)):
            model = _read(Path(source))
            _check(model)
    LOG.info("%s: %d nodes, opset %d", model.name, len(model.proto.graph.node), model.opset)
    return model


def _unified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With one name of the default domain; a copy where that changes anything."""
    if not spelt_out(proto):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    unify(copy)
    return copy


def _read(path: Path) -> Model:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: is a folder, not an ONNX file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise ModelError(f"{path}: the file is empty")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or truncated (protobuf cannot be decoded)") from None
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{path}: not an ONNX model (no graph in it)")
    problem = fault(proto) or contradiction(proto)
    if problem:
        raise ModelError(f"{path}: not a valid ONNX model ({problem})")
    unify(proto)
    del data
    stored = list(tensors(proto.graph))
    places = [span(t, path) if uses_external_data(t) else None for t in stored]
    model = Model(proto, path.name, path, any(places))
    if tensor_bytes(model) > MAPPED_ABOVE:
        return _in_store(model, stored, places, path)
    _fill(stored, places, path)
    return model


def _in_store(model: Model, stored: Sequence[TensorProto], places: Sequence[Span | None], path: Path) -> Model:
    """The model with its large initializers in files, all other tensors filled. `places`: of those in files now."""
    count = len(model.proto.graph.initializer)  # they come first
    near = [p if p is not None and mappable(t) else None for t, p in zip(stored[:count], places[:count], strict=True)]
    stay = [*near, *[None] * (len(stored) - count)]
    _fill(stored, [None if s is not None else p for s, p in zip(stay, places, strict=True)], path)
    folder: object = tempfile.gettempdir()
    try:
        store = Store(next((p for p in stay if p is not None), None))
        folder = store.folder
        weights = [store.kept(t) if p is None else store.refer(t, p) for t, p in zip(stored[:count], near, strict=True)]
    except OSError as error:
        raise _no_room(model.name, folder, error) from None
    return replace(model, proto=with_weights(model.proto, weights), store=store)


def _no_room(name: str, folder: object, error: OSError) -> ModelError:
    return ModelError(
        f"{name}: its weights cannot be kept in {folder}, a folder for temporary files ({error.strerror})"
    )


def _fill(stored: Sequence[TensorProto], places: Sequence[Span | None], path: Path) -> None:
    """Bytes from files beside the model into the tensors that have a place there."""
    for tensor, place in zip(stored, places, strict=True):
        if place is None:
            continue
        try:
            tensor.raw_data = place.read()
        except OSError as error:
            raise ModelError(f"{path}: external data cannot be read ({error.strerror})") from None
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _check(model: Model) -> None:
    if not model.proto.graph.node:
        raise ModelError(f"{model.name}: the graph has no nodes")
    if model.proto.ByteSize() > PROTOBUF_LIMIT:
        return  # the checker takes one message of at most 2 GiB; ONNX Runtime judges larger ones
    try:
        onnx.checker.check_model(_with_shapes(without_values(model.proto)))
    except (onnx.checker.ValidationError, EncodeError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(f"{model.name}: not a valid ONNX model ({one_line(error)})") from None


def _with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The checker wants a shape field in every input and output; ONNX Runtime and we do not need one."""
    bare = [v for v in (*proto.graph.input, *proto.graph.output) if _shapeless(v)]
    if not bare:
        return proto
    named = {v.name for v in bare}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.name in named:
            value.type.tensor_type.shape.SetInParent()
    return copy


def _shapeless(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def save(model: Model, path: str | os.PathLike[str], *, external: bool | None = None) -> None:
    """Write the model whole or not at all: a temporary folder beside `path`, fsync, rename.

    `external`: weights into `<path>.data`; None keeps the way the model came and always does so
    above the 2 GiB that protobuf can hold. Raises ModelError when the folder cannot be written.
    """
    path = Path(path)
    wished = model.external if external is None else external
    with _staging(path) as folder:
        staged, data = folder / path.name, folder / (path.name + ".data")
        if wished or file_bytes(model) > PROTOBUF_LIMIT:
            staged.write_bytes(apart(model.proto, data).SerializeToString())
        else:
            staged.write_bytes(embedded(model.proto).SerializeToString())
        files = [f for f in (data, staged) if f.exists()]  # the model last: it is what names the other
        for file in files:
            with file.open("r+b") as handle:  # Windows syncs only what is open for writing
                os.fsync(handle.fileno())
        with _undisturbed():
            for file in files:
                file.replace(path.parent / file.name)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all. Raises ModelError when the folder cannot be written."""
    path = Path(path)
    with _staging(path) as folder:
        staged = folder / path.name
        with staged.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        staged.replace(path)


def check_writable(path: Path) -> None:
    """Refuse early what could not be written, or must not be replaced. Raises ModelError."""
    if not path.name or not path.parent.is_dir():
        raise ModelError(f"{path}: cannot be written (the folder {path.parent} does not exist)")
    if path.is_dir():
        raise ModelError(f"{path}: cannot be written (it is a folder)")
    if path.exists() and not path.is_file():
        raise ModelError(f"{path}: cannot be written (it is not a regular file)")
    if not os.access(path.parent, os.W_OK):
        raise ModelError(f"{path}: cannot be written (the folder {path.parent} is read-only)")


def writable_folder(path: Path) -> Path:
    """The folder, made where it is missing. Raises ModelError when it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be made a folder ({error.strerror})") from None
    if not os.access(path, os.W_OK):
        raise ModelError(f"{path}: the folder is read-only")
    return path


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until two files that belong together are both in place. (It is the main thread that it comes to.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _staging(path: Path) -> Iterator[Path]:
    check_writable(path)
    try:
        folder = temporary.make("staging", path.parent)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        yield folder
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.remove(folder)
