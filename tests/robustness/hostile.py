"""Broken model files through the command line: one line and an exit code, never a traceback, a hang or a crash.

    python tests/robustness/hostile.py [--cases 4000] [--seed 0]

Models are truncated, have bits flipped, pieces cut out, doubled or overwritten, or single fields of the message
set to what no exporter writes (dimensions of 2**40, unknown types, other names, missing parts). Each goes through
`onnxtune optimize` (plain, and with every exact rule forced) or `onnxtune bench`. Cases run in children of BATCH,
each with a limit on its address space, so that a crash of a native library is seen and the case that caused it
is known; such a case is run again through the real command, which has to end in one line too.

Prints how many were tried, how each ended, and `lost`: tracebacks, internal errors, hangs, crashes of the real
command, more memory than LIMIT. Exits with 1 when any was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import tally
from google.protobuf.message import Message

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
BATCH = 150
SECONDS = 180
"""Longest that one case may take."""
ADDRESSES = 12 * 2**30
"""Bytes of address space that a child may reserve (ONNX Runtime's libraries alone map some GB)."""
MEMORY = 3 * 2**30
"""Bytes that the children believe the machine to have."""
LIMIT = MEMORY
"""Bytes of resident memory that a child may need at its peak."""
INTEGERS = (0, 1, -1, 2, 7, 127, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
WORDS = ("", "x", "y", "w", "a", "Conv", "If", "Loop", "\x00", "é" * 9, "../../etc/passwd", "/dev/zero", "a" * 5000)
EXPECTED = {0, 2, 3}
"""Done, or kept; a model that needs --input-shapes; a model that cannot be used."""


# --- making broken files -------------------------------------------------------------------------------


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 200) :]


def doubled(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[: start + rng.randrange(1, 400)] + data[start:]


def overwritten(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 64))
    return data[:start] + rng.randbytes(size) + data[start + size :]


def noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(1, 600))


def altered(rng: random.Random, data: bytes) -> bytes:
    """One to three fields anywhere in the message set to something odd: it still parses."""
    proto = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        with contextlib.suppress(ValueError, TypeError, UnicodeEncodeError):  # what protobuf itself refuses to hold
            _alter(rng, rng.choice(list(_messages(proto))))
    return proto.SerializeToString()


def _messages(message: Message) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _messages(part)


def _alter(rng: random.Random, message: Any) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    present = [f for f, _ in message.ListFields()]
    if present and rng.random() < 0.8:
        field = rng.choice(present)
    value = getattr(message, field.name)
    if rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.is_repeated:
        _alter_list(rng, field, value)
    elif field.message_type is not None:
        value.SetInParent()
    else:
        setattr(message, field.name, _odd(rng, field))


def _alter_list(rng: random.Random, field: Any, value: Any) -> None:
    how = rng.randrange(4)
    if how == 0 and len(value):
        del value[rng.randrange(len(value))]
    elif field.message_type is not None:
        if how == 1 and len(value):
            value.add().CopyFrom(value[rng.randrange(len(value))])
        elif how == 2 and len(value) > 1:
            first, second = rng.sample(range(len(value)), 2)
            kept = type(value[0])()
            kept.CopyFrom(value[first])
            value[first].CopyFrom(value[second])
            value[second].CopyFrom(kept)
        else:
            value.add()
    elif how == 1 and len(value):
        value[rng.randrange(len(value))] = _odd(rng, field)
    else:
        value.append(_odd(rng, field))


def _odd(rng: random.Random, field: Any) -> Any:
    kinds = field.cpp_type
    if kinds == field.CPPTYPE_STRING:
        word = rng.choice(WORDS)
        return word.encode() if field.type == field.TYPE_BYTES else word
    if kinds in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))
    if kinds == field.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if kinds == field.CPPTYPE_INT32:
        return rng.choice([i for i in (*INTEGERS, *range(30)) if abs(i) < 2**31])
    return rng.choice([i for i in INTEGERS if kinds != field.CPPTYPE_UINT64 or i >= 0])


WAYS = (truncated, flipped, flipped, cut, doubled, overwritten, noise, altered, altered, altered, altered, altered)


def case(number: int, seed: int) -> tuple[str, bytes, list[str]]:
    """(what it is, the file's bytes, the command's arguments around the path)."""
    from seeds import MAKERS

    rng = random.Random(f"{seed}/{number}")
    maker, way = rng.choice(MAKERS), rng.choice(WAYS)
    data = way(rng, maker().SerializeToString())
    command = rng.choice(("plain", "plain", "forced", "forced", "bench"))
    return f"{maker.__name__} {way.__name__} {command}", data, _arguments(command)


def _arguments(command: str) -> list[str]:
    if command == "bench":
        return ["bench", "--providers", "cpu", "--threads", "1", "--iterations", "4", "--warmup", "0", "--no-memory"]
    common = ["--providers", "cpu", "--threads", "1", "--no-cache", "--no-plugins", "--dry-run", "--exact-only"]
    common += ["--time-budget", "0"]
    if command == "forced":
        from onnxtune.catalog import catalog

        for rule in catalog(plugins=False):
            if rule.card.safety == "exact":
                common += ["--force-rules", rule.name]
    return ["optimize", *common]


