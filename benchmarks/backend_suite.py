"""ONNX's own backend test suite through `optimize`: the suite's reference outputs must still come out.

    python -m benchmarks.backend_suite [--only TEXT] [--sample N] [--processes N] [--output FILE.json]

Every model that the onnx package ships (node, simple, pytorch-converted, pytorch-operator, light) is
optimised in three ways, without measuring, so that the clock decides nothing:

- forced: all exact rules, and what they propose stays;
- plain: nothing is forced; the original must come back, whole;
- frozen: the same test with all inputs but the first given as weights, all rules forced. (The single
  operators of the suite take their weights as inputs, which leaves rules little to do.)

A model is skipped, with the reason, where ONNX Runtime itself cannot run the original, where it does not
give the reference with it, or where onnxtune says that it does not support such a model. Tolerances are
the suite's. Exits with 1 on a failure.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import onnxtune
from onnxtune.catalog import catalog
from onnxtune.errors import OnnxtuneError
from onnxtune.proposal import Decline

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
MODES = ("forced", "plain", "frozen")
FOREIGN = ("simplify", "upgrade_opset")
"""Somebody else's code: the gates may refuse what it makes."""
Values = Sequence[Any]
Status = Literal["passed", "skipped", "failed"]


@dataclass(frozen=True, eq=False)
class Test:
    """One model of the suite with inputs and the outputs that belong to them, in the graph's order."""

    name: str
    model: onnx.ModelProto
    data: Sequence[tuple[Values, Values]]
    rtol: float = 1e-3
    atol: float = 1e-7


@dataclass(frozen=True)
class Result:
    name: str
    mode: str
    status: Status
    reason: str = ""
    rules: tuple[str, ...] = ()


# --- the suite -----------------------------------------------------------------------------------------


def models(kinds: Sequence[str]) -> Iterator[Test]:
    """All tests of these kinds, by name."""
    from onnx.backend.test.loader import load_model_tests

    for kind in kinds:
        if kind == "light":
            yield from _light()
            continue
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the suite computes overflows and divisions by zero on purpose
            found = sorted(load_model_tests(kind=kind), key=lambda t: t.name)
        for case in found:
            if case.model is not None:
                data = [(list(i), list(o)) for i, o in case.data_sets or []]
                yield Test(f"{kind}/{case.name}", case.model, data, case.rtol, case.atol)
            elif case.model_dir:
                folder = Path(case.model_dir)
                model = onnx.load(folder / "model.onnx")
                yield Test(f"{kind}/{case.name}", model, list(_stored(folder, model)), case.rtol, case.atol)


def _stored(folder: Path, model: onnx.ModelProto) -> Iterator[tuple[Values, Values]]:
    for data in sorted(folder.glob("test_data_set*")):
        sides = []
        for stem, declared in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(data.glob(f"{stem}_*.pb")))
            sides.append([_read(data / f"{stem}_{i}.pb", declared[i].type) for i in range(count)])
        yield sides[0], sides[1]


