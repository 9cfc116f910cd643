"""Memory and start-up time of a model: loaded and run in a fresh process, whose highest use the system counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from onnxtune.bench.child import Request
from onnxtune.bench.process import TIMEOUT, ask
from onnxtune.feeds import Feeds
from onnxtune.model import Model, file_bytes
from onnxtune.runtime import Target, as_file


@dataclass(frozen=True)
class Memory:
    """What loading and running a model takes. Sizes in bytes; None where the system does not tell.

    `model_bytes`: of the model as a file, weights included. `session_seconds`: time to create the session once, in a
    fresh process. `base`: the process with ONNX Runtime loaded but no model yet; `loaded`: with the session; `peak`:
    the most it held while the model was loaded and run. `device`: how much more of the GPU's memory was in use
    after the runs than before the session, by all processes there and with CUDA's own context.
    """

    model_bytes: int
    session_seconds: float
    base: int | None
    loaded: int | None
    peak: int | None
    device: int | None = None

    @property
    def needed(self) -> int | None:
        """What the model adds to the process at its highest."""
        return None if self.peak is None or self.base is None else max(self.peak - self.base, 0)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "needed": self.needed}


def memory(model: Model, feeds: Feeds, target: Target, *, timeout: float = TIMEOUT) -> Memory:
    """Load the model in a fresh process on the target, run it on the feeds, and say what that took.

    Raises ModelError when it cannot be loaded or run there, or when the process dies (mostly: memory runs out) or
    takes longer than `timeout` seconds; ProviderError when the provider does not become active.
    """
    with as_file(model) as path:
        answer = ask("onnxtune.bench.child", Request(str(path), target, feeds), model.name, timeout=timeout)
    return Memory(
        file_bytes(model),
        answer["session_seconds"],
        answer["before"],
        answer["loaded"],
        answer["peak"],
        answer["device"],
    )
