"""Timing a proposal where its surroundings cannot be cut out of the model and run."""

from __future__ import annotations

import numpy as np
import pytest

from onnxtune import trial
from onnxtune.cache import Cache
from onnxtune.facts import Facts
from onnxtune.measure import Plan
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.runtime import Target
from onnxtune.sizes import bind
from onnxtune.testing import model_of, said_by

QUICK = Plan(warmup=0.0, rounds=2, duration=0.01)
LAYERS = "m = MatMul (f, w)  y = Add (m, b)"
WEIGHTS = {"w": np.ones((12, 5), np.float32), "b": np.ones(5, np.float32), "k": np.array([-1])}


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Shape <start = 0, end = 1> (x)  t = Concat <axis = 0> (s, k)  f = Reshape (x, t)",
        "f = Flatten (x)",
    ],
)
def test_a_neighbour_that_needs_values_from_outside(nodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENABLING_PLAN", "REGION_PLAN"):
        monkeypatch.setattr(trial, name, QUICK)
    text = f"g (float[N, 3, 2, 2] x) => (float[P, 5] y) {{ {nodes}  {LAYERS} }}"
    model = Model(model_of(text, {n: w for n, w in WEIGHTS.items() if n in "wb" or " k)" in nodes}))
    facts = Facts(model, bind(model).sizes)
    (proposal,) = (p for p in said_by("fold_batchnorm", model.proto) if isinstance(p, Proposal))
    result = trial.Timer(Target(threads=1), Cache(None)).region(facts, proposal)
    assert result.comparison is not None, result.problem