def _read(path: Path, declared: onnx.TypeProto) -> Any:
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    if declared.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _light() -> Iterator[Test]:
    """The classic architectures, on the input that the suite's runner makes for them."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path)
        stored = {i.name for i in model.graph.initializer}
        shapes = [
            [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in model.graph.input if v.name not in stored
        ]
        inputs = [(np.arange(np.prod(s)).reshape(s) / np.prod(s)).astype(np.float32) for s in shapes]
        outputs = [
            numpy_helper.to_array(onnx.TensorProto.FromString(p.read_bytes()))
            for p in sorted(folder.glob(f"{path.stem}_output_*.pb"))
        ]
        yield Test(f"light/{path.stem}", model, [(inputs, outputs)])


# --- one test ------------------------------------------------------------------------------------------


def fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {i.name for i in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in stored]


def frozen(test: Test) -> Test | None:
    """The test with all tensor inputs but the first as weights; None where nothing changes."""
    inputs = fed(test.model)
    if len(inputs) < 2 or len(test.data) != 1:
        return None
    values = dict(zip((v.name for v in inputs), test.data[0][0], strict=False))
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    held = [v for v in inputs[1:] if v.type.HasField("tensor_type") and isinstance(values.get(v.name), np.ndarray)]
    held = [v for v in held if values[v.name].dtype.kind not in "OSU"]
    if not held:
        return None
    names = {v.name for v in held}
    for value in held:
        tensor = numpy_helper.from_array(values[value.name], value.name)
        if tensor.data_type != value.type.tensor_type.elem_type:
            return None
        model.graph.initializer.append(tensor)
    rest = [v for v in model.graph.input if v.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(rest)
    model.ir_version = max(model.ir_version, 4)
    left = [values[v.name] for v in fed(model)]
    return Test(test.name, model, [(left, test.data[0][1])], test.rtol, test.atol)


def run(model: onnx.ModelProto, inputs: Values) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    named = [v.name for v in fed(model)]
    return list(session.run(None, dict(zip(named, inputs, strict=True))))


def difference(want: Any, have: Any, rtol: float, atol: float) -> str:
    """Why two outputs are not the same by the suite's measure; "" when they are."""
    if isinstance(want, (list, tuple)) or isinstance(have, (list, tuple)):
        if not isinstance(want, (list, tuple)) or not isinstance(have, (list, tuple)) or len(want) != len(have):
            return "another kind or length"
        return next((d for w, h in zip(want, have, strict=True) if (d := difference(w, h, rtol, atol))), "")
    if want is None or have is None:
        return "" if want is have else "present against absent"
    want, have = np.asarray(want), np.asarray(have)
    if want.shape != have.shape:
        return f"shape {list(have.shape)}, wanted {list(want.shape)}"
    if want.dtype.kind in "OSU":
        return "" if np.array_equal(want.astype(object), have.astype(object)) else "other strings"
    if want.dtype != have.dtype:
        return f"type {have.dtype}, wanted {want.dtype}"
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        near = np.isclose(have.astype(kind), want.astype(kind), rtol=rtol, atol=atol, equal_nan=True)
    return "" if near.all() else f"{int((~near).sum())} of {near.size} values differ"


def compare(want: Values, have: Values, rtol: float, atol: float) -> str:
    if len(want) != len(have):
        return f"{len(have)} outputs, wanted {len(want)}"
    return next(
        (
            f"output {i}: {d}"
            for i, (w, h) in enumerate(zip(want, have, strict=True))
            if (d := difference(w, h, rtol, atol))
        ),
        "",
    )


def check(test: Test, mode: str) -> Result:
    """Optimise one model in one way and compare with the suite's outputs."""
    if mode == "frozen":
        changed = frozen(test)
        if changed is None:
            return Result(test.name, mode, "skipped", "no inputs that could be weights")
        test = changed
    inputs = [i for i, _ in test.data]
    try:
        original = [run(test.model, i) for i in inputs]
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        return Result(test.name, mode, "skipped", f"ONNX Runtime cannot run the original: {_short(error)}")
    for (_, want), have in zip(test.data, original, strict=True):
        if reason := compare(want, have, test.rtol, test.atol):
            return Result(test.name, mode, "skipped", f"ONNX Runtime does not give the reference: {reason}")
    exact = [r.name for r in catalog(plugins=False) if r.card.safety == "exact"]
    shapes = {
        v.name: np.shape(a)
        for v, a in zip(fed(test.model), inputs[0] if inputs else [], strict=False)
        if isinstance(a, np.ndarray) and a.size
    }
    before = test.model.SerializeToString(deterministic=True)
    try:
        result = onnxtune.optimize(
            test.model,
            only=exact if mode != "plain" else (),
            force_rules=exact if mode != "plain" else (),
            exact_only=True,
            plugins=False,
            input_shapes=shapes,
            threads=1,
            providers="cpu",
            cache=False,
            time_budget=0.0,
        )
    except OnnxtuneError as error:
        return Result(test.name, mode, "skipped", f"refused ({type(error).__name__}): {_short(error)}")
    except Exception as error:  # what this script is there to find
        return Result(test.name, mode, "failed", f"{type(error).__name__}: {_short(error)}")
    rules = tuple(result.report.counts())
    if test.model.SerializeToString(deterministic=True) != before:
        return Result(test.name, mode, "failed", "the caller's model was changed", rules)
    return Result(test.name, mode, *_judge(test, result, original, mode), rules)


