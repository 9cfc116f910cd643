"""Measurements that were taken before, in an SQLite file in the user's cache folder.

The key is the *content* of what was timed: operators, attributes, shapes and types of the region (not
its names and not its weight values), the target with its device and options, library versions, and
the measuring plan. Samples are stored, so that a cached answer is the same answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxtune.comparison import Comparison
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.runtime import Target, versions

LOG = logging.getLogger(__name__)
FORMAT = "3"
SMALL = 64
"""Elements up to which the value of an integer constant counts as structure (shapes, axes, indices)."""
SMALL_FLOAT = 4
"""The same for floating-point constants (scales of a Resize, an exponent, limits of a Clip)."""
PATIENCE = 30
"""Seconds to wait for another process that writes."""
SHARP = 0.1
"""Relative width of an interval up to which "no measurable change" is worth remembering."""


def cache_path() -> Path:
    """`$ONNXTUNE_CACHE_DIR`, else the platform's user cache folder."""
    import platformdirs

    folder = os.environ.get("ONNXTUNE_CACHE_DIR") or platformdirs.user_cache_dir("onnxtune", appauthor=False)
    return Path(folder) / "measurements.sqlite"


def fits_path(cache: Path) -> Path:
    """The folder beside the measurements in which calibrated runs leave their fits (`calibrate.store`)."""
    return cache.parent / "fits"


class Cache:
    """Comparisons by key; in memory only when `path` is None. Safe for several processes at once."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._memory: dict[str, Comparison] = {}

    def get(self, key: str, plan: Plan) -> Comparison | None:
        if key not in self._memory:
            row = self._query("SELECT samples FROM measurements WHERE key = ?", (key,))
            found = _restored(row[0], plan) if row else None
            if found is not None:
                self._memory[key] = found
        return self._memory.get(key)

    def put(self, key: str, result: Comparison) -> None:
        """Keep a comparison. A folder that cannot be written costs the memory of it, nothing else."""
        self._memory[key] = result
        blurred = result.verdict == "no measurable change" and result.high - result.low > SHARP * result.speedup
        if self.path is None or blurred:
            return  # what a busy machine could not tell is asked again next time
        row = (key, _stored(result))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._insert(row)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged: measurements can be taken again
                LOG.warning("%s is damaged; it is made anew", self.path)
                self._remove()
                self._insert(row)
        except (OSError, sqlite3.OperationalError) as error:  # read-only, full, locked for too long
            LOG.warning("%s: a measurement cannot be kept (%s)", self.path, error)

    def info(self) -> Mapping[str, Any]:
        """Where the cache is, how many comparisons it holds and how many bytes it takes."""
        row = self._query("SELECT count(*) FROM measurements", ())
        size = self.path.stat().st_size if self.path is not None and self.path.exists() else 0
        return {"path": str(self.path), "entries": row[0] if row else 0, "bytes": size}

    def clear(self) -> int:
        """Forget everything; returns how many comparisons were dropped."""
        entries = int(self.info()["entries"])
        self._memory.clear()
        self._remove()
        return entries

    def _query(self, statement: str, values: tuple[str, ...]) -> tuple[Any, ...] | None:
        """The first row; None when there is none, or no file that can be read."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with contextlib.closing(sqlite3.connect(str(self.path), timeout=PATIENCE)) as base:
                row: tuple[Any, ...] | None = base.execute(statement, values).fetchone()
        except sqlite3.Error:
            return None
        return row

    def _insert(self, row: tuple[str, bytes]) -> None:
        with contextlib.closing(sqlite3.connect(str(self.path), timeout=PATIENCE)) as base, base:
            base.execute("CREATE TABLE IF NOT EXISTS measurements (key TEXT PRIMARY KEY, samples BLOB)")
            base.execute("INSERT OR REPLACE INTO measurements VALUES (?, ?)", row)

    def _remove(self) -> None:
        if self.path is not None:
            for suffix in ("", "-journal", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


SCALARS = ("speedup", "low", "high", "noise", "error", "blocks")


def _stored(result: Comparison) -> bytes:
    """The figures, how many samples there are before, and all samples, as 64-bit numbers."""
    head = [*(float(getattr(result, name)) for name in SCALARS), float(len(result.before))]
    return np.concatenate([head, result.before, result.after]).tobytes()


def _restored(blob: object, plan: Plan) -> Comparison | None:
    """A comparison from its bytes; None when they are not such bytes."""
    count = len(SCALARS) + 1
    if not isinstance(blob, bytes) or len(blob) % 8 or len(blob) < 8 * (count + 2):
        return None
    head, samples = np.split(np.frombuffer(blob, np.float64), [count])
    *figures, first = head.tolist()
    if not (1 <= first < len(samples) and first == int(first) and np.isfinite(samples).all() and (samples > 0).all()):
        return None
    known = dict(zip(SCALARS, figures, strict=True))
    if not (known["speedup"] > 0 and known["low"] <= known["speedup"] <= known["high"] and known["blocks"] >= 1):
        return None
    before, after = np.split(samples, [int(first)])
    return Comparison(
        before, after, known["speedup"], known["low"], known["high"], known["noise"], plan.confidence,
        int(known["blocks"]), known["error"],
    )  # fmt: skip


def measurement_key(
    before: Model, after: Model, sizes: Mapping[str, tuple[int, ...]], target: Target, plan: Plan
) -> str:
    """Content hash of everything that decides a comparison's outcome. `sizes`: shapes of the inputs fed."""
    parts = {
        "format": FORMAT,
        "before": structure(before.proto),
        "after": structure(after.proto),
        "sizes": [list(sizes[v.name]) for v in before.inputs],
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
            if name in weights:
                digest.update(_describe(weights.pop(name)))
        wiring = ([number(i) for i in node.input], [number(o) for o in node.output])
        digest.update(f"{node.domain}:{node.op_type}{wiring}".encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            tensor = attribute.HasField("t")
            digest.update(_describe(attribute.t) if tensor else attribute.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _describe(tensor: onnx.TensorProto) -> bytes:
    shape = tuple(tensor.dims)
    count = int(np.prod(shape, dtype=np.int64))
    real = tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    value = onnx.numpy_helper.to_array(tensor).tobytes() if count <= (SMALL_FLOAT if real else SMALL) else b""
    return repr((tensor.data_type, shape)).encode() + value
