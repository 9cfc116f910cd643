"""`-v`: what the package logs, on stderr. The API logs to `logging.getLogger("onnxtune")` and is silent by itself."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def logs(verbose: int) -> Iterator[None]:
    """Show log records meanwhile: warnings with -v (decisions are told by themselves), everything with -vv."""
    if not verbose:
        yield
        return
    logger = logging.getLogger("onnxtune")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(relativeCreated)7.0f ms %(name)s: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
