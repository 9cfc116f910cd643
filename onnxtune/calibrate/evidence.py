"""What was seen of a layer on calibration data: moments of its rows and a sample of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.capture import exposing
from onnxtune.calibrate.dataset import Dataset
from onnxtune.calibrate.layer import Layer
from onnxtune.calibrate.moments import MOST_COLUMNS, Accumulator, Moments, Reservoir
from onnxtune.calibrate.patches import patches, sample_positions, values
from onnxtune.model import Model
from onnxtune.runtime import Session, Target

ROWS_PER_COLUMN = 8
"""Rows wanted for each column of the covariance; the held-out error still falls a little beyond."""
FEWEST_ROWS, MOST_ROWS = 4096, 40000
KEPT_ROWS = 4096
"""Size of the sample of rows."""
BATCH_BYTES = 2**25


@dataclass(frozen=True, eq=False)
class Evidence:
    """`moments` of x (d columns) and y (J columns); `x` (n, d), `y` (n, J): a uniform sample of the rows.

    `out_size`: height and width of the layer's output map, () for matrices.
    """

    moments: Moments
    x: NDArray[Any]
    y: NDArray[Any]
    out_size: tuple[int, ...]
    seed: int


def too_large(layer: Layer) -> str | None:
    """Why a layer's covariance cannot be held, None when it can."""
    if layer.columns <= MOST_COLUMNS:
        return None
    return f"its rows have {layer.columns} columns, more than the {MOST_COLUMNS} of which a covariance is kept"


def gather(
    layer: Layer,
    teacher: Model,
    student: Model,
    data: Dataset,
    indices: NDArray[Any],
    target: Target,
    seed: int,
    notify: Callable[[int, int], None] = lambda done, total: None,
) -> Evidence:
    """Run both models up to the layer: x from the student (as rewritten so far), y from the teacher (the original).

    Only the batch at hand is in memory. Positions of patches are drawn with the seed, the same in both models.
    """
    sources = [Session(exposing(student, [layer.x]), target), Session(exposing(teacher, [layer.y]), target)]
    random = np.random.default_rng(seed)
    found, kept = Accumulator(layer.columns, layer.outputs), Reservoir(KEPT_ROWS, seed)
    wanted = int(np.clip(ROWS_PER_COLUMN * layer.columns, FEWEST_ROWS, MOST_ROWS))
    per_image = -(-wanted // len(indices))
    done, size, out_size = 0, 1, ()
    while done < len(indices):
        for chosen, feeds, count in data.batches(indices[done : done + size], size):
            x, y = (s.run(feeds, [name])[name][:count] for s, name in zip(sources, (layer.x, layer.y), strict=True))
            rows, answers = _rows(layer, x, y, per_image, random)
            found.add(rows, answers)
            kept.add(rows.astype(np.float32), answers.astype(np.float32))
            done += len(chosen)
            out_size = tuple(y.shape[2:]) if layer.window is not None else ()
            row_bytes = (x.nbytes + y.nbytes + rows.nbytes * 2) // max(count, 1)
        notify(done, len(indices))
        size = max(1, min(64, BATCH_BYTES // max(row_bytes, 1)))
    return Evidence(found.finish(), *kept.rows, out_size, seed)


def _rows(
    layer: Layer, x: NDArray[Any], y: NDArray[Any], per_image: int, random: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    if layer.window is None:
        return x.reshape(len(x), -1), y.reshape(len(y), -1)
    positions = sample_positions(len(x), tuple(y.shape[2:]), per_image, random)
    return patches(x, positions, layer.window), values(y, positions)
