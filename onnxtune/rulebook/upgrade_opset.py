"""ONNX's version converter, under the same gates as any other rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import version_converter


def transform(proto: onnx.ModelProto, settings: Mapping[str, Any]) -> onnx.ModelProto | str | None:
    current = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not 0 < current < settings["opset"]:
        return None
    try:
        return version_converter.convert_version(proto, settings["opset"])
    except (RuntimeError, IndexError) as error:  # the second: older versions, at an operator they do not know
        return f"ONNX's version converter cannot convert it: {str(error).splitlines()[0]}"
