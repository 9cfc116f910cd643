"""Ctrl-C while the command is still importing its modules.

    python tests/robustness/imports.py [--tries 60] [--seed 0]

`onnxtune optimize` is interrupted exactly when it begins to import its n-th module, for n drawn over all of them: in the
command itself, and in the child that does its work (the signal goes to the command, which hands it on). A hook in
`sitecustomize` does that, so that no moment is left to luck. It must end with exit code 130 and one line, and leave
nothing behind. The command is started as its console script starts it.

Prints tried, survived and lost. Exits with 1 when any was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import faults
import tally

HOOK = '''
import atexit, os, signal, sys, time

role, at = os.environ["INTERRUPT_AT"].split(":")
mine = role == ("child" if "ONNXTUNE_CRASH_NOTES" in os.environ else "command")


class Count:
    """Counts what is looked for once the command has begun; interrupts it at the wanted one."""

    number = 0

    def find_spec(self, name, path=None, target=None):
        if name == "onnxtune.cli" or Count.number:
            Count.number += 1
            if Count.number == int(at):
                os.kill(os.getppid() if role == "child" else os.getpid(), signal.SIGINT)
                time.sleep(5)


if mine:
    sys.meta_path.insert(0, Count())
    atexit.register(lambda: int(at) or print(f"imports: {Count.number}", file=sys.stderr))
'''
START = "from onnxtune.entry import main; import sys; sys.exit(main())"
ROLES = ("command", "child")


def run(folder: Path, role: str, number: int) -> tuple[int, str]:
    """(exit code, what it says) of a command that is interrupted at this import of the role; 0: not at all."""
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    environment = faults.environment(folder / "cache")
    environment |= {"INTERRUPT_AT": f"{role}:{number}", "PYTHONPATH": os.pathsep.join([str(hook), str(faults.ROOT)])}
    _, _, _, *words = faults.command(folder / "model.onnx", "-o", folder / "out.onnx")
    done = subprocess.run(
        [sys.executable, "-c", START, *words], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stderr


def imports(folder: Path, tries: int, rng: random.Random) -> faults.Count:
    """`tries` of each role; the first imports of all are among them."""
    count = faults.Count("Ctrl-C during imports")
    out = folder / "out.onnx"
    faults.network(folder / "model.onnx")
    for role in ROLES:
        said = run(folder, role, 0)[1]
        total = int(said.partition("imports: ")[2].split()[0])
        numbers = [1, 2, *rng.sample(range(3, total), tries - 2)]
        for number in numbers:
            out.unlink(missing_ok=True)
            code, said = run(folder, role, number)
            left = [p.name for p in folder.iterdir() if p.name not in ("model.onnx", out.name, "cache", "hook")]
            left += [p.name for p in (folder / "cache" / "tmp").glob(faults.LEFT)]
            problem = f"left behind: {left}" if left else ""
            if code != 130:
                problem = f"exit code {code}: {said}"
            elif "Traceback" in said or len(said.strip().splitlines()) != 1:
                problem = f"it says: {said}"
            elif out.exists():  # what the report needs is imported last
                told = "is written and whole" in said
                problem = problem or faults.unusable(out) or ("" if told else f"there is an output, but it says {said}")
            count.add(f"in the {role}", f"import {number} of {total} in the {role}: {problem}" if problem else "")
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=60, help="of each of two roles")
    parser.add_argument("--seed", type=int, default=0)
    tally.option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = imports(Path(folder), arguments.tries, random.Random(arguments.seed))
    print(count)
    if arguments.record:
        tally.record([count.row])
    return int(bool(count.lost))


if __name__ == "__main__":
    sys.exit(main())
