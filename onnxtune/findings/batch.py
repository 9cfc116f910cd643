"""The batch that a model is exported for.

More images at a time raise throughput until the device is busy, and latency with it. Where the knee lies
depends on model and device: `onnxtune bench --batch` finds it where the model leaves its batch open. Batches of
32 to 256 are advice for training; nothing follows from them for inference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from onnxtune.errors import ModelError
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene
from onnxtune.sizes import with_batch
from onnxtune.trial import Timer

CHECK = Check(
    code="CK106",
    name="batch",
    summary="A fixed batch, or how throughput grows with the batch",
    severity="info",
    remedy="export",
    action="export with a dynamic batch axis if throughput counts; `onnxtune bench --batch` finds the knee",
    fires="every image input fixes its batch; with --measure also where it is open: images per second by batch",
    quiet="the batch is open and nothing is measured; quantities other than images",
    guidelines=(14,),
    items=("A3",),
)
BATCHES = (1, 2, 4, 8, 16, 32)
ENOUGH = 0.95
"""Share of the best throughput from which a batch is good enough."""
GROWS = 1.02
"""Growth of throughput from which a larger batch is still worth a try."""


def find(scene: Scene) -> Iterator[Found]:
    shapes = {v.name: scene.facts.shape(v.name) for v in scene.facts.model.inputs}
    images = {name: shape for name, shape in shapes.items() if shape is not None and len(shape) == 4}
    batches = {name: shape[0] for name, shape in images.items()}
    if batches and all(isinstance(b, int) for b in batches.values()):
        size = next(iter(batches.values()))
        yield Found(f"the batch is fixed at {size}: throughput cannot grow", (), {"batch": size}, names=tuple(batches))


def sweep(scene: Scene, timer: Timer) -> Iterator[Found]:
    """Images per second by batch, and the knee, where the batch is open."""
    rows: list[dict[str, float]] = []
    for batch in BATCHES:
        sizes, free = with_batch(scene.facts.model, scene.facts.sizes, {}, batch)
        if not free and batch > 1:
            return
        if time.monotonic() > timer.deadline or _levelled(rows):
            break
        try:
            seconds = timer.latency(scene.facts.model, sizes)
        except (ModelError, MemoryError):
            break
        rows.append({"batch": batch, "seconds": seconds, "images_per_second": batch / seconds})
    if len(rows) < 2:
        return
    best = max(r["images_per_second"] for r in rows)
    knee = next(r for r in rows if r["images_per_second"] >= ENOUGH * best)
    gain = knee["images_per_second"] / rows[0]["images_per_second"]
    rate = f"{knee['images_per_second']:,.0f} images/s"
    if knee["batch"] == 1:
        message = f"throughput does not grow with the batch here: {rate} at batch 1"
    else:
        message = f"{rate} at batch {knee['batch']:.0f}, {gain:.2f}x of what batch 1 gives"
        message += "; larger ones bring little more" if knee is not rows[-1] else "; larger ones were not tried"
    yield Found(
        message,
        (),
        {"knee": int(knee["batch"]), "gain": gain, "batches": rows},
        details=tuple(
            f"batch {r['batch']:.0f}: {r['images_per_second']:,.0f} images/s, {1e3 * r['seconds']:.3g} ms" for r in rows
        ),
        remedy="deploy",
        action="run with this batch where throughput counts; `onnxtune bench --batch` tells it more precisely",
    )


def _levelled(rows: list[dict[str, float]]) -> bool:
    """Have the last two doublings brought nothing?"""
    rates = [r["images_per_second"] for r in rows]
    return len(rates) > 3 and max(rates[-2:]) < GROWS * max(rates[:-2])
