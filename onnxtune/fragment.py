"""The builder with which a rule writes its replacement: `new.Conv(x, w, b, pads=[1, 1, 1, 1])`.

Tensors are their names. Arrays become new initializers. Nodes are held as onnx-graphsurgeon nodes,
which turns attributes, arrays and names into ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.later import Later, is_large
from onnxtune.proposal import Fragment


class Builder:
    """Collects the nodes of one replacement.

    `new.<Operator>(*inputs, outputs=1, domain="", **attributes)` adds a node and returns the name of
    its output (a tuple of names when `outputs` > 1). An input is a tensor name, an array (stored as a
    new initializer; a Later is computed when it is written) or None (absent optional input).
    Attributes that are None are left out.
    """

    def __init__(self, stem: str, taken: Collection[str], opset: int) -> None:
        import onnx_graphsurgeon as gs

        self._gs = gs
        self._stem = stem
        self._taken = taken
        self._count = 0
        self._made: set[str] = set()
        self._tensors: dict[str, Any] = {}
        self._outside: dict[str, Any] = {}
        self._nodes: list[Any] = []
        self._later: dict[str, Later] = {}
        self._large: dict[str, NDArray[Any]] = {}  # not in graphsurgeon's nodes, whose cycles are freed late
        self._copied: dict[str, list[onnx.AttributeProto]] = {}
        self.opset = opset

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_") or not op_type[0].isupper():
            raise AttributeError(op_type)

        def add(
            *inputs: str | NDArray[Any] | Later | None, outputs: int = 1, domain: str = "", **attributes: Any
        ) -> str | tuple[str, ...]:
            names = tuple(self._fresh(op_type.lower()) for _ in range(outputs))
            self._append(op_type, names, inputs, domain, attributes)
            return names[0] if outputs == 1 else names

        return add

    def constant(self, values: NDArray[Any], hint: str = "weight") -> str:
        """Store an array as a new initializer; returns its name."""
        name = self._fresh(hint)
        values = np.asarray(values, order="C")
        if is_large(values):
            self._large[name], values = values, np.zeros(0, np.int8)
        self._tensors[name] = self._gs.Constant(name, values)
        return name

    def later(self, values: Later, hint: str = "weight") -> str:
        """Store an array that is computed when it is written, as a new initializer; returns its name."""
        name = self._fresh(hint)
        self._tensors[name] = self._gs.Constant(name, np.zeros(0, np.int8))
        self._later[name] = values.named(name)
        return name

    def reduce(self, op_type: str, x: str, axes: Sequence[int], *, keepdims: bool = True) -> str:
        """ReduceMean, ReduceSum... whose axes are an attribute or an input, as the opset wants it."""
        as_input = self.opset >= (13 if op_type == "ReduceSum" else 18)
        if as_input:
            return str(getattr(self, op_type)(x, np.array(axes, np.int64), keepdims=int(keepdims)))
        return str(getattr(self, op_type)(x, axes=list(axes), keepdims=int(keepdims)))

    def squeeze(self, x: str, axes: Sequence[int]) -> str:
        """Drop axes of size 1; the axes are an attribute or an input as the opset wants it."""
        return self._axes_op("Squeeze", x, axes)

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        """Insert axes of size 1, see `squeeze`."""
        return self._axes_op("Unsqueeze", x, axes)

    def _axes_op(self, op_type: str, x: str, axes: Sequence[int]) -> str:
        if self.opset >= 13:
            return str(getattr(self, op_type)(x, np.array(axes, np.int64)))
        return str(getattr(self, op_type)(x, axes=list(axes)))

    def pad(self, x: str, pads: Sequence[int]) -> str:
        """Zero padding, begins then ends; the pads are an attribute or an input as the opset wants it."""
        if self.opset >= 11:
            return str(self.Pad(x, np.array(pads, np.int64)))
        return str(self.Pad(x, pads=list(pads)))

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        """x[start:end] along one axis."""
        if self.opset >= 10:
            ends = (np.array([v], np.int64) for v in (start, end, axis))
            return str(self.Slice(x, *ends))
        return str(self.Slice(x, starts=[start], ends=[end], axes=[axis]))

    def copy(
        self, node: onnx.NodeProto, inputs: Sequence[str | NDArray[Any] | Later | None], **changed: Any
    ) -> tuple[str, ...]:
        """The same operator on other inputs, attributes `changed` (None: left out); returns all output names."""
        names = tuple(self._fresh(node.op_type.lower()) if o else "" for o in node.output)
        kept = [a for a in node.attribute if a.name not in changed]
        self._copied[self._append(node.op_type, names, inputs, node.domain, changed)] = kept
        return names

    def finish(self, outputs: Mapping[str, str]) -> Fragment:
        """Close the fragment. `outputs` maps each visible tensor of the region to its new source."""
        aliases = {old: new for old, new in outputs.items() if new not in self._tensors}
        renames: dict[str, str] = {}
        for old, new in outputs.items():
            if new not in self._tensors:
                continue
            if new in renames or isinstance(self._tensors[new], self._gs.Constant):
                self._append("Identity", (copy := self._fresh("identity"),), (new,), "", {})
                renames[copy] = old
            else:
                renames[new] = old
        for new, old in renames.items():
            self._tensors[new].name = old
        graph = self._gs.Graph(nodes=self._nodes, opset=self.opset)
        exported = self._gs.export_onnx(graph, do_type_check=False).graph
        for node in exported.node:
            if node.name in self._copied:
                node.attribute.extend(self._copied[node.name])
        used = {i for n in exported.node for i in n.input} | set(aliases.values())
        stored: dict[str, onnx.TensorProto | Later] = {i.name: i for i in exported.initializer if i.name in used}
        stored |= {name: w for name, w in self._later.items() if name in used}
        stored |= {name: numpy_helper.from_array(a, name) for name, a in self._large.items() if name in used}
        weights = tuple(stored.values())
        return Fragment(tuple(exported.node), weights, aliases)

    def _append(
        self,
        op_type: str,
        names: Sequence[str],
        inputs: Sequence[str | NDArray[Any] | Later | None],
        domain: str,
        attributes: Mapping[str, Any],
    ) -> str:
        sources = [self._tensor(i) for i in inputs]
        while sources and sources[-1].name == "":
            sources.pop()
        outputs = [self._tensor(n) for n in names]
        kept = {k: v for k, v in attributes.items() if v is not None}
        name = self._fresh(op_type)
        node = self._gs.Node(op=op_type, name=name, attrs=kept, inputs=sources, outputs=outputs)
        node.domain = domain or None
        self._nodes.append(node)
        return name

    def _tensor(self, source: str | NDArray[Any] | Later | None) -> Any:
        if isinstance(source, Later):
            source = self.later(source)
        if isinstance(source, (np.ndarray, np.generic)):
            source = self.constant(np.asarray(source))
        if not source:
            return self._gs.Variable.empty()
        known = self._tensors if source in self._made else self._outside
        if source not in known:
            known[source] = self._gs.Variable(source)
        return known[source]

    def _fresh(self, hint: str) -> str:
        while True:
            name = f"{self._stem}/{hint}_{self._count}"
            self._count += 1
            if name not in self._taken:
                self._made.add(name)
                return name
