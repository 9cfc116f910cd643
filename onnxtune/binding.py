"""Repeated calls of a session on one set of feeds, with tensors that stay on the device (IO binding).

A CUDA graph replays recorded kernels on the same addresses: it needs fixed shapes, inputs and outputs that are
bound once and stay where they are, and a run before that allocates what the kernels need and records them
(ONNX Runtime's documentation of the CUDA provider, "Using CUDA Graphs"; graph number -1: neither record nor replay).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.library import ort

Feeds = Mapping[str, NDArray[Any]]
Call = Callable[[], object]
WITHOUT_GRAPH = "-1"
GRAPH = "1"


def direct(session: Any, feeds: Feeds) -> Call:
    """A call that feeds host arrays and gets host arrays: on a GPU both copies are part of it."""
    held = dict(feeds)
    names = [o.name for o in session.get_outputs()]
    return lambda: session.run(names, held)


def bind(session: Any, feeds: Feeds, device: str, device_id: int = 0) -> Call:
    """A call that runs the session with device-resident inputs and outputs, and waits for the device."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort().OrtValue.ortvalue_from_numpy(value, device, device_id))
    binding.synchronize_inputs()
    for output in session.get_outputs():
        binding.bind_output(output.name, device, device_id)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def bind_graph(session: Any, feeds: Feeds, device: str, device_id: int = 0) -> Call:
    """The same with outputs at fixed addresses, recorded as a CUDA graph: later calls replay it."""
    return _Graph(session, feeds, device, device_id).run


def bind_graph_with_copies(session: Any, feeds: Feeds, device: str, device_id: int = 0) -> Call:
    """The same end to end: every call first copies the feeds from the host, and the outputs back to it."""
    graph = _Graph(session, feeds, device, device_id)

    def call() -> list[NDArray[Any]]:
        for name, value in feeds.items():
            graph.inputs[name].update_inplace(np.ascontiguousarray(value))
        graph.run()
        return [value.numpy() for value in graph.outputs]

    return call


class _Graph:
    """A session with inputs and outputs at fixed addresses, recorded as a CUDA graph."""

    def __init__(self, session: Any, feeds: Feeds, device: str, device_id: int) -> None:
        values = session.run(None, dict(feeds), run_options(WITHOUT_GRAPH))
        place = ort().OrtValue
        empty = place.ortvalue_from_shape_and_type
        self._session, self._options = session, run_options(GRAPH)
        self._binding = session.io_binding()
        self.inputs = {n: place.ortvalue_from_numpy(v, device, device_id) for n, v in feeds.items()}
        self.outputs = [empty(list(v.shape), v.dtype, device, device_id) for v in map(np.asarray, values)]
        for name, held in self.inputs.items():
            self._binding.bind_ortvalue_input(name, held)
        for output, held in zip(session.get_outputs(), self.outputs, strict=True):
            self._binding.bind_ortvalue_output(output.name, held)
        self._binding.synchronize_inputs()
        self.run()  # allocates and records
        self.run()  # the first replay

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()


def run_options(graph: str) -> Any:
    """Options of one run that belongs to the CUDA graph of this number."""
    options = ort().RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
