"""Profiles: read from a trace as ONNX Runtime writes it, and of a real model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxtune.model import Model
from onnxtune.profile import NodeTime, by_operator, profile, read
from onnxtune.runtime import Target
from onnxtune.testing import model_of


def event(name: str, start: int, length: int, operator: str = "") -> dict[str, Any]:
    arguments = {"op_name": operator, "provider": "CPUExecutionProvider"} if operator else {}
    category = "Node" if operator else "Session"
    return {"cat": category, "name": name, "ts": start, "dur": length, "ph": "X", "args": arguments}


def inference(start: int, conv: int, relu: int) -> list[dict[str, Any]]:
    """As in a real trace: kernels first, the run that holds them after."""
    return [
        event("c_kernel_time", start + 1, conv, "Conv"),
        event("r_kernel_time", start + conv + 2, relu, "Relu"),
        event("model_run", start, conv + relu + 5),
    ]


def test_median_over_the_last_inferences() -> None:
    trace = [event("session_initialization", 0, 900), *inference(1000, 9000, 9000)]
    for number, conv in enumerate((100, 300, 200)):
        trace += inference(30_000 + 1000 * number, conv, 10)
    found = read(trace, 3)
    assert [n.name for n in found.nodes] == ["c", "r"]
    assert [n.seconds for n in found.nodes] == pytest.approx([200e-6, 10e-6])
    assert found.seconds == pytest.approx(215e-6)


def test_loop_bodies_add_up_and_strangers_are_left_out() -> None:
    trace = [
        event("b_kernel_time", 5, 7, "Add"),
        event("b_kernel_time", 15, 8, "Add"),
        event("model_run", 0, 40),
        event("late_kernel_time", 90, 8, "Add"),
    ]
    assert [(n.name, n.seconds) for n in read(trace, 1).nodes] == [("b", pytest.approx(15e-6))]


def test_an_empty_trace_is_an_empty_profile() -> None:
    assert read([], 5).nodes == ()


def test_by_operator() -> None:
    nodes = [NodeTime("a", "Conv", "CPU", 1.0), NodeTime("b", "Relu", "CPU", 4.0), NodeTime("c", "Conv", "CPU", 2.0)]
    assert by_operator(nodes) == [("Relu", 1, 4.0), ("Conv", 2, 3.0)]


def test_a_real_model() -> None:
    weights = {"w": np.ones((8, 3, 3, 3), np.float32)}
    model = Model(model_of("g (float[N, 3, 20, 20] x) => (float[N, 8, 18, 18] y) { y = Conv (x, w) }", weights))
    found = profile(model, Target(threads=1), {"x": (1, 3, 20, 20)})
    convs = [n for n in found.nodes if n.operator == "Conv"]
    assert len(convs) == 1
    assert 0 < convs[0].seconds <= found.seconds
    assert found.clock == "kernels"
