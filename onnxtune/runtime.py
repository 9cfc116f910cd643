"""ONNX Runtime sessions: which provider really works here, and running a model on it.

A requested provider that is not active is an error, never a silent fallback to the CPU. ONNX Runtime's
own messages are kept out of the terminal; what matters of them is raised as an onnxtune error.
"""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from onnxtune.binding import WITHOUT_GRAPH, Call, bind, bind_graph, bind_graph_with_copies, direct, run_options
from onnxtune.crashes import CrashError, model_key, noted, trying
from onnxtune.devices import cpu_name, gpu_name, granted_cores
from onnxtune.errors import ModelError, ProviderError, UsageError
from onnxtune.library import ort, plain, stderr_to_nowhere
from onnxtune.mapped import SMALLEST, apart, beside, embedded, mapped_bytes, placed, scratch
from onnxtune.model import PROTOBUF_LIMIT, Model, file_bytes

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Level = Literal["disable", "basic", "extended", "layout", "all"]

LOG = logging.getLogger(__name__)
RUN_SECONDS = 300.0
"""Longest that one inference may take when a model is tried: a Loop may be told to run for ever."""
IN_MEMORY = 64 * 2**20
"""Bytes up to which a model is handed to ONNX Runtime in memory."""
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
ON = ("1", "true")
ALIASES = {
    "cpu": CPU,
    "cuda": CUDA,
    "gpu": CUDA,
    "trt": TENSORRT,
    "tensorrt": TENSORRT,
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
}
REMEDIES = {
    CUDA: "pip install 'onnxtune[cuda]' brings the CUDA and cuDNN libraries; the NVIDIA driver must be installed",
    TENSORRT: "pip install tensorrt, and put its libraries on the library path",
}


@dataclass(frozen=True)
class Target:
    """Where a model runs: an execution provider with its options, and the CPU threads of a session.

    `threads` 0 leaves the choice to ONNX Runtime (one per physical core).
    """

    provider: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0

    @property
    def label(self) -> str:
        return self.provider.removesuffix("ExecutionProvider")

    @property
    def on_gpu(self) -> bool:
        return self.provider in (CUDA, TENSORRT)

    @property
    def device(self) -> str:
        """Name of the device that does the work."""
        return gpu_name(self.device_id) if self.on_gpu else cpu_name()

    @property
    def device_id(self) -> int:
        """CUDA's number of the GPU."""
        return int(self.options.get("device_id", "0"))

    @property
    def cuda_graph(self) -> bool:
        """Are runs recorded and replayed as a CUDA graph?"""
        asked = self.options.get({CUDA: "enable_cuda_graph", TENSORRT: "trt_cuda_graph_enable"}.get(self.provider, ""))
        return str(asked).lower() in ON


@dataclass(frozen=True)
class Settings:
    """How a session works, beside its provider and threads. The defaults are ONNX Runtime's own.

    `parallel`: independent nodes at the same time; `arena`: memory is kept for the next run; `spinning`: idle threads
    of a run wait busily; `profile`: prefix of the file that ONNX Runtime's profiler writes ("": none); `optimized`:
    file for the graph as ONNX Runtime runs it ("": none); its larger weights go into a file beside it.
    """

    level: Level = "all"
    parallel: bool = False
    arena: bool = True
    spinning: bool = True
    profile: str = ""
    optimized: str = ""


class EndlessError(ModelError):
    """One inference takes longer than RUN_SECONDS."""


