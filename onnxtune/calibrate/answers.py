"""What the original model answers at the sampled positions of its layers, kept while there is room.

Every fit of a layer compares with the same answers, whatever the layers before it have become.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**28


@dataclass(eq=False)
class Held:
    """Of one layer. `rows` (samples, P, J), of which `have` (samples,) say how many are known; `size`: of its output
    map, () for matrices."""

    rows: NDArray[Any]
    have: NDArray[np.int64]
    size: tuple[int, ...]

    def of(self, samples: NDArray[Any], per_sample: int) -> NDArray[Any]:
        """(n P, J), sample by sample."""
        found: NDArray[Any] = self.rows[samples, : self._wanted(per_sample)]
        return found.reshape(-1, self.rows.shape[2])

    def knows(self, samples: NDArray[Any], per_sample: int) -> bool:
        return int(self.have[samples].min()) >= self._wanted(per_sample)

    def _wanted(self, per_sample: int) -> int:
        return min(per_sample, math.prod(self.size))


class Answers:
    """Of a data set of `samples`, by a key for each layer; the one that was asked about first leaves first."""

    def __init__(self, samples: int, most: int = MOST_BYTES) -> None:
        self.samples, self.most = samples, most
        self._held: dict[str, Held] = {}

    def known(self, key: str, samples: NDArray[Any], per_sample: int) -> Held | None:
        """Where all of these samples are known at so many positions."""
        found = self._held.get(key)
        return found if found is not None and found.knows(samples, per_sample) else None

    def keep(self, key: str, samples: NDArray[Any], rows: NDArray[Any], size: tuple[int, ...]) -> None:
        """rows (n P, J) of these n samples."""
        each = rows.reshape(len(samples), -1, rows.shape[1])
        held = self._held.get(key)
        if held is None or held.rows.shape[1] < each.shape[1]:
            held = self._room(key, each, size)
        if held is not None:
            held.rows[samples, : each.shape[1]] = each
            held.have[samples] = np.maximum(held.have[samples], each.shape[1])

    def _room(self, key: str, each: NDArray[Any], size: tuple[int, ...]) -> Held | None:
        old = self._held.pop(key, None)
        shape = (self.samples, *each.shape[1:])
        wanted = math.prod(shape) * each.dtype.itemsize
        while self._held and wanted + sum(h.rows.nbytes for h in self._held.values()) > self.most:
            del self._held[next(iter(self._held))]
        if wanted > self.most:
            return None
        held = Held(np.empty(shape, each.dtype), np.zeros(self.samples, np.int64), size)
        if old is not None:
            held.rows[:, : old.rows.shape[1]], held.have[:] = old.rows, old.have
        self._held[key] = held
        return held
