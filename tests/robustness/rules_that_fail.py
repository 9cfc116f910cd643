"""Rules of a user that raise, return rubbish, never end or bring the process down: the rest goes on.

    python tests/robustness/rules_that_fail.py

Each is written into a folder of its own (`--rules DIR`), as a user would, and asked together with a rule of ours for
whose rewrite there is a place. That rewrite must be kept, the caller's model unchanged, and the report must say what
failed and where it comes from.

Prints tried, survived and lost. Exits with 1 when any was lost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import tally

import onnxtune
from onnxtune.proposal import Decline
from onnxtune.report import Rejected
from onnxtune.testing import model_of

RULE_SECONDS, SECONDS = 1.0, 30.0
"""How long a rule may take in these runs, and a run with it."""
GOOD = "replace_lrn"

CARD = 'name = "bad"\ncode = "U1"\nsummary = "s"\nwhy = "w"\norder = 1\n'
HEAD = """
import os, signal, numpy as np, onnx
from onnxtune.later import Later
from onnxtune.proposal import Decline, Fragment, Proposal

def whole(facts, node=None, **changes):
    node = node or facts.nodes[0]
    new = onnx.helper.make_node("Identity", [node.inputs[0]], [node.outputs[0]])
    return Proposal(**{**dict(rule="bad", title="t", removes=frozenset({node.key}), fragment=Fragment((new,))), **changes})

def conv(facts):
    return next(n for n in facts.nodes if n.op_type == "Conv")

def with_weight(facts, weight):
    old = conv(facts)
    new = onnx.NodeProto()
    new.CopyFrom(old.proto)
    new.input[1] = "bad-weight"
    return whole(facts, old, fragment=Fragment((new,), (weight,)))

