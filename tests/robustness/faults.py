"""What the world does to a running `onnxtune optimize`: killed, interrupted, no room, no rights, company.

    python tests/robustness/faults.py [--kills 50] [--interrupts 30] [--pairs 10] [--seed 0]

- kill -9 at a random moment, half of the tries at the command and half at the child that does its work: the output
  is absent or complete, an output that was there before is whole, the next run can use the cache, and
  removes the temporary folders that killed ones have left;
- Ctrl-C (SIGINT) at a random moment: exit code 130 within GRACE, one line, no partial output, nothing left behind
  (a run that had ended already counts as survived too, and is counted apart);
- two runs at once on one cache and one output: both end well, the output is one of theirs;
- a full disk (a small tmpfs where this may be mounted, else a limit on the size of files), a read-only folder, an
  output that is the input, an unreadable file.

Prints tried, survived and lost of each kind. Exits with 1 when any was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tally
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
GRACE = 15.0
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
LINES = ("--providers", "cpu", "--threads", "1", "--no-plugins", "--force-rules", "replace_lrn,fold_batchnorm")
"""Options of all runs. Rewrites are forced, so that there is an output that differs from the input."""


LEFT = ".onnxtune-*"
"""Folders for temporary files."""
BUDGETS = (0.0, 0.0, 1.0)
"""Time budgets of the runs that are killed, in turn: without measuring (where writing is most of the time), and with."""


class Count:
    """tried, survived and why not, of one kind of fault."""

    def __init__(self, kind: str) -> None:
        self.kind, self.tried, self.lost = kind, 0, list[str]()
        self.ended: Counter[str] = Counter()

    def add(self, how: str, problem: str) -> None:
        self.tried += 1
        self.ended[how] += 1
        if problem:
            self.lost.append(problem)

    @property
    def row(self) -> tally.Row:
        ends = ", ".join(f"{n} {how}" for how, n in sorted(self.ended.items()))
        return tally.Row(self.kind, self.tried, len(self.lost), ends)

    def __str__(self) -> str:
        return "\n".join([str(self.row), *(f"  LOST {x}" for x in self.lost)])


def network(path: Path, width: int = 32, seed: int = 0) -> None:
    """Convolutions with LRN, BatchNormalization and pooling: something for several rules, 1 MB of weights."""
    rng = np.random.default_rng(seed)
    weights = {"w": (width, 3, 3, 3), "v": (width, width, 3, 3), "u": (8 * width, width, 3, 3), "g": (8 * width, 10)}
    arrays = {k: rng.standard_normal(s).astype(np.float32) / 10 for k, s in weights.items()}
    arrays |= {k: rng.uniform(0.5, 1.5, width).astype(np.float32) for k in ("s", "b", "m", "r")}
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, 32, 32] x) => (float[N, 10] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)  n = BatchNormalization (a, s, b, m, r)  c = Relu (n)
        l = LRN <size = 5> (c)  d = Conv <pads = [1, 1, 1, 1]> (l, v)  e = Relu (d)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)  f = Conv <pads = [1, 1, 1, 1]> (p, u)
        h = Relu (f)  k = GlobalAveragePool (h)  t = Flatten (k)  y = MatMul (t, g) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in arrays.items())
    onnx.save(proto, path)


def command(model: Path, *more: object, budget: float = 0.0) -> list[str]:
    lines = (*LINES, "--time-budget", str(budget))
    return [sys.executable, "-m", "onnxtune", "optimize", str(model), *lines, *map(str, more)]


def environment(cache: Path) -> dict[str, str]:
    # Temporary files lie beside the cache, so that what is left behind is seen.
    (cache / "tmp").mkdir(parents=True, exist_ok=True)
    own = {"ONNXTUNE_CACHE_DIR": str(cache), "TMPDIR": str(cache / "tmp"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "PYTHONPATH": str(ROOT)}


def start(words: Sequence[str], cache: Path, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def unusable(model: Path) -> str:
    """Why a model file is not a whole one ("" when it is)."""
    import onnxruntime

    try:
        onnx.checker.check_model(str(model), full_check=True)
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.ones((1, 3, 32, 32), np.float32)})
    except Exception as error:  # whatever it is, the file is not usable
        return f"{model.name} is not usable: {type(error).__name__}: {error}"
    return ""


def children(parent: int) -> list[int]:
    """Processes that this one has started (Linux)."""
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def gone(numbers: Sequence[int], seconds: float = 5.0) -> bool:
    """Do these processes end?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{n}").exists() and _state(n) != "Z" for n in numbers):
            return True
        time.sleep(0.05)
    return False