class Session:
    """A model loaded into ONNX Runtime on a target.

    Raises ModelError when ONNX Runtime refuses the model, ProviderError when the target's provider
    does not become active.
    """

    def __init__(self, model: Model, target: Target, level: Level = "all", settings: Settings | None = None) -> None:
        self.target = target
        self.name = model.name
        self._key = model_key(model.proto, target.provider, level, repr(settings)) if noted() else None
        try:
            silent = contextlib.redirect_stdout(io.StringIO())  # older versions print what they then raise
            with self._tried(), _loadable(model) as source, stderr_to_nowhere(), silent:
                self.session = create(source, target, settings or Settings(level))
        except ModelError:
            raise
        except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
            raise ModelError(f"{model.name}: ONNX Runtime cannot load it ({plain(error)})") from None
        LOG.debug("%s: %d nodes loaded on %s, level %s", model.name, len(model.proto.graph.node), target.label, level)
        check_active(self.session, target)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Outputs:
        """One inference; outputs by name. Raises ModelError with ONNX Runtime's reason, or EndlessError."""
        names = list(outputs) if outputs is not None else [o.name for o in self.session.get_outputs()]
        options = run_options(WITHOUT_GRAPH) if self.target.cuda_graph else ort().RunOptions()
        watch = threading.Timer(RUN_SECONDS, setattr, (options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            with self._tried():
                values = self.session.run(names, dict(feeds), options)
        except ModelError:
            raise
        except Exception as error:  # see above
            if options.terminate:
                raise EndlessError(f"{self.name}: one inference takes more than {RUN_SECONDS:g} s") from None
            raise ModelError(f"{self.name}: ONNX Runtime cannot run it ({plain(error)})") from None
        finally:
            watch.cancel()
        return {n: np.asarray(v) for n, v in zip(names, values, strict=True) if not isinstance(v, (list, dict))}

    @contextlib.contextmanager
    def _tried(self) -> Iterator[None]:
        """Noted, so that a crash within is known for what it is. Raises ModelError for what crashed before."""
        try:
            with trying("model", self.name, self._key):
                yield
        except CrashError as crash:
            raise ModelError(f"{self.name}: ONNX Runtime cannot run it (it dies of {crash})") from None

    def runner(self, feeds: Feeds, *, include_copies: bool = False) -> Call:
        """A call that does one inference of these feeds.

        On a GPU inputs and outputs stay on the device and every call is synchronised; `include_copies`: they come
        from the host and go back to it in every call. On other providers both are the same.
        Raises ModelError with ONNX Runtime's reason when the tensors cannot be bound.
        """
        graph = self.target.cuda_graph
        if not self.target.on_gpu or (include_copies and not graph):
            return direct(self.session, feeds)
        bound = bind if not graph else bind_graph_with_copies if include_copies else bind_graph
        try:
            return bound(self.session, feeds, "cuda", self.target.device_id)
        except Exception as error:  # see above
            raise ModelError(f"{self.name}: ONNX Runtime cannot run it ({plain(error)})") from None


def create(source: bytes | str, target: Target, settings: Settings) -> Any:
    """An onnxruntime.InferenceSession of a serialised model or a file. Raises what onnxruntime raises."""
    library = ort()
    options = library.SessionOptions()
    levels, modes = library.GraphOptimizationLevel, library.ExecutionMode
    options.graph_optimization_level = {
        "disable": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "layout": getattr(levels, "ORT_ENABLE_LAYOUT", levels.ORT_ENABLE_ALL),
        "all": levels.ORT_ENABLE_ALL,
    }[settings.level]
    options.intra_op_num_threads = target.threads
    options.execution_mode = modes.ORT_PARALLEL if settings.parallel else modes.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = settings.arena
    options.log_severity_level = 4
    if settings.profile:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile
    if settings.optimized:
        options.optimized_model_filepath = settings.optimized
        name = Path(settings.optimized).name + ".data"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", name)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", str(SMALLEST)
        )
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Two sessions are timed in turn: the idle one's threads must not spin beside the busy one's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[Any] = [(target.provider, dict(target.options))]
    if target.provider == TENSORRT:
        providers.append(CUDA if target.device_id == 0 else (CUDA, {"device_id": str(target.device_id)}))
    if target.provider != CPU:
        providers.append(CPU)
    return library.InferenceSession(source, options, providers=providers, enable_fallback=0)


def check_active(session: Any, target: Target) -> None:
    """Raises ProviderError when the session does not run on the target's provider."""
    active = session.get_providers()
    if not active or active[0] != target.provider:
        raise unusable(target.provider, f"ONNX Runtime fell back to {', '.join(active) or 'nothing'}")


def worker(model: Model, target: Target) -> Session:
    """A session for work that nobody times: on all cores, whatever `target.threads` says, and none waits busily."""
    threads = max(target.threads, granted_cores()) if target.threads else 0
    return Session(model, replace(target, threads=threads), settings=Settings(spinning=False))


def resolve(requested: str = "auto", options: Mapping[str, str] | None = None, threads: int = 0) -> Target:
    """The target for a `--providers` value: an alias, an ONNX Runtime name, `cuda:1`, or a list.

    `auto` is CUDA when a session on it really works here, else the CPU. Of a list, the first that
    works is taken; a single named provider that does not work raises ProviderError with the remedy.
    """
    if requested.strip().lower() == "auto":
        target = Target(CUDA, dict(options or {}), threads)
        usable = CUDA in ort().get_available_providers() and trouble(target) is None
        return target if usable else Target(CPU, {}, threads)
    found = [_parse(word, options, threads) for word in requested.split(",") if word.strip()]
    if not found:
        raise UsageError("--providers: no provider named")
    problems = []
    for target in found:
        problem = trouble(target)
        if problem is None:
            return target
        problems.append((target, problem))
    raise unusable(problems[0][0].provider, problems[0][1])


def _parse(word: str, options: Mapping[str, str] | None, threads: int) -> Target:
    name, _, device = word.strip().partition(":")
    known = {p.lower(): p for p in ort().get_all_providers()}
    provider = ALIASES.get(name.lower()) or known.get(name.lower())
    if provider is None:
        raise UsageError(f"--providers: unknown provider '{name}' (try auto, cpu, cuda, tensorrt)")
    given = dict(options or {}) if provider != CPU else {}
    if device:
        if provider == CPU or not device.isdecimal():
            raise UsageError(f"--providers: '{word.strip()}' names no device (write cuda:0, cuda:1, ...)")
        given["device_id"] = device
    if not given.get("device_id", "0").isdecimal():
        raise UsageError(f"--provider-option device_id={given['device_id']}: expected the number of a device")
    return Target(provider, given, threads)


def unusable(provider: str, reason: str) -> ProviderError:
    remedy = REMEDIES.get(provider, "see `onnxtune doctor` for what works here")
    return ProviderError(f"provider {provider} does not work here: {reason}; {remedy}")


def trouble(target: Target) -> str | None:
    """None when a small convolution runs on the target and gives the right numbers, else why not."""
    if target.provider not in ort().get_available_providers():
        return "this build of ONNX Runtime does not contain it"
    try:
        session = Session(probe(), target)
        x = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
        got = session.run({"x": x})["y"]
    except (ModelError, ProviderError) as error:
        text = str(error)
        return text.partition("does not work here: ")[2].partition(";")[0] or text.removeprefix("probe: ")
    return None if np.allclose(got, x.sum(1, keepdims=True)) else "it computes wrong numbers"


def probe() -> Model:
    """A small convolution whose result is known: the sums over the four channels."""
    text = """<ir_version: 8, opset_import: ["": 13]> probe (float[1,4,4,4] x) => (float[1,1,4,4] y)
        <float[1,4,1,1] w = {1, 1, 1, 1}> { y = Conv(x, w) }"""
    return Model(onnx.parser.parse_model(text), "probe")


@contextlib.contextmanager
def _loadable(model: Model) -> Iterator[bytes | str]:
    """What InferenceSession takes: bytes, of which it keeps a copy, or for large models a path."""
    if file_bytes(model) <= IN_MEMORY:
        yield embedded(model.proto).SerializeToString()
        return
    with as_file(model) as path:
        yield str(path)


@contextlib.contextmanager
def as_file(model: Model) -> Iterator[Path]:
    """The model as a file in a temporary folder; with weights beside it above 2 GiB, or where they lie in files."""
    size = model.proto.ByteSize()
    if size <= PROTOBUF_LIMIT and mapped_bytes(model.proto):
        with beside(model.proto) as path:
            yield path
        return
    with tempfile.TemporaryDirectory(prefix="onnxtune-") as folder:
        path = Path(folder) / "model.onnx"
        if size <= PROTOBUF_LIMIT:
            path.write_bytes(model.proto.SerializeToString())
        else:
            path.write_bytes(apart(model.proto, path.with_name("model.data")).SerializeToString())
        yield path


@contextlib.contextmanager
def fused(model: Model, target: Target) -> Iterator[Model]:
    """A model with weights in files after ONNX Runtime's first optimisations; itself where that cannot be written.

    They are a session's first step. What they make of the weights (a BatchNorm folded into them) is held beside the
    form that the last step makes of these (blocked for the processor): a session of `model` takes twice the weights
    while it is made, one of the fused model no more than it keeps. The sessions are the same.
    """
    with scratch(model.proto) as path:
        try:
            Session(model, Target(CPU, {}, target.threads), settings=Settings("basic", optimized=str(path)))
            made = model.with_proto(placed(onnx.load(path, load_external_data=False), path.parent))
        except (ModelError, OSError, DecodeError):
            made = model
        yield made


def versions() -> dict[str, str]:
    """Versions that may change a measurement."""
    from onnxtune._version import __version__

    return {
        "onnxtune": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": ort().__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
