"""What was seen of a layer on calibration data: moments of its rows and a sample of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.answers import Answers
from onnxtune.calibrate.capture import exposing
from onnxtune.calibrate.dataset import Dataset
from onnxtune.calibrate.layer import Layer
from onnxtune.calibrate.moments import MOST_COLUMNS, Accumulator, Moments, Reservoir
from onnxtune.calibrate.patches import patches, positions_of, values
from onnxtune.calibrate.wide_convs import Rows
from onnxtune.feeds import Feeds
from onnxtune.model import Model
from onnxtune.runtime import Target, worker

ROWS_PER_COLUMN = 8
"""Rows wanted for each column of the covariance; the held-out error still falls a little beyond."""
FEWEST_ROWS, MOST_ROWS = 4096, 40000
KEPT_ROWS, KEPT_BYTES = 4096, 2**28
"""Size of the sample of rows."""
WIDE_ROWS, WIDE_BYTES = 8192, 2**28
"""The same for a convolution of which the sample is all that is known."""
BATCH_BYTES = 2**25


@dataclass(frozen=True, eq=False)
class Evidence:
    """`moments` of x (d columns) and y (J columns); `x` (n, d), `y` (n, J): a uniform sample of the rows.

    A layer that is too wide for a covariance has the sample alone: `gathered` is None, and its moments must not be
    asked for. `out_size`: height and width of the layer's output map, () for matrices.
    """

    gathered: Moments | None
    x: NDArray[Any]
    y: NDArray[Any]
    out_size: tuple[int, ...]
    seed: int

    @property
    def moments(self) -> Moments:
        assert self.gathered is not None, "a layer this wide has no moments"
        return self.gathered

    def without_rows(self) -> Evidence:
        """The moments alone: the sample takes more memory."""
        return replace(self, x=self.x[:0].copy(), y=self.y[:0].copy())

    @cached_property
    def seen(self) -> Moments | Rows:
        """What a fit of a convolution stands on."""
        return Rows.of(self.x, self.y) if self.gathered is None else self.gathered


def too_large(layer: Layer) -> str | None:
    """Why a layer's covariance cannot be held, None when it can."""
    if not layer.wide:
        return None
    return f"its rows have {layer.columns} columns, more than the {MOST_COLUMNS} of which a covariance is kept"


def most_rows(layer: Layer, images: int) -> int:
    """Size of the sample of rows that is kept of a layer."""
    most, size = (WIDE_ROWS, WIDE_BYTES) if layer.wide and layer.window is not None else (KEPT_ROWS, KEPT_BYTES)
    rows = max(1, min(most, size // (4 * (layer.columns + layer.outputs))))
    return rows if layer.window is not None else min(rows, images)


def gather(
    layer: Layer,
    teacher: Model,
    student: Model,
    data: Dataset,
    indices: NDArray[Any],
    target: Target,
    seed: int,
    notify: Callable[[int, int], None] = lambda done, total: None,
    answers: Answers | None = None,
) -> Evidence:
    """Run both models up to the layer: x from the student (as rewritten so far), y from the teacher (the original).

    Only the batch at hand is in memory. Positions of patches are drawn with the seed and the sample's number, the same
    in both models. `answers`: what the teacher has said so far; where it has said all, it is not asked again.
    """
    unrun = layer.wide and layer.window is None and layer.linear  # its weights are held already
    answer = layer.x if unrun else layer.y
    found = None if layer.wide else Accumulator(layer.columns, layer.outputs)
    kept = Reservoir(most_rows(layer, len(indices)), seed)
    wanted = int(np.clip(ROWS_PER_COLUMN * layer.columns, FEWEST_ROWS, MOST_ROWS)) if found else kept.size
    per_image = -(-wanted // len(indices)) if layer.window is not None else 1
    asked = answer if layer.window is None else f"{answer} at positions"
    known = None if answers is None or unrun else answers.known(asked, indices, per_image)
    together = student is teacher and known is None
    look = _view(student, [layer.x, answer] if together else [layer.x], target)
    ask = None if together or known is not None else _view(teacher, [answer], target)
    weight = layer.values() if unrun else None
    done, size, out_size = 0, 1, () if known is None else known.size
    while done < len(indices):
        for chosen, feeds, count in data.batches(indices[done : done + size], size):
            seen = look(feeds)
            x, y = seen[layer.x][:count], None
            if known is None:
                y = (seen if ask is None else ask(feeds))[answer][:count]
                out_size = tuple(y.shape[2:]) if layer.window is not None else ()
            at = None if layer.window is None else positions_of(chosen, out_size, per_image, seed)
            rows = x.reshape(len(x), -1) if at is None or layer.window is None else patches(x, at, layer.window)
            if y is None:
                assert known is not None, "else it was asked"
                said = known.of(chosen, per_image)
            else:
                said = y.reshape(len(y), -1) if at is None else values(y, at)
                if weight is not None:
                    said = said.astype(np.float32) @ weight.T + layer.bias
                elif answers is not None:
                    answers.keep(asked, chosen, said, out_size)
            if found is not None:
                found.add(rows, said)
            kept.add(rows.astype(np.float32, copy=False), said.astype(np.float32, copy=False))
            done += len(chosen)
            y_bytes = layer.outputs * math.prod(out_size) * x.itemsize  # the same batches whether it is asked or not
            row_bytes = (x.nbytes + rows.nbytes * 2) // max(count, 1) + y_bytes
        notify(done, len(indices))
        size = max(1, min(64, BATCH_BYTES // max(row_bytes, 1)))
    return Evidence(None if found is None else found.finish(), *kept.rows, out_size, seed)


def _view(model: Model, tensors: list[str], target: Target) -> Callable[[Feeds], Mapping[str, NDArray[Any]]]:
    """What shows these tensors for feeds; those that are fed need no run."""
    made = [t for t in dict.fromkeys(tensors) if t not in {v.name for v in model.inputs}]
    session = worker(exposing(model, made), target) if made else None
    return lambda feeds: {**feeds, **({} if session is None else session.run(feeds, made))}
