"""What the user's samples do to chosen tensors: mean and mean square, over some samples."""

from __future__ import annotations

import numpy as np
import onnx

from onnxtune.calibrate.dataset import Dataset
from onnxtune.model import Model
from onnxtune.runtime import Session, Target
from onnxtune.scene import Energies

SAMPLES, BATCH = 64, 16
"""How many samples are looked at, and at a time."""


def energies(model: Model, tensors: set[str], data: Dataset, target: Target, seed: int) -> Energies:
    """Tensor -> (mean, mean square) on up to SAMPLES samples, drawn at random.

    Raises DataError for samples that do not fit, ModelError when ONNX Runtime cannot run the model.
    """
    if not tensors:
        return {}
    names = sorted(tensors)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(data.count)[:SAMPLES])
    session = Session(_showing(model, names), target)
    sums = {name: np.zeros(3) for name in names}
    for _, feeds, real in data.batches(chosen, BATCH):
        for name, values in session.run(feeds, names).items():
            rows = values[:real].astype(np.float64)
            sums[name] += (rows.sum(), (rows**2).sum(), rows.size)
    return {name: (s[0] / max(s[2], 1), s[1] / max(s[2], 1)) for name, s in sums.items()}


def _showing(model: Model, tensors: list[str]) -> Model:
    """The model with these tensors as further outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    own = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in own)
    return Model(proto, model.name, store=model.store)
