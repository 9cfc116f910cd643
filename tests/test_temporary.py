"""Folders for temporary files: what killed processes leave behind goes at the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxtune import temporary

pytestmark = pytest.mark.skipif(temporary._fcntl is None, reason="folders cannot be locked here")
MAKE = """
import sys, time
from pathlib import Path
from onnxtune import temporary
folder = temporary.make("test", Path(sys.argv[1]))
(folder / "weights").write_bytes(bytes(1000))
print(folder, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def unswept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just been started."""
    monkeypatch.setattr(temporary, "_swept", set())


def older(folder: Path) -> None:
    os.utime(folder, (0, 0))


def another(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that works in a folder of its own."""
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    process, theirs = another(tmp_path)
    with process:
        assert (theirs / "weights").exists()
        older(theirs)
        assert temporary.sweep(tmp_path) == 0, "its process is at work"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert theirs.exists()
    mine = temporary.make("test", tmp_path)
    assert not theirs.exists()
    older(mine)
    assert temporary.sweep(tmp_path) == 0, "what this process uses stays"
    temporary.remove(mine)
    assert not list(tmp_path.iterdir())


def test_only_what_is_ours_goes(tmp_path: Path) -> None:
    young = tmp_path / f"{temporary.PREFIX}young"
    young.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / f"{temporary.PREFIX}link").symlink_to(outside)
    (tmp_path / f"{temporary.PREFIX}file").touch()
    (tmp_path / "other").mkdir()
    for path in tmp_path.iterdir():
        if path != young:
            os.utime(path, (0, 0), follow_symlinks=False)
    before = sorted(tmp_path.rglob("*"))
    assert temporary.sweep(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_somebody_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / f"{temporary.PREFIX}theirs"
    theirs.mkdir()
    older(theirs)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert temporary.sweep(tmp_path) == 0
    monkeypatch.setattr(os, "getuid", lambda: mine)
    assert temporary.sweep(tmp_path) == 1
    assert not theirs.exists()


def test_where_folders_cannot_be_locked_they_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f"{temporary.PREFIX}left"
    left.mkdir()
    older(left)
    monkeypatch.setattr(temporary, "_fcntl", None)
    with monkeypatch.context() as patched:
        patched.setenv("TMPDIR", str(tmp_path))
        patched.setattr("tempfile.tempdir", None)
        with temporary.temporary("test") as folder:
            assert folder.parent == tmp_path.resolve()
        assert not folder.exists()
    assert left.exists()


def test_a_place_that_cannot_be_read(tmp_path: Path) -> None:
    assert temporary.sweep(tmp_path / "nowhere") == 0
