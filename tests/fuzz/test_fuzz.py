"""Random networks through the whole of `optimize`: the same function comes out, whatever the clock said.

Every rule of the catalogue takes part by itself. Each test runs for ONNXTUNE_FUZZ_SECONDS (default 18)
from ONNXTUNE_FUZZ_SEED (default 0); longer and elsewhere:

    ONNXTUNE_FUZZ_SECONDS=600 ONNXTUNE_FUZZ_SEED=7 pytest tests/fuzz
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import hypothesis
import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import Seeded, random_model, seeded_models
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto

import onnxtune
import onnxtune.tune.run
from onnxtune.catalog import catalog
from onnxtune.comparison import Comparison
from onnxtune.facts import Facts
from onnxtune.feeds import cases
from onnxtune.localcheck import check_region, resized
from onnxtune.model import Model
from onnxtune.proposal import Decline
from onnxtune.report import Report
from onnxtune.runtime import Target
from onnxtune.sizes import bind
from onnxtune.trial import Timer, Trial
from onnxtune.verify import Verifier

SECONDS = float(os.environ.get("ONNXTUNE_FUZZ_SECONDS", "18"))
SEED = int(os.environ.get("ONNXTUNE_FUZZ_SEED", "0"))
CHUNK = 5
"""Examples between two looks at the clock."""
EXACT = tuple(r.name for r in catalog(plugins=False) if r.card.safety == "exact")
POLICIES = ("auto", "multiple:4", "pow2")
FOREIGN = ("simplify", "upgrade_opset")
"""Somebody else's code, which the gates are there for: it may be refused at verification."""
HARMLESS = ("stands on a rewrite", "Only N can be zero", "Pad should be smaller than kernel", "Invalid input shape")
"""Refusals that say nothing against the rule. (The last two are ONNX Runtime's: its own fusion of a Pad with a
pooling makes pads that it then refuses, of some originals too; and of a map smaller than the kernel its pools
make one pixel, its convolutions an error.)"""
T = TypeVar("T")

pytestmark = pytest.mark.slow


class Drawn:
    """Choices that hypothesis makes and shrinks."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw

    def pick(self, options: Sequence[T]) -> T:
        return options[self._draw(st.integers(0, len(options) - 1))]  # type: ignore[no-any-return]

    def number(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def chance(self, percent: int) -> bool:
        return bool(self._draw(st.integers(0, 99)) >= 100 - percent)  # shrinks towards False


@st.composite
def networks(draw: Callable[[Any], Any]) -> onnx.ModelProto:
    return random_model(Drawn(draw))


def fuzz(check: Callable[[onnx.ModelProto, int], None]) -> None:
    """Checks random networks, and a seed for each, until the time is up."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        run = given(networks(), st.integers(0, 10**6))(check)
        run = settings(
            max_examples=CHUNK, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
        )(run)
        hypothesis.seed(1000 * SEED + number)(run)()
        number += 1


def sizes_of(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    (shape,) = [v.type.tensor_type.shape.dim for v in proto.graph.input if v.name == "x"]
    return {"x": (shape[0].dim_value or 1, shape[1].dim_value, shape[2].dim_value or 9, shape[3].dim_value or 12)}


def runs(proto: onnx.ModelProto, sizes: dict[str, tuple[int, ...]]) -> bool:
    """Can ONNX Runtime run it at all? (It refuses some valid models.)"""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    half = proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.ones(sizes["x"], np.float16 if half else np.float32)})
    except Exception:  # onnxruntime's own classes share no base
        return False
    return True


def judge(before: onnx.ModelProto, after: onnx.ModelProto, report: Report, sizes: dict[str, tuple[int, ...]]) -> None:
    """The promise: the same function and interface, a valid model, and no rule that broke on the way."""
    onnx.checker.check_model(after, full_check=True)
    assert list(after.graph.output) == list(before.graph.output)
    stored = {i.name for i in before.graph.initializer}
    fed = [i for i in before.graph.input if i.name not in stored]
    assert [i for i in after.graph.input if i.name not in stored] == fed
    failed = [o.reason for o in report.outcomes if isinstance(o, Decline) and " failed (" in o.reason]
    assert not failed
    half = before.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    refused = [(r.rewrite.rule, r.rewrite.title, r.reason) for r in report.rejected if r.stage == "verify"]
    wrong = [r for r in refused if r[0] not in FOREIGN and is_wrong(r[2])]
    assert half or not wrong, f"proposed, and wrong: {wrong}"
    model = Model(before)
    bound = bind(model, sizes).sizes
    verifier = Verifier(model, Facts(model, bound), cases(model, bound, seed=77), Target(threads=1), seed=77)
    verdict = verifier.verify(Model(after))
    assert verdict.ok or not is_wrong(verdict.reason), verdict.reason
    feeds = {name: np.empty(shape, np.int8) for name, shape in bound.items()}
    double = check_region(resized(model, feeds), resized(Model(after), feeds), seed=78)
    assert half or double.ok is not False or double.error < 1e-3, f"in float64: {double.reason}"


def is_wrong(reason: str) -> bool:
    """More than rounding that networks with large cancelling sums bring, or a size at which maps are empty."""
    numbers = re.search(r"difference (\S+), tolerance (\S+)\)", reason)
    if numbers:
        return float(numbers[1]) > 10 * float(numbers[2])
    return not any(harmless in reason for harmless in HARMLESS)


def optimized(proto: onnx.ModelProto, seed: int, **options: Any) -> None:
    note(onnx.printer.to_text(proto))
    sizes = sizes_of(proto)
    assume(runs(proto, sizes))
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    result = onnxtune.optimize(
        proto,
        input_shapes=sizes,
        exact_only=True,
        seed=seed,
        settings={"pad_channels": {"policy": POLICIES[seed % len(POLICIES)]}},
        plugins=False,
        threads=1,
        providers="cpu",
        cache=False,
        **options,
    )
    assert proto == copy, "the user's model is not changed"
    note(str(dict(result.report.counts())))
    judge(proto, result.model, result.report, sizes)


def test_every_rule_forced() -> None:
    """Whatever a rule proposes stays, so that wrong rewrites show."""
    fuzz(lambda proto, seed: optimized(proto, seed, force_rules=EXACT, only=EXACT, time_budget=0.0))


def test_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed-ups from a die: all ways through selection, dropping what does not pay, and confirmation."""
    state: dict[str, np.random.Generator] = {}

    class Die(Timer):
        def models(self, *arguments: Any) -> Trial:
            ratio = float(state["rng"].choice([0.7, 1.0, 1.0, 1.2, 1.5, 3.0]))
            one = np.full(4, 1e-3)
            return Trial(Comparison(one * ratio, one, ratio, ratio * 0.999, ratio * 1.001, 0.0, 0.99))

        def latency(self, *arguments: Any) -> float:
            return 1e-3

    monkeypatch.setattr(onnxtune.tune.run, "Timer", Die)

    def check(proto: onnx.ModelProto, seed: int) -> None:
        state["rng"] = np.random.default_rng(seed)
        optimized(proto, seed)

    fuzz(check)


def test_the_graphs_are_of_many_operators() -> None:
    found: Counter[str] = Counter()
    usable = 0
    for proto in seeded_models(120):
        found.update(n.op_type for n in proto.graph.node)
        usable += runs(proto, sizes_of(proto))
    assert len(found) >= 55, sorted(found)
    assert usable >= 110


def test_a_graph_is_its_seed() -> None:
    assert random_model(Seeded(3)) == random_model(Seeded(3))