def _judge(test: Test, result: onnxtune.Result, original: Sequence[Values], mode: str) -> tuple[Status, str]:
    outcomes = result.report.outcomes
    broken = [o for o in outcomes if isinstance(o, Decline) and " failed (" in o.reason and o.rule not in FOREIGN]
    if broken:
        return "failed", f"{broken[0].rule}: {broken[0].reason}"
    wrong = [r for r in result.report.rejected if r.stage == "verify" and r.rewrite.rule not in FOREIGN]
    if wrong:
        return "failed", f"{wrong[0].rewrite.rule} proposed what is wrong: {wrong[0].reason}"
    if mode == "plain" and list(result.model.graph.node) != list(test.model.graph.node):
        return "failed", "without any measurement the original must come back"
    try:
        onnx.checker.check_model(result.model)
        after = [run(result.model, i) for i, _ in test.data]
    except Exception as error:  # see above
        return "failed", f"the result does not run: {_short(error)}"
    for (_, want), first, have in zip(test.data, original, after, strict=True):
        if reason := compare(want, have, test.rtol, test.atol):
            return "failed", f"after {dict(result.report.counts())}: {reason}"
        if any(difference(f, h, 0.0, np.inf) for f, h in zip(first, have, strict=True)):
            return "failed", "another shape or type than from the original"
    return "passed", ""


def _short(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))[:160]


# --- all of them ---------------------------------------------------------------------------------------


def check_all(test: Test, modes: Sequence[str] = MODES) -> list[Result]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [check(test, mode) for mode in modes]


def report(results: Sequence[Result]) -> str:
    lines = []
    for mode in MODES:
        mine = [r for r in results if r.mode == mode]
        if not mine:
            continue
        counts = Counter(r.status for r in mine)
        rewritten = sum(bool(r.rules) for r in mine)
        lines.append(
            f"{mode}: {counts['passed']} passed ({rewritten} rewritten), {counts['skipped']} skipped, "
            f"{counts['failed']} failed"
        )
        reasons = Counter(re.sub(r":.*", "", r.reason) for r in mine if r.status == "skipped")
        lines += [f"  skipped {count}: {reason}" for reason, count in reasons.most_common()]
    lines += [f"FAILED {r.name} ({r.mode}): {r.reason}" for r in results if r.status == "failed"]
    rules = Counter(rule for r in results for rule in r.rules)
    lines.append("rules that rewrote: " + ", ".join(f"{n} {c}" for n, c in rules.most_common()))
    return "\n".join(lines)


def sample(all_tests: Sequence[Test], count: int, seed: int = 0) -> list[Test]:
    """A fixed choice: some of every kind."""
    rng = random.Random(seed)
    kinds = Counter(t.name.partition("/")[0] for t in all_tests)
    chosen: list[Test] = []
    for kind in kinds:
        mine = [t for t in all_tests if t.name.startswith(kind + "/")]
        chosen += rng.sample(mine, min(len(mine), max(1, count // len(kinds))))
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="tests whose name contains this")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--sample", type=int, default=0, help="only so many, a fixed choice")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, help="all results as JSON")
    arguments = parser.parse_args()
    began = time.perf_counter()
    chosen = [t for t in models(arguments.kinds) if arguments.only in t.name]
    if arguments.sample:
        chosen = sample(chosen, arguments.sample)
    results: list[Result] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        pending = [pool.submit(check_all, t, arguments.modes) for t in chosen]
        for i, future in enumerate(pending):
            results += future.result()
            for result in results[-len(arguments.modes) :]:
                if result.status == "failed":
                    print(f"FAILED {result.name} ({result.mode}): {result.reason}", file=sys.stderr, flush=True)
            if i % 200 == 199:
                print(f"{i + 1} of {len(chosen)}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(report(results))
    print(f"{len(chosen)} models, {time.perf_counter() - began:.0f} s")
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(r) for r in results], indent=1))
    return int(any(r.status == "failed" for r in results))


if __name__ == "__main__":
    sys.exit(main())
