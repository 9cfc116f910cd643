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
        """Raise RuleError when the text is no whole pattern, or when named tensors do not occur in it."""
        inputs, made = set(self.function.input), set(self.makers)
        self._validate_text(inputs)
        for key, names, known in (
            ("constants", self.constants, inputs),
            ("optional", self.optional, inputs),
            ("optional_nodes", self.optional_nodes, made),
            ("any_of", tuple(self.any_of), {n.op_type for n in self.nodes}),
        ):
            unknown = set(names) - known
            if unknown:
                raise RuleError(f"pattern {key}: '{min(unknown)}' does not occur in the pattern")

    def _validate_text(self, inputs: set[str]) -> None:
        if not self.outputs:
            raise RuleError("pattern has no outputs")
        reached: set[str] = set()
        wave = list(self.outputs)
        while wave:
            name = wave.pop()
            if name in self.makers and name not in reached:
                wave += [i for i in self.makers[name].inputs if i]
            elif name in self.outputs and name not in self.makers:
                raise RuleError(f"pattern output '{name}' is made by no node")
            elif name not in self.makers and name not in inputs:
                raise RuleError(f"pattern tensor '{name}' is neither an input nor made by a node")
            reached.add(name)
        for node in self.nodes:
            if reached.isdisjoint(node.outputs):
                raise RuleError(f"pattern: no output depends on '{node.key}'; the matcher would not look for it")
        visible = set(self.optional_nodes) & set(self.outputs)
        if visible:
            raise RuleError(f"pattern optional_nodes: '{min(visible)}' is an output; without its node there is none")