def _state(number: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def kills(folder: Path, tries: int, rng: random.Random, longest: dict[float, float]) -> Count:
    count, cache = Count("kill -9"), folder / "cache"
    model, out = folder / "model.onnx", folder / "out.onnx"
    network(model)
    for number in range(tries):
        before = b"" if number % 2 else b"an older file"
        out.unlink(missing_ok=True)
        if before:
            out.write_bytes(before)
        budget = BUDGETS[number % len(BUDGETS)]
        run = start(command(model, "-o", out, budget=budget), cache)
        time.sleep(rng.uniform(0, longest[budget]))
        below = children(run.pid)
        victim = below[0] if number % 2 and below else run.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        run.communicate()
        problem = "" if gone(below) else "the child outlives the command"
        if not out.exists():
            how = "no output"
            problem = problem or ("the older output is gone" if before else "")
        elif out.read_bytes() == before:
            how = "older output whole"
        else:
            how = "output complete"
            problem = problem or unusable(out)
        count.add(how, f"try {number}: {problem}" if problem else "")
    left = [*folder.glob(LEFT), *(cache / "tmp").glob(LEFT)]
    for path in left:
        os.utime(path, (0, 0))  # as if some time had passed
    last = subprocess.run(
        command(model, "-o", out), env=environment(cache), capture_output=True, text=True, check=False
    )
    problem = last.stderr if last.returncode else unusable(out)
    still = [p.name for p in left if p.exists()]
    problem = problem or (f"folders of killed runs are still there: {still}" if still else "")
    count.add(f"a last run on the same cache, which finds {len(left)} folders of killed runs", problem)
    return count


def interrupts(folder: Path, tries: int, rng: random.Random, longest: dict[float, float]) -> Count:
    count, cache = Count("Ctrl-C"), folder / "cache"
    model, out = folder / "model.onnx", folder / "out.onnx"
    network(model)
    for number in range(tries):
        out.unlink(missing_ok=True)
        budget = BUDGETS[number % len(BUDGETS)]
        run = start(command(model, "-o", out, budget=budget), cache)
        time.sleep(rng.uniform(0.08, longest[budget]))
        run.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            said = run.communicate(timeout=GRACE)[1]
        except subprocess.TimeoutExpired:
            run.kill()
            said = run.communicate()[1]
            count.add("too late", f"try {number}: still there after {GRACE} s")
            continue
        left = [p.name for p in folder.iterdir() if p.name not in ("model.onnx", "out.onnx", "cache")]
        left += [p.name for p in (cache / "tmp").glob(LEFT)]
        problem = f"left behind: {left}" if left else ""
        if run.returncode == 0:
            how = "had ended before"
            problem = problem or unusable(out)
        elif run.returncode == -signal.SIGINT and not said:
            how = "Python had not started yet"
        else:
            how = "exit 130"
            if run.returncode != 130:
                problem = f"exit code {run.returncode}: {said}"
            elif "Traceback" in said or len(said.strip().splitlines()) != 1:
                problem = f"it says: {said}"
            elif out.exists():
                how = "exit 130, complete output"
                problem = unusable(out) or (
                    "" if "is written and whole" in said else f"there is an output, but it says {said}"
                )
        shutil.rmtree(cache / "tmp", ignore_errors=True)
        count.add(how, f"try {number} after {time.monotonic() - began:.1f} s: {problem}" if problem else "")
    return count


def pairs(folder: Path, tries: int) -> Count:
    count, cache = Count("two at once on one cache and one output"), folder / "cache"
    model, out = folder / "model.onnx", folder / "out.onnx"
    network(model)
    for number in range(tries):
        out.unlink(missing_ok=True)
        both = [start(command(model, "-o", out, "--seed", seed, budget=1.0), cache) for seed in range(2)]
        ends = [(r.communicate()[1], r.returncode) for r in both]
        bad = [said for said, code in ends if code]
        problem = bad[0] if bad else unusable(out)
        count.add("both ended well" if not bad else "one failed", f"try {number}: {problem}" if problem else "")
    return count


def _expect(count: Count, name: str, done: subprocess.CompletedProcess[str], codes: Sequence[int], words: str) -> None:
    problem = ""
    if done.returncode not in codes:
        problem = f"{name}: exit code {done.returncode}: {done.stderr}"
    elif "Traceback" in done.stderr or "internal error" in done.stderr:
        problem = f"{name}: {done.stderr}"
    elif done.returncode and (words not in done.stderr or len(done.stderr.strip().splitlines()) != 1):
        problem = f"{name}: it says {done.stderr!r}, not '{words}'"
    count.add(f"{name}: exit {done.returncode}", problem)


def files(folder: Path) -> Count:
    """Disks and rights."""
    count, cache = Count("disks and rights"), folder / "cache"
    model = folder / "model.onnx"
    network(model)

    def run(
        *more: object, source: Path = model, where: Path = cache, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        words = command(source, *more)
        return subprocess.run(words, env=environment(where), capture_output=True, text=True, check=False, **options)

    with full_disk(folder / "small") as (small, how):
        older = small / "out.onnx"
        older.write_bytes(b"an older file")
        limit: Callable[[], None] | None = None if how == "tmpfs" else _small_files
        done = run("-o", older, preexec_fn=limit)
        _expect(count, f"full disk ({how})", done, (3,), "cannot be written")
        whole = older.read_bytes() == b"an older file" and [p.name for p in small.iterdir()] == ["out.onnx"]
        count.add("older output whole", "" if whole else f"full disk: {[p.name for p in small.iterdir()]} is there")
        if how == "tmpfs":
            done = run("-o", folder / "out.onnx", where=small / "cache")
            _expect(count, "full disk under the cache", done, (0,), "")
    done = run("-o", model)
    _expect(count, "output = input", done, (0,), "")
    count.add("output = input is whole", unusable(model))
    network(model)
    link = folder / "link.onnx"
    link.symlink_to(model)
    done = run("-o", link)
    _expect(count, "output is a link to the input", done, (0,), "")
    count.add("link and input are whole", unusable(link) or unusable(model))
    drop = _drop_rights if _rights_can_be_dropped() else None
    if drop is not None or os.geteuid() != 0:
        place = folder / "theirs"
        place.mkdir()
        (place / "secret.onnx").write_bytes(model.read_bytes())
        (place / "secret.onnx").chmod(0)
        place.chmod(0o555)
        _expect(count, "read-only folder", run("-o", place / "out.onnx", preexec_fn=drop), (2, 3), "read-only")
        done = run("-o", folder / "out.onnx", source=place / "secret.onnx", preexec_fn=drop)
        _expect(count, "unreadable file", done, (3,), "cannot be read")
        cache.chmod(0o555)
        _expect(count, "read-only cache", run("-o", folder / "out.onnx", preexec_fn=drop), (0,), "")
        cache.chmod(0o755)
        place.chmod(0o755)
    _expect(count, "output in no folder", run("-o", folder / "none" / "x.onnx"), (2, 3), "does not exist")
    _expect(count, "output is a folder", run("-o", folder), (2, 3), "is a folder")
    _expect(count, "no such model", run(source=folder / "none.onnx"), (3,), "no such file")
    return count


def _rights_can_be_dropped() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


def _drop_rights() -> None:
    """Take root's right to read and write everything from what is executed next; rights of files apply to it then."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """A disk with less room than the model needs: (folder, "tmpfs" or "limit")."""
    folder.mkdir()
    mounted = os.name == "posix" and os.geteuid() == 0 and shutil.which("mount") is not None
    if mounted:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "onnxtune", folder], capture_output=True, check=False
        )
        mounted = done.returncode == 0
    try:
        yield folder, "tmpfs" if mounted else "limit"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def durations(folder: Path, budgets: Sequence[float]) -> dict[float, float]:
    """Seconds of an undisturbed run with each time budget, and a little more."""
    network(folder / "model.onnx")
    found = {}
    for budget in dict.fromkeys(budgets):
        began = time.monotonic()
        words = command(folder / "model.onnx", "-o", folder / "out.onnx", budget=budget)
        subprocess.run(words, env=environment(folder / f"cache{budget}"), check=True, capture_output=True)
        found[budget] = 1.1 * (time.monotonic() - began)
    return found


def campaign(kill: int, interrupt: int, pair: int, seed: int) -> list[Count]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as top:
        folders = [Path(top) / name for name in ("first", "kills", "interrupts", "pairs", "files")]
        for folder in folders:
            folder.mkdir()
        longest = durations(folders[0], BUDGETS)
        return [
            kills(folders[1], kill, rng, longest),
            interrupts(folders[2], interrupt, rng, longest),
            pairs(folders[3], pair),
            files(folders[4]),
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--interrupts", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    tally.option(parser)
    arguments = parser.parse_args()
    counts = campaign(arguments.kills, arguments.interrupts, arguments.pairs, arguments.seed)
    print(*counts, sep="\n")
    if arguments.record:
        tally.record([c.row for c in counts])
    return int(any(c.lost for c in counts))


if __name__ == "__main__":
    sys.exit(main())
