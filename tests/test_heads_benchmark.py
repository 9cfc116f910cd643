"""The parts of benchmarks/heads.py that need no search."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.heads import DEMO, FORMS, LARGE, cells, entrance, head, markdown, merged, ran
from onnxtune.demo import model_path
from onnxtune.model import load
from onnxtune.runtime import CPU, Session, Target


def test_the_demo_alone_needs_no_folder(tmp_path: Path) -> None:
    found = list(cells(None, large=False, scratch=tmp_path))
    assert [c.name for c in found] == [f"{DEMO} {form}" for form in FORMS]
    assert all(c.path == model_path() for c in found)
    forced = next(c.flags for c in found if c.form == "forced")
    assert forced[forced.index("--force-rules") + 1] == "replace_fc_head"


def test_the_head_alone_gives_what_the_network_gives(tmp_path: Path) -> None:
    model, path = load(model_path()), tmp_path / "head.onnx"
    tensor = entrance(model)
    parameters = head(model_path(), tensor, path)
    whole = onnx.ModelProto()
    whole.CopyFrom(model.proto)
    whole.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    target = Target(CPU, {}, 1)
    x = np.random.default_rng(0).random((1, 1, 32, 32), dtype=np.float32)
    seen = Session(model.with_proto(whole), target).run({"image": x})
    alone = Session(load(path), target).run({tensor: seen[tensor]})
    assert np.allclose(alone["logits"], seen["logits"], atol=1e-5)
    assert 1008 * 127 < parameters < 1.05 * 1008 * 127


def test_a_command_that_fails_is_a_result() -> None:
    done = ran([sys.executable, "-c", "import sys; x = bytearray(10**8); print('no', file=sys.stderr); sys.exit(3)"])
    assert (done.code, done.said) == (3, "no")
    slow = ran([sys.executable, "-c", "import time; x = bytearray(10**8); time.sleep(0.5)"])
    if Path("/proc/self/status").exists():
        assert slow.facts["peak"] > 1e8
    assert slow.facts["wall"] > 0.5


def test_rows_are_replaced_in_a_fixed_order_and_shown() -> None:
    costs = {"wall": 9.0, "cpu": 4.0, "peak": 2e9, "said": ""}
    ratio = {"speedup": 2.0, "low": 1.9, "high": 2.1}
    refused = {"model": DEMO, "form": "gap", "code": 1, "gate": {"estimate": 0.02, "bound": 0.03}, **costs}
    large = {"model": next(iter(LARGE)), "form": "low_rank", "code": 0, "parameters": [100, 20], **costs}
    large |= {"head": {"1": ratio, "2": ratio}, "whole": ratio, "held_out": None, "gate": None}
    kept = {"model": DEMO, "form": "auto", "code": 0, "parameters": [7, 7], "held_out": [0.9, 0.89], **costs}
    rows: list[dict[str, object]] = []
    for row in (large, refused, kept, refused):
        rows = merged(rows, row)
    assert [(r["model"], r["form"]) for r in rows] == [(DEMO, "auto"), (DEMO, "gap"), (large["model"], "low_rank")]
    facts = {"cpu": {"model": "a CPU"}, "versions": {"onnxruntime": "1"}}
    lines = markdown({"machine": facts, "cells": rows}).splitlines()
    assert lines[4].split(" | ")[4:6] == ["1.00 %", "original kept"]
    assert "2.00 % (< 3.00)" in lines[5]
    assert "100 -> 20 (5.0x) | 2.00x [1.90, 2.10], 2.00x [1.90, 2.10] (2 threads)" in lines[6]
    assert len({line.count("|") for line in lines[2:]}) == 1


@pytest.mark.parametrize("name", LARGE)
def test_large_models_are_of_the_suite(name: str) -> None:
    from benchmarks.suite.classics import CLASSICS

    assert name in CLASSICS
