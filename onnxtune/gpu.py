"""How a model runs on a GPU: settings by one name on the providers that have them, refused by the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from onnxtune.binding import Call, Feeds
from onnxtune.errors import UsageError
from onnxtune.model import Model
from onnxtune.runtime import CPU, CUDA, TENSORRT, Session, Target

SEARCHES = ("exhaustive", "heuristic", "default")
NAMES: Mapping[str, Mapping[str, str]] = {
    "cuda_graph": {CUDA: "enable_cuda_graph", TENSORRT: "trt_cuda_graph_enable"},
    "tf32": {CUDA: "use_tf32"},
    "prefer_nhwc": {CUDA: "prefer_nhwc"},
    "conv_search": {CUDA: "cudnn_conv_algo_search"},
}
"""Each setting's name as an option of the providers that have it."""
FLAGS = {
    "cuda_graph": "--cuda-graph",
    "tf32": "--tf32/--no-tf32",
    "prefer_nhwc": "--prefer-nhwc/--no-prefer-nhwc",
    "conv_search": "--cudnn-conv-algo-search",
}
TF32 = "NVIDIA_TF32_OVERRIDE"
"""Environment variable of NVIDIA's libraries; cuDNN's newer convolutions heed it and not the provider's option."""


@dataclass(frozen=True)
class Wishes:
    """What is asked for; None: as the provider does by itself.

    `cuda_graph`: record the kernels of a run once and replay them. `tf32`: multiply float32 in TensorFloat-32.
    `prefer_nhwc`: convolutions with channels last. `conv_search`: how cuDNN's algorithm is chosen, of SEARCHES.
    """

    cuda_graph: bool = False
    tf32: bool | None = None
    prefer_nhwc: bool | None = None
    conv_search: str | None = None


def refined(target: Target, wishes: Wishes) -> Target:
    """The target with these wishes as options of its provider.

    Raises UsageError when the provider does not have them, or when its options already say otherwise.
    """
    options = dict(target.options)
    for wish in fields(wishes):
        value = getattr(wishes, wish.name)
        if value is None or (wish.name == "cuda_graph" and not value):
            continue
        flag = FLAGS[wish.name]
        name = NAMES[wish.name].get(target.provider)
        if name is None:
            able = " and ".join(p.removesuffix("ExecutionProvider") for p in NAMES[wish.name])
            raise UsageError(f"{flag}: a setting of {able}, not of {target.label}; see --providers")
        text = value.upper() if isinstance(value, str) else str(int(value))
        if options.setdefault(name, text).upper() != text:
            raise UsageError(f"{flag}: --provider-option {name}={options[name]} says otherwise")
    return replace(target, options=options)


def without_graph(target: Target) -> Target:
    """The target without a CUDA graph: replayed, its nodes do not run one by one any more."""
    names = set(NAMES["cuda_graph"].values())
    return replace(target, options={k: v for k, v in target.options.items() if k not in names})


def forbid_tf32() -> None:
    """For the whole process, before its first session: float32 is multiplied as float32."""
    os.environ[TF32] = "0"


def with_copies(target: Target, model: Model, feeds: Feeds) -> Callable[[], Call]:
    """Makes a fresh session at every call, and what runs it end to end: from host arrays to host arrays."""
    return lambda: Session(model, target).runner(feeds, include_copies=True)


def copies_note(target: Target) -> str:
    """What `--include-copies` means on this target, in a sentence."""
    if target.on_gpu:
        return "end to end: inputs come from the host and outputs go back to it in every inference"
    if target.provider == CPU:
        return "--include-copies: on the CPU inputs and outputs are where they are; the figures are the same without it"
    return f"--include-copies: on {target.label} inputs and outputs always come from the host and go back to it"