# --- the child -----------------------------------------------------------------------------------------


def child(start: int, count: int, seed: int) -> None:
    """Run cases one after another; a line of JSON before (its number) and after each (how it ended)."""
    import onnxtune.bench.room
    import onnxtune.memory
    import onnxtune.runtime
    from onnxtune.cli import main

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    onnxtune.memory.physical_bytes = lambda: MEMORY
    onnxtune.runtime.RUN_SECONDS = 2.0  # a broken Loop may run for ever
    onnxtune.bench.room.available = lambda: MEMORY
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for number in range(start, start + count):
            what, data, arguments = case(number, seed)
            path.write_bytes(data)
            print(json.dumps({"number": number, "what": what}), flush=True)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)  # no handler: a hang ends the child
            began = time.monotonic()
            said = io.StringIO()
            code: Any = None
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                try:
                    main([arguments[0], str(path), *arguments[1:]])
                except SystemExit as end:
                    code = end.code
                except BaseException as error:  # nothing else may leave `main`
                    said.write(f"Traceback: {type(error).__name__}: {error}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            text = said.getvalue().replace(str(path), "MODEL")
            end = {"code": code, "said": text[:600], "seconds": time.monotonic() - began, "peak": _peak()}
            print(json.dumps(end), flush=True)
            left = [p.name for p in Path(folder).iterdir() if p != path]
            if left:
                print(json.dumps({"left": left}), flush=True)


def _peak() -> int:
    """Largest resident memory of this process so far, in bytes (Linux)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def wrong(code: Any, said: str) -> str:
    """Why this is not how a command ends ("" when it is)."""
    if "Traceback" in said or "internal error" in said:
        return said
    if code not in EXPECTED:
        return f"exit code {code}: {said}"
    lines = [line for line in said.splitlines() if line.strip()]
    if code and (len(lines) != 1 or not lines[0].startswith("onnxtune: ")):
        return f"exit code {code} with {len(lines)} lines: {said}"
    return ""


# --- the parent ----------------------------------------------------------------------------------------


def run(cases: int, seed: int) -> tuple[Counter[str], list[str], int]:
    """(how many ended how, what was lost, peak bytes of a child)."""
    ended: Counter[str] = Counter()
    lost: list[str] = []
    peak, number = 0, 0
    while number < cases:
        count = min(BATCH, cases - number)
        command = [sys.executable, __file__, "--child", str(number), str(count), "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        now = None
        for line in done.stdout.splitlines():
            item = json.loads(line)
            if "number" in item:
                now = item
            elif "code" in item:
                assert now is not None
                problem = wrong(item["code"], item["said"])
                if problem:
                    lost.append(f"case {now['number']} ({now['what']}): {problem}")
                ended[f"exit {item['code']}"] += 1
                if item["peak"] > max(peak, LIMIT):
                    lost.append(f"case {now['number']} ({now['what']}): {item['peak'] / 1e9:.2f} GB at the peak")
                peak = max(peak, item["peak"])
                number, now = now["number"] + 1, None
            else:
                lost.append(f"case {number - 1}: left {item['left']}")
        if now is not None:  # the child died in this case
            ended[f"died of {_name(-done.returncode)} in-process"] += 1
            problem = _alone(now["number"], seed)
            if problem:
                lost.append(f"case {now['number']} ({now['what']}): {problem}")
            number = now["number"] + 1
        elif done.returncode:
            lost.append(f"a child failed: {done.stderr[-600:]}")
            number += count
    return ended, lost, peak


def _alone(number: int, seed: int) -> str:
    """The same case through the real command in a process of its own."""
    _, data, arguments = case(number, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        command = [sys.executable, "-m", "onnxtune", arguments[0], str(path), *arguments[1:]]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
                env=_environment(),
                preexec_fn=_bound,
            )
        except subprocess.TimeoutExpired:
            return f"hangs for more than {SECONDS} s"
    return wrong(done.returncode, done.stderr)


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}


def _name(number: int) -> str:
    return signal.Signals(number).name if number > 0 else f"exit {-number}"


def summary(cases: int, ended: Counter[str], lost: list[str], peak: int) -> str:
    lines = [f"tried {cases}, survived {cases - len(lost)}, lost {len(lost)}; peak {peak / 1e6:.0f} MB"]
    lines += [f"  {count:6} {how}" for how, count in sorted(ended.items())]
    lines += [f"LOST {re.sub(chr(10), ' | ', x)}" for x in lost]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    tally.option(parser)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.seed)
        return 0
    ended, lost, peak = run(arguments.cases, arguments.seed)
    print(summary(arguments.cases, ended, lost, peak))
    if arguments.record:
        codes = ", ".join(f"{count} {how}" for how, count in sorted(ended.items()))
        tally.record(
            [
                tally.Row(
                    "files, through optimize and bench",
                    arguments.cases,
                    len(lost),
                    f"{codes}; peak {peak / 1e6:.0f} MB",
                )
            ]
        )
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
