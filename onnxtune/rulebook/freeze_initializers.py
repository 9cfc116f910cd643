"""An initializer that is also a graph input is only a default value; without the input it is a constant.

Models of IR version 3 have to list all initializers as inputs, so the result is of IR version 4 at least.
The inputs that a caller must feed (those without a default) are untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx


def transform(proto: onnx.ModelProto, settings: Mapping[str, Any]) -> onnx.ModelProto | None:
    stored = {i.name for i in proto.graph.initializer}
    stored |= {i.values.name for i in proto.graph.sparse_initializer}
    if not any(i.name in stored for i in proto.graph.input):
        return None
    frozen = onnx.ModelProto()
    frozen.CopyFrom(proto)
    fed = [i for i in proto.graph.input if i.name not in stored]
    del frozen.graph.input[:]
    frozen.graph.input.extend(fed)
    frozen.ir_version = max(proto.ir_version, 4)
    return frozen
