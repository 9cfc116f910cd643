"""What was under way when a native library brought the process down, so that the next process leaves it out.

ONNX Runtime, a provider's compiler or a rule's own library may abort: no exception, the process is gone. Work is
therefore done in a child (`supervise`: by the command line always, by the Python API where it is asked to) that notes
here what it is about to try. When the child dies of a fault, the note says what it died of; that goes on a list, and a
new child refuses what is on it like anything else that fails. A note is one small write into a file and costs some
microseconds; nothing is run twice, and what is timed is timed as ever.

Without a supervisor there is no folder for notes, and nothing happens here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the supervisor, which only waits, need not load it
    import onnx

FOLDER = "ONNXTUNE_CRASH_NOTES"
"""Environment variable in which the supervisor names the folder of the notes."""
NOTE, KNOWN = "under-way", "known.json"


class CrashError(Exception):
    """What is to be tried has brought the process down before; the text says how."""


@contextlib.contextmanager
def trying(kind: str, what: str, key: str | None = None) -> Iterator[None]:
    """Note that `what` is under way; `kind`: model, rule or file. Raises CrashError when it has ended a process."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        yield
        return
    key = key or f"{kind} {what}"
    how = known(Path(folder)).get(key)
    if how is not None:
        raise CrashError(how)
    path = Path(folder) / NOTE
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(json.dumps({"kind": kind, "what": what, "key": key}), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def noted() -> bool:
    """Does anybody read the notes?"""
    return FOLDER in os.environ


def under_way(folder: Path) -> dict[str, str] | None:
    """What the last process was about when it died; None when nothing was noted."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return {k: str(found[k]) for k in ("kind", "what", "key")}
    return None


def known(folder: Path) -> dict[str, str]:
    """What ended a process: key -> how."""
    try:
        found: dict[str, str] = json.loads((folder / KNOWN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def remember(folder: Path, key: str, how: str) -> None:
    (folder / KNOWN).write_text(json.dumps({**known(folder), key: how}), encoding="utf-8")
    (folder / NOTE).unlink(missing_ok=True)


def model_key(proto: onnx.ModelProto, *target: str) -> str:
    """Hash of a graph without the values of its weights, and of where it runs."""
    digest = hashlib.sha256(repr(target).encode())
    for part in (proto.opset_import, proto.functions, proto.graph.node, proto.graph.input, proto.graph.output):
        for item in part:
            digest.update(item.SerializeToString(deterministic=True))
    for tensor in proto.graph.initializer:
        digest.update(repr((tensor.name, tensor.data_type, list(tensor.dims))).encode())
    return "model " + digest.hexdigest()
