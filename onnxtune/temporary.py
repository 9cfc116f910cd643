"""Folders for temporary files, which go when the work is done, or later when it was cut short.

A process that is killed leaves its folders behind. Each is therefore locked as long as its process lives (flock(2) on
the folder itself: the system drops the lock with the process, however that ends), and who makes a new one first removes
those beside it that nobody locks. Where folders cannot be locked (Windows, some network disks) they stay.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None  # type: ignore[assignment]

PREFIX = ".onnxtune-"
YOUNG = 10.0
"""Seconds for which a folder is left alone: its maker may not have come to lock it."""

_locks: dict[Path, int] = {}
_swept: set[Path] = set()


@contextlib.contextmanager
def temporary(purpose: str) -> Iterator[Path]:
    """A new folder among the system's temporary files, gone afterwards. Raises OSError when it cannot be made."""
    folder = make(purpose)
    try:
        yield folder
    finally:
        remove(folder)


def make(purpose: str, parent: Path | None = None) -> Path:
    """A new folder in `parent` (the system's folder for temporary files); `remove` is for the caller. What killed
    processes have left in `parent` goes first. Raises OSError when it cannot be made."""
    place = Path(tempfile.gettempdir() if parent is None else parent)
    if place not in _swept:
        _swept.add(place)
        sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=parent)).resolve()
    lock = _locked(folder)
    if lock is not None:
        _locks[folder] = lock
    return folder


def remove(folder: Path) -> None:
    """Remove a folder that `make` has made, with what is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    lock = _locks.pop(folder, None)
    if lock is not None:
        os.close(lock)


def sweep(place: Path) -> int:
    """Remove the folders of ours in there whose process has ended; returns how many."""
    gone = 0
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and _is_left(Path(entry.path)):
                gone += 1
    return gone


def _is_left(folder: Path) -> bool:
    """Is it a folder of this user that nobody uses? Then it is removed."""
    try:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or time.time() < about.st_mtime + YOUNG:
            return False
    except (OSError, AttributeError):  # it has just gone; Windows
        return False
    lock = _locked(folder)
    if lock is None:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    return True


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None where another process has it, or there is none to be had."""
    if _fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