"""
BAD: dict[str, tuple[str, str]] = {
    # name: (body of the Python file, what the reason must say)
    "raises": ("def propose(facts, settings): raise KeyError('oops')", "KeyError"),
    "raises late": ("def propose(facts, settings):\n  yield Decline('bad', '', 'no')\n  raise ValueError('oops')", "oops"),
    "raises what is no Exception": ("def propose(facts, settings): raise SystemExit(9)", "SystemExit"),
    "recurses for ever": ("def propose(facts, settings): return propose(facts, settings)", "RecursionError"),
    "returns None": ("def propose(facts, settings): return None", "TypeError"),
    "returns a number": ("def propose(facts, settings): return 7", "TypeError"),
    "yields words": ("def propose(facts, settings): yield 'rubbish'", "neither a Proposal nor a Decline"),
    "a decline without words": ("def propose(facts, settings): yield Decline('bad', 3, None)", "neither a Proposal"),
    "removes nothing": ("def propose(facts, settings): yield whole(facts, removes=frozenset())", "removes no node"),
    "removes what is not there": ("def propose(facts, settings): yield whole(facts, removes=frozenset({'?'}))", "which no node makes"),
    "a list to remove": ("def propose(facts, settings): yield whole(facts, removes=['a'])", "no set of nodes"),
    "no fragment": ("def propose(facts, settings): yield whole(facts, fragment=None)", "no fragment"),
    "a fragment of numbers": ("def propose(facts, settings): yield whole(facts, fragment=Fragment((1, 2)))", "no node"),
    "a node without output": ("def propose(facts, settings): yield whole(facts, fragment=Fragment((onnx.NodeProto(),)))", "no node"),
    "weights of rubbish": ("def propose(facts, settings): yield with_weight(facts, 'w')", "no weight"),
    "details that are no data": ("def propose(facts, settings): yield whole(facts, details={'a': object()})", "plain data"),
    "details that are no numbers": ("def propose(facts, settings): yield whole(facts, details={'a': float('nan')})", "plain data"),
    "a title that is a number": ("def propose(facts, settings): yield whole(facts, title=3)", "no text"),
    "reads what is not there": (
        ("def propose(facts, settings):\n  n = facts.nodes[0]\n  new = onnx.helper.make_node('Relu', ['?'], [n.outputs[0]])\n"
        "  yield whole(facts, n, fragment=Fragment((new,)))"), "nothing makes"),
    "an unknown operator": (
        ("def propose(facts, settings):\n  n = facts.nodes[0]\n  new = onnx.helper.make_node('Nonsense', [n.inputs[0]], [n.outputs[0]])\n"
        "  yield whole(facts, n, fragment=Fragment((new,)))"), ""),
    "another function": ("def propose(facts, settings): yield with_weight(facts, onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), 'bad-weight'))", ""),
    "another shape": ("def propose(facts, settings): yield with_weight(facts, onnx.numpy_helper.from_array(np.ones((7, 3, 3, 3), np.float32), 'bad-weight'))", ""),
    "a weight that raises": ("def fail(): raise RuntimeError('late')\ndef propose(facts, settings): yield with_weight(facts, Later((8, 3, 3, 3), np.dtype('f4'), fail, 'bad-weight'))", "late"),
    "a weight of another shape": ("def propose(facts, settings): yield with_weight(facts, Later((8, 3, 3, 3), np.dtype('f4'), lambda: np.ones(3, 'f4'), 'bad-weight'))", "promised"),
    "a cycle": (
        ("def propose(facts, settings):\n  a = facts.nodes[0]\n  b = facts.consumers(a.outputs[0])[0]\n"
        "  new = onnx.helper.make_node('Relu', [b.outputs[0]], [a.outputs[0]])\n  yield whole(facts, a, fragment=Fragment((new,)))"), ""),
    "loops for ever": ("def propose(facts, settings):\n  while True: pass", "longer than"),
    "loops and catches": ("def propose(facts, settings):\n  while True:\n    try:\n      sum(range(1000))\n    except Exception: pass", "longer than"),
    "yields for ever": ("def propose(facts, settings):\n  while True: yield Decline('bad', '', 'no')", "longer than"),
    "a model rule that raises": ("def transform(proto, settings): raise KeyError('oops')", "KeyError"),
    "a model rule that returns a number": ("def transform(proto, settings): return 7", "neither a ModelProto"),
    "a model rule that returns nothing": ("def transform(proto, settings): return onnx.ModelProto()", ""),
    "a model rule that drops an output": ("def transform(proto, settings):\n  p = onnx.ModelProto(); p.CopyFrom(proto); del p.graph.output[:]; return p", "inputs or outputs"),
    "a model rule that edits what it got": ("def transform(proto, settings):\n  del proto.graph.node[1:]\n  return None", ""),
    "a model rule that loops for ever": ("def transform(proto, settings):\n  while True: pass", "longer than"),
}  # fmt: skip
DIES: dict[str, tuple[str, str]] = {
    "a rule that aborts": ("def propose(facts, settings): os.abort()", "died of SIGABRT"),
    "a rule with a wild pointer": ("def propose(facts, settings): os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
    "a model rule that aborts": ("def transform(proto, settings): os.abort()", "died of SIGABRT"),
    "a candidate that ONNX Runtime dies of": (
        # Stands for a provider that aborts: loading any model with this tensor in it ends the process.
        ("import onnxruntime\nreal = onnxruntime.InferenceSession\n"
        "def session(source, *a, **k):\n  if isinstance(source, bytes) and b'bad-weight' in source: os.abort()\n  return real(source, *a, **k)\n"
        "onnxruntime.InferenceSession = session\n"
        "def propose(facts, settings):\n"
        "  if not facts.exists('bad-weight'): yield with_weight(facts, onnx.numpy_helper.from_array(facts.constant(conv(facts).inputs[1]), 'bad-weight'))"),
        "it dies of SIGABRT"),
    "the original that ONNX Runtime dies of": (
        ("import onnxruntime\nreal = onnxruntime.InferenceSession\n"
        "def session(source, *a, **k):\n  if isinstance(source, bytes) and b'probe' not in source: os.abort()\n  return real(source, *a, **k)\n"
        "onnxruntime.InferenceSession = session\ndef propose(facts, settings): return []"),
        "exit 3"),
}  # fmt: skip


def write(folder: Path, body: str) -> Path:
    """The rule as two files in a new folder."""
    folder.mkdir(parents=True)
    (folder / "bad.toml").write_text(CARD, encoding="utf-8")
    (folder / "bad.py").write_text(HEAD + body + "\n", encoding="utf-8")
    return folder


def network() -> onnx.ModelProto:
    """A convolution with an LRN behind it: replace_lrn fires."""
    text = (
        "g (float[N, 3, 12, 12] x) => (float[N, 8, 10, 10] y) { c = Conv (x, w)  r = Relu (c)  y = LRN <size = 5> (r) }"
    )
    return model_of(text, {"w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)})


def failing(name: str, place: Path) -> str:
    """What is wrong with how a rule of BAD ended ("" nothing)."""
    body, says = BAD[name]
    folder, proto = write(place / "rules", body), network()
    before = proto.SerializeToString(deterministic=True)
    began = time.monotonic()
    with patch("onnxtune.propose.RULE_SECONDS", RULE_SECONDS):
        report = onnxtune.optimize(
            proto, rules=[folder], only=("bad", GOOD), force_rules=("bad", GOOD), providers="cpu",
            threads=1, cache=False, plugins=False,
        ).report  # fmt: skip
    if time.monotonic() - began >= SECONDS:
        return f"it took {time.monotonic() - began:.0f} s"
    if proto.SerializeToString(deterministic=True) != before:
        return "the caller's model was changed"
    if [k.rewrite.rule for k in report.kept] != [GOOD]:
        return f"kept: {[k.rewrite.rule for k in report.kept]}"
    report.to_json()
    reasons = [o.reason for o in report.outcomes if isinstance(o, Decline) and o.rule == "bad"]
    reasons += [o.reason for o in report.outcomes if isinstance(o, Rejected) and o.rewrite.rule == "bad"]
    if says and not any(says in r for r in reasons):
        return f"the report says {reasons}, not '{says}'"
    unnamed = [r for r in reasons if "failed (" in r and str(folder) not in r]
    return f"the report does not say whose rule it is: {unnamed}" if unnamed else ""


def dying(name: str, place: Path) -> str:
    """What is wrong with how the command ended with a rule of DIES ("" nothing)."""
    body, says = DIES[name]
    folder, model, report = write(place / "rules", body), place / "model.onnx", place / "report.json"
    onnx.save(network(), model)
    command = [sys.executable, "-m", "onnxtune", "optimize", str(model), "--rules", str(folder), "--json", str(report)]
    command += ["--only", f"bad,{GOOD}", "--force-rules", f"{GOOD},bad", "--providers", "cpu", "--threads", "1"]
    command += ["--no-plugins", "--time-budget", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    out = model.with_suffix(".tuned.onnx")
    if says == "exit 3":
        well = done.returncode == 3 and "dies of SIGABRT" in done.stderr and not out.exists()
    else:
        well = done.returncode == 0 and "starting again without it" in done.stderr
        well = well and "LRN" not in {n.op_type for n in onnx.load(out).graph.node}
        well = well and any(says in str(o.get("reason")) for o in json.loads(report.read_text())["outcomes"])
    return "" if well and "Traceback" not in done.stderr else f"exit code {done.returncode}: {done.stderr}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tally.option(parser)
    arguments = parser.parse_args()
    rows = []
    for what, names, judge in (
        ("rules that fail", BAD, failing),
        ("rules and candidates that bring the process down", DIES, dying),
    ):
        lost = []
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                problem = judge(name, Path(folder))
            if problem:
                lost.append(f"LOST {name}: {problem}")
        rows.append(tally.Row(what, len(names), len(lost)))
        print(rows[-1], *lost, sep="\n", flush=True)
    if arguments.record:
        tally.record(rows)
    return int(any(r.lost for r in rows))


if __name__ == "__main__":
    sys.exit(main())
