"""The CNN and the images that come with the package; `assets/demo/README.md` says what they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.model import load
from onnxtune.runtime import Session, Target

FOLDER = Path(__file__).parent / "assets" / "demo"


def model_path() -> Path:
    """A digit classifier: input `image` (N, 1, 32, 32), output `logits` (N, 10)."""
    return FOLDER / "digits.onnx"


def held_out_images() -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Images (N, 1, 32, 32) in [0, 1] that the model was not trained on, and their labels (N,)."""
    with np.load(FOLDER / "digits.npz", allow_pickle=False) as data:
        return data["images"][:, None].astype(np.float32) / 255, data["labels"]


def accuracy(
    model: str | os.PathLike[str] | onnx.ModelProto, images: NDArray[np.float32], labels: NDArray[Any]
) -> float:
    """Share of images (N, 1, 32, 32) whose largest logit is the label's."""
    logits = Session(load(model), Target()).run({"image": images})["logits"]
    return float((logits.argmax(1) == labels).mean())
