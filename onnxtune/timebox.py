"""A limit on how long somebody else's Python code may run.

A thread waits for the limit and then has an exception raised in the thread that runs the code (CPython's
`PyThreadState_SetAsyncExc`), again and again until the code has ended, since it may catch what it does not know.
Works in any thread and leaves signals alone. What it cannot do: interrupt one long call of a native library (the
exception comes when that call returns), or code that catches everything and never ends its handlers.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

AGAIN = 0.5
"""Seconds after which code that has caught the exception gets it again."""


class TimeUp(BaseException):
    """The limit is over. No Exception, so that `except Exception` in a loop does not swallow it."""


class _Watch:
    """What the two threads tell each other. Plain attributes and one raw lock: the exception may come between any
    two steps of the watched thread, also inside of a `with lock`, which would then never be released."""

    def __init__(self) -> None:
        self.over = False
        self.ended = False
        self.wake = _thread.allocate_lock()
        self.wake.acquire()

    def run(self, seconds: float, send: Callable[[], object]) -> None:
        wait = seconds
        while not self.wake.acquire(timeout=wait) and not self.over:
            send()
            wait = AGAIN
        self.ended = True

    def close(self, withdraw: Callable[[], object]) -> None:
        """End the watch; an exception that was sent and has not come yet is withdrawn, or swallowed where it comes."""
        while True:
            try:
                self.over = True
                with contextlib.suppress(RuntimeError):  # released already, before the exception came
                    self.wake.release()
                while not self.ended:
                    time.sleep(1e-4)
                withdraw()  # after `ended` nothing more is sent
                return
            except TimeUp:
                continue


@contextlib.contextmanager
def time_box(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the code within when it runs longer than `seconds`."""
    thread = ctypes.c_ulong(threading.get_ident())
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    watch = _Watch()
    send = partial(raise_in, thread, ctypes.py_object(TimeUp))
    watcher = threading.Thread(target=watch.run, args=(seconds, send), name="onnxtune-timebox", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        watch.close(partial(raise_in, thread, None))
