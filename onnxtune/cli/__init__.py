"""The command line: one file per command, loaded when it is called; errors become one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

import click

from onnxtune._version import __version__
from onnxtune.cli.welcome import completion, welcome
from onnxtune.errors import ModelError, OnnxtuneError, one_line

COMMANDS = {
    "optimize": "onnxtune.cli.optimize",
    "bench": "onnxtune.cli.bench",
    "compare": "onnxtune.cli.compare",
    "check": "onnxtune.cli.check",
    "rules": "onnxtune.cli.rules",
    "demo": "onnxtune.cli.demo",
    "doctor": "onnxtune.cli.doctor",
    "cache": "onnxtune.cli.cache",
}
SUMMARIES = {
    "optimize": "Rewrite a model so that it runs faster; keep only what is verified and measured.",
    "bench": "Measure latency, of two models in interleaved rounds.",
    "compare": "Say whether a second model computes what a first computes.",
    "check": "Hold models against the design guidelines: findings with numbers; changes nothing.",
    "rules": "List the rewrites, or explain one.",
    "demo": "Run the main job on a small real CNN that comes with onnxtune.",
    "doctor": "Say which providers really work here, and what is missing.",
    "cache": "Show or clear measurements and fits.",
}
INTERRUPTED = 130
LONGEST = 1500
"""Characters that an error line may have."""
SUPERVISED = ("optimize", "bench", "demo", "check", "compare", "doctor")
"""Commands that hand models to native libraries, or load providers: their work is done in a child process."""
COMPLETING = "_ONNXTUNE_COMPLETE"
"""Set by the shell when it asks for completions."""


class LazyGroup(click.Group):
    """Imports a command's module only when it runs, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import importlib

        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in COMMANDS])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=completion(),
)
@click.version_option(__version__, prog_name="onnxtune")
def cli() -> None:
    """Make exported CNNs faster on ONNX Runtime by rewriting their structure.

    \b
    onnxtune demo                   see it work
    onnxtune check model.onnx       what could be better, and by how much
    onnxtune optimize model.onnx    writes model.tuned.onnx, or says that nothing was to be gained
    onnxtune rules list             what it can do

    Exit codes: 0 done (also: nothing to gain), 1 a gate failed, 2 wrong usage, 3 unusable model or
    data file, 4 provider not available, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. Tracebacks only with -vv."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words and COMPLETING not in os.environ:
        click.echo(welcome())
        sys.exit(0)
    debugging = any(w.startswith("-vv") for w in words)
    if arguments is None and words and words[0] in SUPERVISED and not {"-h", "--help"} & set(words):
        from onnxtune.cli.child import supervise
        from onnxtune.supervise import follow_parent, is_child

        if not is_child():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # before and after `supervise` hands it on
            sys.exit(supervise(words, lambda text: click.echo(f"onnxtune: {text}", err=True)))
        follow_parent()
    interrupts = _counted_interrupts() if arguments is None else []
    try:
        code = cli.main(words, prog_name="onnxtune", standalone_mode=False)
        if arguments is None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Ctrl-C while Python ends changes nothing
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=False)
        sys.exit(2)
    except click.ClickException as error:
        _say(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        written = str(error.__cause__ or error)  # click puts its own exception around ours
        again = (
            "; the same command with --resume goes on without fitting again" if "--calibration-data" in words else ""
        )
        _say(f"interrupted; {written or 'nothing was written'}{again}", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        sys.exit(0)
    except OnnxtuneError as error:
        if debugging:
            raise
        _say(str(error), error.exit_code)
    except MemoryError as error:
        if debugging:
            raise
        _say(f"not enough memory ({one_line(error)})", ModelError.exit_code)
    except Exception as error:
        if interrupts:  # an import that Ctrl-C comes upon may turn it into an ImportError
            _say("interrupted; nothing was written", INTERRUPTED)
        if debugging:
            raise
        _say(f"internal error: {type(error).__name__}: {one_line(error)} (-vv shows where; please report it)", 1)


def _counted_interrupts() -> list[int]:
    """Grows by one with each Ctrl-C, which raises KeyboardInterrupt as ever."""
    found: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        found.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    return found


def _say(message: str, code: int) -> None:
    # What a message repeats may come from a file: no escape sequences for the terminal, and no megabytes.
    line = "".join(c for c in " ".join(message.split())[:LONGEST] if c.isprintable())
    click.echo(f"onnxtune: {line}", err=True)
    if code == INTERRUPTED:
        from onnxtune.cli.child import note_said

        note_said()
    sys.exit(code)
