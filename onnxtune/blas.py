"""How many threads linear algebra takes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def one_thread(*, narrow: bool) -> Iterator[None]:
    """Within, matrices are multiplied and solved on one thread, where they are `narrow`.

    A fit takes thousands of steps on small matrices. Threads that wait for each other after each of them take longer,
    and all of the cores, than one does.
    """
    if not narrow:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
