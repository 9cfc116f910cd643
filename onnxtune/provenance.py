"""What onnxtune writes into a model's metadata, and recognising its own work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx

from onnxtune._version import __version__
from onnxtune.mapped import with_weights
from onnxtune.model import Model

PREFIX = "onnxtune."


def read(model: Model) -> dict[str, Any]:
    """onnxtune's metadata as plain values; empty when there is none or it cannot be read."""
    found = {}
    for item in model.proto.metadata_props:
        if item.key.startswith(PREFIX):
            try:
                found[item.key.removeprefix(PREFIX)] = json.loads(item.value)
            except ValueError:
                return {}
    return found


def stamp(model: Model, entries: Mapping[str, Any]) -> Model:
    """The model with onnxtune's metadata (values as JSON); everything else stays."""
    proto = with_weights(model.proto, model.proto.graph.initializer)
    kept = [p for p in proto.metadata_props if not p.key.startswith(PREFIX)]
    copies = [onnx.StringStringEntryProto(key=p.key, value=p.value) for p in kept]
    del proto.metadata_props[:]
    proto.metadata_props.extend(copies)
    values = {"version": __version__, **entries, "graph_sha256": model.graph_sha256()}
    for key, value in values.items():
        proto.metadata_props.add(key=PREFIX + key, value=json.dumps(value, sort_keys=True))
    return model.with_proto(proto)


def is_own_result(model: Model, settings: Mapping[str, Any]) -> bool:
    """Was exactly this graph written by this version of onnxtune under the same settings?"""
    found = read(model)
    return (
        found.get("version") == __version__
        and found.get("settings") == json.loads(json.dumps(settings))
        and found.get("graph_sha256") == model.graph_sha256()
    )
