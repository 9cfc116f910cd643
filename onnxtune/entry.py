"""Where the command starts: Ctrl-C is handled before anything else is imported.

An exception out of an import that was interrupted half-way may be of any kind. At this time nothing has been begun that
would have to be tidied up, so the process simply ends. `cli.main` takes over when it is there.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130
LINE = b"onnxtune: interrupted; nothing was written\n"


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    if "ONNXTUNE_CRASH_NOTES" not in os.environ:  # of a child (`onnxtune.supervise`) the parent tells
        os.write(2, LINE)
    os._exit(INTERRUPTED)


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, _leave)
    from onnxtune.cli import main as run

    run()
