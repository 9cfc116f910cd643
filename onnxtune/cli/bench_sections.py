"""Sections that follow the figures of `bench`: profiles, and settings of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxtune.bench.profile import Profile
    from onnxtune.bench.settings import Tuning


def sections(profiles: Sequence[Profile], tuning: Tuning | None, verbose: int) -> list[Callable[[], None]]:
    """What prints each of them."""
    from onnxtune.render import profile, settings

    found: list[Callable[[], None]] = [partial(profile.show, p, verbose=verbose) for p in profiles]
    if tuning is not None:
        found.append(partial(settings.show, tuning))
    return found
