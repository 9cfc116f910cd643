"""Fits that were made before, so that an interrupted run goes on where it was. One small ONNX graph for each.

The key is a hash of everything that decides a fit: both models, the layer, the level, the data, the indices and
the seed. Large weights go into files of their own and are read when they are wanted: a search tries many fits,
and those of one large layer together do not fit into memory. Files are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune import temporary
from onnxtune.errors import DataError, one_line
from onnxtune.later import Later
from onnxtune.proposal import Fragment

SUFFIX, WEIGHT, PART = ".fit", ".weight", ".part"
"""A fit, a large weight of one, and either before it is whole."""
LARGE = 2**23
"""Bytes from which a weight is not held in memory."""


class FitStore:
    """Fits by key; when `folder` is None, or cannot be written, for this run only. `resume`: use those that an
    earlier run has left there."""

    def __init__(self, folder: Path | None, *, resume: bool = False) -> None:
        self.folder, self.resume = folder, resume
        self._memory: dict[str, tuple[Fragment, float]] = {}
        self._large: list[Path] = []  # files in the folder that hold much

    def get(self, key: str, make: Callable[[], tuple[Fragment, float]]) -> tuple[Fragment, float]:
        """The fragment and its error under this key, made where it is not known yet."""
        found = self._memory.get(key) or (self._read(key) if self.resume else None)
        if found is None:
            fragment, error = make()
            found = self._light(key, fragment), error
            self._write(key, *found)
        self._memory[key] = found
        return found

    def tidy(self) -> None:
        """After a run that came to its end: of what it left for a later one, what takes much room is removed."""
        for path in self._large:
            path.unlink(missing_ok=True)
        self._large.clear()

    def info(self) -> Mapping[str, Any]:
        """Where earlier runs have left fits, how many, and the bytes of all their files."""
        files = self._files()
        return {
            "path": str(self.folder),
            "entries": sum(f.suffix == SUFFIX for f in files),
            "bytes": sum(f.stat().st_size for f in files),
        }

    def clear(self) -> int:
        """Remove what runs have left in the folder; returns how many fits these were. Other files stay.

        Raises OSError when a file cannot be removed.
        """
        files = self._files()
        for path in files:
            path.unlink(missing_ok=True)
        return sum(f.suffix == SUFFIX for f in files)

    def _files(self) -> list[Path]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.suffix in (SUFFIX, WEIGHT, PART) and p.is_file())

    @cached_property
    def _scratch(self) -> _Scratch:
        return _Scratch()

    def _light(self, key: str, fragment: Fragment) -> Fragment:
        """The same with large weights in files; where no file can be written, as it is."""
        large = [w for w in fragment.initializers if _nbytes(w) >= LARGE]
        for folder in (self.folder, None) if large else ():
            try:
                home = _Home(self._scratch.folder, self._scratch) if folder is None else _Home(folder)
                files = {w.name: home.put(f"{key}-{i}-{os.getpid()}", w) for i, w in enumerate(large)}
            except OSError:
                continue  # the folder is read-only or full
            return replace(fragment, stored=tuple(files.get(w.name, w) for w in fragment.initializers))
        return fragment

    def _read(self, key: str) -> tuple[Fragment, float] | None:
        path = None if self.folder is None else self.folder / (key + SUFFIX)
        if path is None or self.folder is None or not path.exists():
            return None
        graph = onnx.GraphProto()
        try:
            graph.ParseFromString(path.read_bytes())
            said = json.loads(graph.doc_string)
            home = _Home(self.folder)
            files = {w.name: home.known(said["files"][w.name], w) for w in graph.initializer if w.name in said["files"]}
            stored = tuple(files.get(w.name, w) for w in graph.initializer)
            return Fragment(tuple(graph.node), stored), float(said["error"])
        except (OSError, DecodeError, ValueError, KeyError, TypeError):
            return None  # it can be fitted again

    def _write(self, key: str, fragment: Fragment, error: float) -> None:
        """For a later run. A folder that cannot be written costs a second fit, nothing else."""
        if self.folder is None or fragment.aliases:
            return
        files = {w.name: w.make.file for w in fragment.stored if isinstance(w, Later) and isinstance(w.make, _File)}
        if any(file.parent != self.folder for file in files.values()):
            return
        path = self.folder / (key + SUFFIX)
        self._large += [*files.values(), *([path] if files else [])]
        said = {"error": error, "files": {name: file.name for name, file in files.items()}}
        graph = onnx.GraphProto(name="fit", doc_string=json.dumps(said))
        graph.node.extend(fragment.nodes)
        graph.initializer.extend(w.described() if isinstance(w, Later) else w for w in fragment.stored)
        with contextlib.suppress(OSError), _staged(path) as staged:
            staged.write_bytes(graph.SerializeToString())


class _Scratch:
    """A folder that is removed with the last who holds this."""

    def __init__(self) -> None:
        self.folder = temporary.make("fits")
        weakref.finalize(self, temporary.remove, self.folder)


@dataclass(frozen=True)
class _File:
    """Reads an array from a file of nothing but its values. `owner` keeps a temporary folder alive."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = None

    def __call__(self) -> NDArray[Any]:
        try:
            return np.fromfile(self.file, self.dtype).reshape(self.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.file}: the weights that were put there are gone ({one_line(error)})") from None


@dataclass(frozen=True)
class _Home:
    """A folder of files with weights."""

    folder: Path
    owner: object = None

    def put(self, name: str, weight: onnx.TensorProto) -> Later:
        """Raises OSError."""
        values = numpy_helper.to_array(weight)
        with _staged(self.folder / (name + WEIGHT)) as path:
            values.tofile(path)
        return self._later(self.folder / (name + WEIGHT), weight)

    def known(self, name: str, described: onnx.TensorProto) -> Later:
        """What `put` has left. Raises ValueError when it is not whole."""
        found = self._later(self.folder / Path(name).name, described)
        file = self.folder / Path(name).name
        if file.stat().st_size != int(np.prod(found.shape)) * found.dtype.itemsize:
            raise ValueError(f"{file} is not whole")
        return found

    def _later(self, file: Path, weight: onnx.TensorProto) -> Later:
        shape, dtype = tuple(weight.dims), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
        return Later(shape, dtype, _File(file, shape, dtype, self.owner), weight.name)


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A file that takes the place of `path` when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(f".{os.getpid()}{PART}")
    try:
        yield staged
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _nbytes(weight: onnx.TensorProto) -> int:
    return int(np.prod(weight.dims)) * onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize


def fit_key(**parts: Any) -> str:
    """Hash of what decides a fit, our own code included: what another version has fitted is fitted again."""
    return sha256(json.dumps({**parts, "code": _code()}, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """Hash of the package's sources."""
    digest = sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
