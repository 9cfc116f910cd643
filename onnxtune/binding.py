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
Call = Callable[[], None]
WITHOUT_GRAPH = "-1"
GRAPH = "1"


def direct(session: Any, feeds: Feeds) -> Call:
    """A call that feeds host arrays and gets host arrays: on a GPU both copies are part of it."""
    held = dict(feeds)
    names = [o.name for o in session.get_outputs()]
    return lambda: session.run(names, held)


def bind(session: Any, feeds: Feeds, device: str, device_id: int = 0) -> Call:
    """A call that runs the session with device-resident inputs and outputs, and waits for the device."""
    binding = _with_inputs(session, feeds, device, device_id)
    for output in session.get_outputs():
        binding.bind_output(output.name, device, device_id)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def bind_graph(session: Any, feeds: Feeds, device: str, device_id: int = 0) -> Call:
    """The same with outputs at fixed addresses, recorded as a CUDA graph: later calls replay it."""
    outputs = session.run(None, dict(feeds), run_options(WITHOUT_GRAPH))
    binding = _with_inputs(session, feeds, device, device_id)
    place = ort().OrtValue.ortvalue_from_shape_and_type
    for output, value in zip(session.get_outputs(), map(np.asarray, outputs), strict=True):
        held = place(list(value.shape), value.dtype, device, device_id)
        binding.bind_ortvalue_output(output.name, held)
    options = run_options(GRAPH)

    def call() -> None:
        session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()

    call()  # allocates and records
    call()  # the first replay
    return call


def run_options(graph: str) -> Any:
    """Options of one run that belongs to the CUDA graph of this number."""
    options = ort().RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


def _with_inputs(session: Any, feeds: Feeds, device: str, device_id: int) -> Any:
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort().OrtValue.ortvalue_from_numpy(value, device, device_id))
    binding.synchronize_inputs()
    return binding
