"""What `onnxtune` says when it is called without arguments."""

from __future__ import annotations

from onnxtune._version import __version__

COMPLETION = (
    ("bash", "~/.bashrc", 'eval "$(_ONNXTUNE_COMPLETE=bash_source onnxtune)"'),
    ("zsh", "~/.zshrc", 'eval "$(_ONNXTUNE_COMPLETE=zsh_source onnxtune)"'),
    ("fish", "~/.config/fish/config.fish", "_ONNXTUNE_COMPLETE=fish_source onnxtune | source"),
)
"""Shell, the file to put the line into, the line."""


def welcome() -> str:
    """Two sentences and the three commands to start with."""
    return f"""\
onnxtune {__version__} makes exported CNNs faster on ONNX Runtime by rewriting their structure.
Every rewrite is verified (same outputs) and measured (faster here); when nothing pays, you get
your model back.

Start with:
  onnxtune demo                   see it work on a small real network
  onnxtune check model.onnx       what could be better in your model, and by how much; changes nothing
  onnxtune optimize model.onnx    writes model.tuned.onnx, or says that nothing was to be gained

`onnxtune --help` shows the rest, and how to switch on completion in your shell."""


def completion() -> str:
    """How to switch on completion, for the end of `--help`."""
    width = max(len(shell) for shell, *_ in COMPLETION)
    lines = (f"  {shell:{width}}  {line}" for shell, _, line in COMPLETION)
    files = ", ".join(file for _, file, _ in COMPLETION)
    return "\n".join(["\b", f"Completion of commands, rules and checks: put the line into {files}", *lines])
