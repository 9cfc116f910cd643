"""Measurements that were taken before, in an SQLite file in the user's cache folder.

The key is the *content* of what was timed: operators, attributes, shapes and types of the region (not
its names and not its weight values), the target with its device and options, library versions, and
the measuring plan. Samples are stored, so that a cached answer is the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxtune.compare import Comparison, compare
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.runtime import Target, versions

FORMAT = "1"
SMALL = 64
"""Elements up to which the value of a constant counts as structure (shapes, axes, limits)."""
SHARP = 0.1
"""Relative width of an interval up to which "no measurable change" is worth remembering."""


def cache_path() -> Path:
    """`$ONNXTUNE_CACHE_DIR`, else the platform's user cache folder."""
    import platformdirs

    folder = os.environ.get("ONNXTUNE_CACHE_DIR") or platformdirs.user_cache_dir("onnxtune", appauthor=False)
    return Path(folder) / "measurements.sqlite"


class Cache:
    """Comparisons by key; in memory only when `path` is None. Safe for several processes at once."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._memory: dict[str, Comparison] = {}

    def get(self, key: str, plan: Plan) -> Comparison | None:
        if key not in self._memory and self.path is not None and self.path.exists():
            with self._open() as base:
                row = base.execute("SELECT samples FROM measurements WHERE key = ?", (key,)).fetchone()
            if row:
                samples = np.frombuffer(row[0], np.float64).reshape(3, -1)
                self._memory[key] = compare(*samples, seed=plan.seed, confidence=plan.confidence)
        return self._memory.get(key)

    def put(self, key: str, result: Comparison) -> None:
        self._memory[key] = result
        blurred = result.verdict == "no measurable change" and result.high - result.low > SHARP * result.speedup
        if self.path is None or blurred:
            return  # what a busy machine could not tell is asked again next time
        samples = np.stack([result.before, result.after, result.again]).tobytes()
        with self._open() as base:
            base.execute("INSERT OR REPLACE INTO measurements VALUES (?, ?)", (key, samples))

    def info(self) -> Mapping[str, Any]:
        """Where the cache is, how many comparisons it holds and how many bytes it takes."""
        if self.path is None or not self.path.exists():
            return {"path": str(self.path), "entries": 0, "bytes": 0}
        with self._open() as base:
            count = base.execute("SELECT count(*) FROM measurements").fetchone()[0]
        return {"path": str(self.path), "entries": count, "bytes": self.path.stat().st_size}

    def clear(self) -> int:
        """Forget everything; returns how many comparisons were dropped."""
        entries = int(self.info()["entries"])
        self._memory.clear()
        if self.path is not None:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        return entries

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            base = self._connect()
        except sqlite3.DatabaseError:  # damaged: measurements can be taken again
            self.path.unlink(missing_ok=True)
            base = self._connect()
        try:
            with base:
                yield base
        finally:
            base.close()

    def _connect(self) -> sqlite3.Connection:
        base = sqlite3.connect(str(self.path), timeout=30)
        try:
            base.execute("CREATE TABLE IF NOT EXISTS measurements (key TEXT PRIMARY KEY, samples BLOB)")
        except sqlite3.DatabaseError:
            base.close()
            raise
        return base


def measurement_key(before: Model, after: Model, target: Target, plan: Plan) -> str:
    """Content hash of everything that decides a comparison's outcome."""
    parts = {
        "format": FORMAT,
        "before": structure(before.proto),
        "after": structure(after.proto),
        "target": asdict(target),
        "device": target.device,
        "versions": versions(),
        "plan": plan.key,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def structure(proto: onnx.ModelProto) -> str:
    """Hash of a graph without its names and without the values of its larger weights."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {"": -1}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    digest.update(repr(sorted((o.domain, o.version) for o in proto.opset_import)).encode())
    for function in proto.functions:
        digest.update(function.SerializeToString(deterministic=True))
    for value in [*proto.graph.input, *proto.graph.output]:
        digest.update(f"{number(value.name)}".encode() + value.type.SerializeToString(deterministic=True))
    weights = {i.name: i for i in proto.graph.initializer}
    for node in proto.graph.node:
        for name in node.input:
            if name in weights and name not in numbers:
                digest.update(_describe(weights[name]))
        wiring = ([number(i) for i in node.input], [number(o) for o in node.output])
        digest.update(f"{node.domain}:{node.op_type}{wiring}".encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            tensor = attribute.HasField("t")
            digest.update(_describe(attribute.t) if tensor else attribute.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _describe(tensor: onnx.TensorProto) -> bytes:
    shape = tuple(tensor.dims)
    count = int(np.prod(shape, dtype=np.int64))
    integer = tensor.data_type not in (1, 10, 11, 16)
    value = onnx.numpy_helper.to_array(tensor).tobytes() if integer and count <= SMALL else b""
    return repr((tensor.data_type, shape)).encode() + value
