"""The console that results are printed to."""

from __future__ import annotations

import os
import sys

from rich.console import Console

WIDTH = 140
"""Columns of what is not a terminal (a file, a pipe), unless COLUMNS says otherwise."""


def console_for_output() -> Console:
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if known else WIDTH)
