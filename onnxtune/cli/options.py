"""Options that several commands share. Each also reads the environment variable ONNXTUNE_<NAME>."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from onnxtune.cli.config import load_defaults
from onnxtune.errors import UsageError

if TYPE_CHECKING:
    from onnxtune.gpu import Wishes

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """click.option with its environment variable and default shown in the help."""
    long = next(n for n in names if n.startswith("--")).split("/")[0]
    settings.setdefault("envvar", "ONNXTUNE_" + long.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_default", True)
    return click.option(*names, **settings)


def target_options(command: F) -> F:
    """--providers, --provider-option, --threads, --input-shapes, --seed."""
    for decorate in reversed(
        [
            option(
                "--providers",
                default="auto",
                metavar="NAMES",
                help="Execution provider to tune for: auto (CUDA when it works, else CPU), cpu, cuda, cuda:1,"
                " tensorrt, an ONNX Runtime name, or a list of which the first that works is taken.",
            ),
            option("--provider-option", multiple=True, metavar="K=V", help="ONNX Runtime option of the provider."),
            option(
                "--threads",
                default=0,
                type=click.IntRange(0),
                metavar="N",
                help="CPU threads of a session; 0: ONNX Runtime's choice.",
            ),
            option(
                "--input-shapes",
                multiple=True,
                metavar="NAME:1x3x224x224",
                help="Shape to measure at, for an input with dynamic dimensions.",
            ),
            option("--seed", default=0, type=click.IntRange(0), metavar="N", help="Seed of everything random."),
        ]
    ):
        command = decorate(command)
    return command


def gpu_options(command: F) -> F:
    """--cuda-graph, --include-copies and what else decides how a GPU runs a model."""
    for decorate in reversed(
        [
            option("--cuda-graph", is_flag=True, help="GPU: record a run as a CUDA graph and replay it."),
            option("--include-copies", is_flag=True, help="GPU: measure with the copies from and to the host."),
            option(
                "--tf32/--no-tf32",
                default=None,
                help="GPU: float32 as TensorFloat-32 [default: ONNX Runtime's].",
            ),
            option(
                "--prefer-nhwc/--no-prefer-nhwc",
                default=None,
                help="GPU: convolutions with channels last [default: ONNX Runtime's].",
            ),
            option(
                "--cudnn-conv-algo-search",
                type=click.Choice(["exhaustive", "heuristic", "default"]),
                help="GPU: how cuDNN's algorithms are chosen [default: ONNX Runtime's].",
            ),
        ]
    ):
        command = decorate(command)
    return command


def wishes(flags: Mapping[str, Any]) -> Wishes:
    """What `gpu_options` gave, as a value. --no-tf32 holds for the whole process."""
    from onnxtune.gpu import Wishes, forbid_tf32

    if flags["tf32"] is False:
        forbid_tf32()
    return Wishes(flags["cuda_graph"], flags["tf32"], flags["prefer_nhwc"], flags["cudnn_conv_algo_search"])


def rule_options(command: F) -> F:
    """--only, --skip, --exact-only, --rules, --no-plugins."""
    for decorate in reversed(
        [
            option(
                "--only",
                multiple=True,
                metavar="RULE",
                shell_complete=complete_rules,
                help="Use only this rule (repeatable, or a,b).",
            ),
            option(
                "--skip",
                multiple=True,
                metavar="RULE",
                shell_complete=complete_rules,
                help="Leave this rule out (repeatable, or a,b).",
            ),
            option(
                "--exact-only",
                is_flag=True,
                help="Use only rules that keep the function the same in real arithmetic.",
            ),
            option("--rules", multiple=True, metavar="DIR", help="Folder with further rules (repeatable)."),
            option("--plugins/--no-plugins", default=True, help="Use rules that installed packages offer."),
        ]
    ):
        command = decorate(command)
    return command


def preprocess_options(command: F) -> F:
    """--resize ... --layout: how 8-bit images become inputs."""
    for decorate in reversed(
        [
            option("--resize", metavar="N|HxW", help="Images: shorter side, or height x width, in pixels."),
            option("--crop", metavar="N|HxW", help="Images: centre crop in pixels, after resizing."),
            option("--scale", metavar="S", help="Images: factor for pixels from 0 to 255 [default: 1/255]."),
            option("--mean", metavar="M,M,M", help="Images: subtracted after scaling [default: 0]."),
            option("--std", metavar="S,S,S", help="Images: divided by after the mean [default: 1]."),
            option("--channel-order", metavar="ORDER", help="Images: rgb, bgr or gray [default: rgb]."),
            option("--layout", metavar="LAYOUT", help="Images: nchw or nhwc [default: as the input suggests]."),
        ]
    ):
        command = decorate(command)
    return command


def data_options(command: F) -> F:
    """--calibration-data for what is only looked at, and how images become inputs."""
    return option(
        "--calibration-data",
        metavar="PATH",
        help="Samples that tell what weights alone cannot; as for `optimize`.",
    )(preprocess_options(command))


def calibration_options(command: F) -> F:
    """--calibration-data and what belongs to it."""
    command = preprocess_options(command)
    for decorate in reversed(
        [
            option(
                "--calibration-data",
                metavar="PATH",
                help="Samples to refit weights to: NPZ or NPY (arrays named like the inputs), a folder of these,"
                " an image folder, or module:function yielding feeds. Without it only exact rules run.",
            ),
            option("--labels", metavar="PATH", help="Class numbers (NPY, NPZ, CSV) or target arrays of the samples."),
            option(
                "--metric",
                metavar="NAME",
                help="top1, top5, agreement, psnr, relative_error, or module:function [default: by the outputs].",
            ),
            option(
                "--max-drop",
                default="0.5%",
                metavar="DROP",
                help="Most of the metric that may be lost: a share such as 0.5% or 0.005; dB for psnr.",
            ),
            option(
                "--confidence",
                default=0.9,
                type=click.FloatRange(0.5, 1.0, max_open=True),
                metavar="C",
                help="One-sided confidence with which the loss must lie within --max-drop.",
            ),
            option(
                "--crop-border",
                default=0,
                type=click.IntRange(0),
                metavar="N",
                help="Pixels at the border of dense outputs that psnr and relative_error leave out.",
            ),
            option("--resume", is_flag=True, help="Use the fits that an interrupted run left in the cache folder."),
            option(
                "--pareto", metavar="DIR", help="Write the models of the front of latency and loss into this folder."
            ),
        ]
    ):
        command = decorate(command)
    return command


PREPROCESS = ("resize", "crop", "scale", "mean", "std", "channel_order", "layout")


def config_option(command: F) -> F:
    return click.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        envvar="ONNXTUNE_CONFIG",
        callback=load_defaults,
        help="Defaults for these options [default: onnxtune.toml, or [tool.onnxtune] in pyproject.toml].",
    )(command)


def report_path(json_file: str | None, models: Sequence[Path]) -> Path | None:
    """Where a JSON report goes (None: nowhere or stdout). Refuses before any work what could not be written, and a
    report that would overwrite a model. Raises UsageError."""
    from onnxtune.errors import ModelError
    from onnxtune.model import check_writable

    if not json_file or json_file == "-":
        return None
    path = Path(json_file)
    try:
        check_writable(path)
    except ModelError as error:
        raise UsageError(str(error)) from None
    if path.resolve() in [m.resolve() for m in models]:
        raise UsageError(f"--json {path}: that is the model; give the report a file of its own")
    return path


def complete_rules(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of our rules, for the shell."""
    del ctx, parameter
    from onnxtune.catalog import cards

    return [CompletionItem(c.name, help=c.summary) for c in cards(plugins=False) if c.name.startswith(incomplete)]


def complete_checks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Codes of the checks, for the shell."""
    del ctx, parameter
    from onnxtune.checks import checkers

    found = (c.card for c in checkers())
    return [CompletionItem(c.code, help=c.summary) for c in found if c.code.startswith(incomplete.upper())]


def words(values: tuple[str, ...]) -> tuple[str, ...]:
    """("a,b", "c") -> ("a", "b", "c")."""
    return tuple(w.strip() for value in values for w in value.split(",") if w.strip())


def pairs(values: tuple[str, ...], flag: str) -> dict[str, str]:
    """("a=1", "b=2") -> {"a": "1", "b": "2"}. Raises UsageError."""
    found = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise UsageError(f"{flag} {value}: expected KEY=VALUE")
        found[key.strip()] = text.strip()
    return found
