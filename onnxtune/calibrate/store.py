"""Fits that were made before, so that an interrupted run goes on where it was. One small ONNX graph for each.

The key is a hash of everything that decides a fit: both models, the layer, the level, the data, the indices and
the seed. Files are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from onnxtune.proposal import Fragment

SUFFIX = ".fit"
LARGE = 2**23
"""Bytes of weights beyond which a fit that is in the folder is not held in memory too."""


class FitStore:
    """Fits by key; only in memory when `folder` is None. `resume`: use those that an earlier run has left there."""

    def __init__(self, folder: Path | None, *, resume: bool = False) -> None:
        self.folder, self.resume = folder, resume
        self._memory: dict[str, tuple[Fragment, float]] = {}
        self._written: set[str] = set()  # too large to hold: read again when wanted

    def get(self, key: str, make: Callable[[], tuple[Fragment, float]]) -> tuple[Fragment, float]:
        """The fragment and its error under this key, made where it is not known yet."""
        found = self._memory.get(key) or (self._read(key) if self.resume or key in self._written else None)
        if found is None:
            found = make()
            if self._write(key, *found) and found[0].nbytes > LARGE:
                self._written.add(key)
        if key not in self._written:
            self._memory[key] = found
        return found

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / (key + SUFFIX)

    def _read(self, key: str) -> tuple[Fragment, float] | None:
        path = self._path(key)
        if path is None or not path.exists():
            return None
        graph = onnx.GraphProto()
        try:
            graph.ParseFromString(path.read_bytes())
            error = float(json.loads(graph.doc_string)["error"])
        except (OSError, DecodeError, ValueError, KeyError, TypeError):
            return None  # it can be fitted again
        return Fragment(tuple(graph.node), tuple(graph.initializer)), error

    def _write(self, key: str, fragment: Fragment, error: float) -> bool:
        """Is it in the folder now?"""
        path = self._path(key)
        if path is None or fragment.aliases:
            return False
        graph = onnx.GraphProto(name="fit", doc_string=json.dumps({"error": error}))
        graph.node.extend(fragment.nodes)
        graph.initializer.extend(fragment.initializers)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_suffix(f".{hashlib.sha256(repr(id(graph)).encode()).hexdigest()[:12]}.part")
            staged.write_bytes(graph.SerializeToString())
            staged.replace(path)
        except OSError:
            return False  # a folder that cannot be written costs a second fit, nothing else
        return True


def fit_key(**parts: Any) -> str:
    """Hash of what decides a fit."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
