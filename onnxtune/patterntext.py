"""A pattern as a rule's TOML states it: ONNX text and what holds beside it. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from onnxtune.errors import RuleError, one_line

if TYPE_CHECKING:
    import onnx

    from onnxtune.facts import Node


@dataclass(frozen=True)
class Pattern:
    """What to look for. `outputs` are the tensors that stay visible; all others made inside must be private."""

    text: str
    constants: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    optional_nodes: tuple[str, ...] = ()
    any_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def function(self) -> onnx.FunctionProto:
        import onnx
        from onnx import parser

        header = f'<opset_import: ["": {onnx.defs.onnx_opset_version()}], domain: "pattern"> '
        try:
            return parser.parse_function(header + self.text)
        except Exception as error:  # onnx.parser raises its own ParseError, which is no ValueError
            raise RuleError(f"pattern cannot be parsed: {one_line(error)}") from None

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        from onnxtune.facts import Node

        return tuple(Node(n, i) for i, n in enumerate(self.function.node))

    @cached_property
    def makers(self) -> Mapping[str, Node]:
        return {o: n for n in self.nodes for o in n.outputs}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.function.output)

    def validate(self) -> None:
        """Raise RuleError when the named tensors do not occur in the text."""
        inputs, made = set(self.function.input), set(self.makers)
        for key, names, known in (
            ("constants", self.constants, inputs),
            ("optional", self.optional, inputs),
            ("optional_nodes", self.optional_nodes, made),
            ("any_of", tuple(self.any_of), {n.op_type for n in self.nodes}),
        ):
            unknown = set(names) - known
            if unknown:
                raise RuleError(f"pattern {key}: '{min(unknown)}' does not occur in the pattern")
