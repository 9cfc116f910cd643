"""ONNX Runtime sessions: which provider really works here, and running a model on it.

A requested provider that is not active is an error, never a silent fallback to the CPU. ONNX Runtime's
own messages are kept out of the terminal; what matters of them is raised as an onnxtune error.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.errors import ModelError, ProviderError, UsageError, one_line
from onnxtune.model import PROTOBUF_LIMIT, Model

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Level = Literal["disable", "basic", "extended", "layout", "all"]

IN_MEMORY = 64 * 2**20
"""Bytes up to which a model is handed to ONNX Runtime in memory."""
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
ALIASES = {
    "cpu": CPU,
    "cuda": CUDA,
    "gpu": CUDA,
    "trt": "TensorrtExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
}
REMEDIES = {
    CUDA: "pip install 'onnxtune[cuda]' brings the CUDA and cuDNN libraries; the NVIDIA driver must be installed",
    "TensorrtExecutionProvider": "pip install tensorrt, and put its libraries on the library path",
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
        return self.provider in (CUDA, "TensorrtExecutionProvider")

    @property
    def device(self) -> str:
        """Name of the device that does the work."""
        return gpu_name(int(self.options.get("device_id", "0"))) if self.on_gpu else cpu_name()


@functools.cache
def ort() -> Any:
    """The onnxruntime module, quiet, with the CUDA libraries of the nvidia wheels loaded when there."""
    with _stderr_to_nowhere():
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        preload = getattr(onnxruntime, "preload_dlls", None)
        if preload is not None and CUDA in onnxruntime.get_available_providers():
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what is missing; `trouble` says it better
                preload()
    return onnxruntime


class Runner:
    """A session bound to one set of feeds: `runner()` does one inference.

    On a GPU inputs and outputs stay on the device (IO binding) and every call is synchronised.
    """

    def __init__(self, session: Any, feeds: Feeds, target: Target) -> None:
        # Nothing of its own is kept in `_call`: a cycle would hold the session, which may be large, for longer.
        if target.on_gpu:
            self._call = bind(session, dict(feeds), "cuda", int(target.options.get("device_id", "0")))
        else:
            self._call = functools.partial(session.run, None, dict(feeds))

    def __call__(self) -> None:
        self._call()


def bind(session: Any, feeds: Feeds, device: str, device_id: int = 0) -> Callable[[], None]:
    """A call that runs the session with device-resident inputs and outputs, and waits for the device."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort().OrtValue.ortvalue_from_numpy(value, device, device_id))
    for output in session.get_outputs():
        binding.bind_output(output.name, device, device_id)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


class Session:
    """A model loaded into ONNX Runtime on a target.

    Raises ModelError when ONNX Runtime refuses the model, ProviderError when the target's provider
    does not become active.
    """

    def __init__(self, model: Model, target: Target, level: Level = "all") -> None:
        self.target = target
        self.name = model.name
        library = ort()
        options = library.SessionOptions()
        levels = library.GraphOptimizationLevel
        options.graph_optimization_level = {
            "disable": levels.ORT_DISABLE_ALL,
            "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED,
            "layout": getattr(levels, "ORT_ENABLE_LAYOUT", levels.ORT_ENABLE_ALL),
            "all": levels.ORT_ENABLE_ALL,
        }[level]
        options.intra_op_num_threads = target.threads
        options.log_severity_level = 4
        # Two sessions are timed in turn: the idle one's threads must not spin beside the busy one's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers: list[Any] = [(target.provider, dict(target.options))]
        if target.provider == "TensorrtExecutionProvider":
            providers.append(CUDA)
        if target.provider != CPU:
            providers.append(CPU)
        try:
            with _loadable(model) as source, _stderr_to_nowhere():
                self.session = library.InferenceSession(source, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
            raise ModelError(f"{model.name}: ONNX Runtime cannot load it ({plain(error)})") from None
        active = self.session.get_providers()
        if not active or active[0] != target.provider:
            raise unusable(target.provider, f"ONNX Runtime fell back to {', '.join(active) or 'nothing'}")

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> Outputs:
        """One inference; outputs by name. Raises ModelError with ONNX Runtime's reason."""
        names = list(outputs) if outputs is not None else [o.name for o in self.session.get_outputs()]
        try:
            values = self.session.run(names, dict(feeds))
        except Exception as error:  # see above
            raise ModelError(f"{self.name}: ONNX Runtime cannot run it ({plain(error)})") from None
        return {n: np.asarray(v) for n, v in zip(names, values, strict=True) if not isinstance(v, (list, dict))}

    def runner(self, feeds: Feeds) -> Runner:
        return Runner(self.session, feeds, self.target)


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
    return Target(provider, given, threads)


def unusable(provider: str, reason: str) -> ProviderError:
    remedy = REMEDIES.get(provider, "see `onnxtune doctor` for what works here")
    return ProviderError(f"provider {provider} does not work here: {reason}; {remedy}")


def trouble(target: Target) -> str | None:
    """None when a small convolution runs on the target and gives the right numbers, else why not."""
    if target.provider not in ort().get_available_providers():
        return "this build of ONNX Runtime does not contain it"
    try:
        session = Session(_probe(), target)
        x = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
        got = session.run({"x": x})["y"]
    except (ModelError, ProviderError) as error:
        text = str(error)
        return text.partition("does not work here: ")[2].partition(";")[0] or text.removeprefix("probe: ")
    return None if np.allclose(got, x.sum(1, keepdims=True)) else "it computes wrong numbers"


def _probe() -> Model:
    text = """<ir_version: 8, opset_import: ["": 13]> probe (float[1,4,4,4] x) => (float[1,1,4,4] y)
        <float[1,4,1,1] w = {1, 1, 1, 1}> { y = Conv(x, w) }"""
    return Model(onnx.parser.parse_model(text), "probe")


def plain(error: BaseException) -> str:
    """ONNX Runtime's message without its error codes and the places in its own source code."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error, 2000))
    text = re.sub(r"\S+\.(cc|h|cpp):\d+ (\S.*?\)( \[with .*?\])? )?", "", text)
    return one_line(text)


@contextlib.contextmanager
def _loadable(model: Model) -> Iterator[bytes | str]:
    """What InferenceSession takes: bytes, of which it keeps a copy, or for large models a path."""
    size = model.proto.ByteSize()
    if size <= IN_MEMORY:
        yield model.proto.SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="onnxtune-") as folder:
        path = Path(folder) / "model.onnx"
        if size <= PROTOBUF_LIMIT:
            path.write_bytes(model.proto.SerializeToString())
        else:
            proto = onnx.ModelProto()
            proto.CopyFrom(model.proto)
            onnx.save(proto, path, save_as_external_data=True, location="model.data", convert_attribute=False)
        yield str(path)


@contextlib.contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    """Native libraries write to file descriptor 2 past Python: send it to the null device meanwhile."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@functools.cache
def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cpu_features() -> frozenset[str]:
    """Instruction sets as Linux names them ("avx512f", "avx2"); empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


@functools.cache
def gpu_name(device: int) -> str:
    """The GPU's name from the NVIDIA driver's own tool; "CUDA device N" where it cannot be asked."""
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool:
        command = [tool, f"--id={device}", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            if answer.returncode == 0 and answer.stdout.strip():
                return answer.stdout.strip().splitlines()[0]
    return f"CUDA device {device}"


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
