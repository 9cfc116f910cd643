"""The JSON of a report against the JSON Schema that ships with it: all fields are described, real reports fit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from sample_reports import already_tuned, calibration, enormous, hostile, nothing_to_gain, over_budget, report

import onnxtune
from onnxtune.report import SCHEMA, Kept, Rejected, Report, Rewrite, json_schema
from onnxtune.testing import model_of


def problems(found: Report) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema())
    return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(json.loads(found.to_json()))]


def test_it_is_a_schema_for_this_version() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"] == {"const": SCHEMA}


@pytest.mark.parametrize(("kind", "name"), [(Report, ""), (Rewrite, "rewrite"), (Kept, "kept"), (Rejected, "rejected")])
def test_every_field_is_described(kind: Any, name: str) -> None:
    schema = json_schema()
    part = schema["$defs"][name] if name else schema
    assert {f.name for f in dataclasses.fields(kind)} <= part["properties"].keys()


@pytest.mark.parametrize(
    "found",
    [
        report(),
        report(calibration=calibration()),
        nothing_to_gain(),
        already_tuned(),
        over_budget(),
        hostile(),
        enormous(400),
    ],
    ids=["faster", "calibrated", "nothing", "own result", "over budget", "hostile", "large"],
)
def test_reports_of_every_status(found: Report) -> None:
    assert problems(found) == []


def test_what_is_wrong_is_found() -> None:
    assert problems(dataclasses.replace(report(), status="quick")) != []  # type: ignore[arg-type]
    assert problems(dataclasses.replace(report(), seconds={"fit": "long"})) != []  # type: ignore[dict-item]


def small() -> onnx.ModelProto:
    weights = {"w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    body = "i = Identity (x)  c = Conv (i, w)  y = LRN <size = 5> (c)"
    return model_of(f"g (float[N, 3, 20, 20] x) => (float[N, 8, 18, 18] y) {{ {body} }}", weights)


def test_a_real_report(quick: None) -> None:
    found = onnxtune.optimize(small(), providers="cpu", threads=1, force_rules=["replace_lrn"]).report
    assert problems(found) == []
    assert found.status in ("faster", "forced")
    assert found.profile_before is not None
    assert found.profile_after is not None
    lrn = next(k for k in found.kept if k.rewrite.rule == "replace_lrn")
    assert lrn.before is not None
    assert [n.operator for n in lrn.before.nodes] == ["LRN"]
    assert found.reproduce == "onnxtune.optimize(..., providers='cpu', threads=1, force_rules=['replace_lrn'])"
    assert len(found.source_sha256) == 64
    own = onnxtune.optimize(small(), providers="cpu", threads=1, force_rules=["replace_lrn"]).model
    again = onnxtune.optimize(own, providers="cpu", threads=1, force_rules=["replace_lrn"]).report
    assert again.status == "already tuned"
    assert problems(again) == []
    assert again.profile_before is None


def test_what_does_not_run_under_the_profiler_has_a_note(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise onnxtune.ModelError("net: ONNX Runtime cannot run it (a reason)")

    monkeypatch.setattr("onnxtune.api.profile", refuse)
    found = onnxtune.optimize(small(), providers="cpu", threads=1).report
    assert found.profile_before is None
    assert "where the time goes could not be measured: net: ONNX Runtime cannot run it (a reason)" in found.notes
    assert problems(found) == []
