"""Other people's rewrites under our gates: onnxscript rules and plain ModelProto callables."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import onnx

from onnxtune.errors import RuleError
from onnxtune.rule import Card, Rule


def adopt(name: str, target: Any, package: str) -> Rule:
    """Wrap an onnxscript RewriteRule or RewriteRuleSet, or a `ModelProto -> ModelProto` callable.

    The result is a rule on the whole model: verified, measured and reported like any other.
    Raises RuleError when the target is neither.
    """
    kind = type(target).__name__
    if kind in ("RewriteRule", "RewriteRuleSet"):
        what, change = f"onnxscript {kind}", _onnxscript(target)
    elif callable(target):
        what, change = "ModelProto -> ModelProto callable", target
    else:
        raise RuleError(f"plug-in {package}: '{name}' is a {kind}; expected a module, a rewrite rule or a callable")
    summary = (target.__doc__ or "").strip().partition("\n")[0] or f"{what} from {package}"
    card = Card(name, f"X-{name}", summary, f"Offered by the package {package}.", order=90, source=package)
    return Rule(card, "model", _transform(change))


def _onnxscript(rules: Any) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        from onnxscript import rewriter

        chosen = rules if type(rules).__name__ == "RewriteRuleSet" else [rules]
        return rewriter.rewrite(proto, pattern_rewrite_rules=chosen)

    return change


def _transform(
    change: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> Callable[[onnx.ModelProto, Mapping[str, Any]], onnx.ModelProto | None]:
    def transform(proto: onnx.ModelProto, settings: Mapping[str, Any]) -> onnx.ModelProto | None:
        del settings  # foreign rewrites have none
        before = copy.deepcopy(proto)
        after = change(before)
        if not isinstance(after, onnx.ModelProto):
            raise TypeError(f"it returned {type(after).__name__}, not a ModelProto")
        same = after.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
        return None if same else after

    return transform
