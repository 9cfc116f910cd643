"""The trained models in a folder beside the checkout, with the data that some of them can be calibrated on.

The folder has models/*.onnx, data/, manifest.json (per model: task and preprocessing) and evaluate.py, which scores a
model file on its development split.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BUDGETS = {"top1": ("0.5%", "1%"), "psnr": ("0.05", "0.1")}
LARGE = (
    "own_alex11_cifar10",
    "own_lenet5_cifar10",
    "caffe_lenet_mnist",
    "ort_mnist",
    "own_srcnn955_x3",
    "fsrcnn_x3",
    "espcn_x3",
)
"""Models with fully connected heads or large kernels."""
CALIBRATED = (*LARGE, "own_odd_cifar10", "own_slim_l1_cifar10", "own_repvgg_cifar10", "cifar_resnet20")
LUMA = np.array([65.481, 128.553, 24.966], np.float32)
"""ITU-R BT.601, of RGB in [0, 255]; 16 is added."""


@dataclass(frozen=True)
class Shared:
    """The folder, and a place for files that are made of its data."""

    folder: Path
    scratch: Path

    def models(self) -> list[Path]:
        return sorted((self.folder / "models").glob("*.onnx"))

    def entry(self, name: str) -> dict[str, Any]:
        found = json.loads((self.folder / "manifest.json").read_text()).get(name, {})
        assert isinstance(found, dict)
        return found

    def metric(self, name: str) -> str | None:
        """How `score` judges the model: "top1" or "psnr"; None where it cannot."""
        task = str(self.entry(name).get("task", "none"))
        return None if task == "none" else "psnr" if task.startswith("sr") else "top1"

    def settings(self, name: str, max_drop: str) -> dict[str, Any]:
        """Keyword arguments of `onnxtune.optimize` for calibration of this model."""
        entry = self.entry(name)
        if self.metric(name) == "psnr":
            data, labels = self._pairs(entry)
            return {
                "calibration_data": str(data),
                "labels": str(labels),
                "metric": "psnr",
                "max_drop": max_drop,
                "crop_border": 8,
            }
        data = self.folder / "data" / f"{entry['task']}_calib2000.npz"
        preprocess: dict[str, Any] = {"scale": str(entry["mul"])}
        if entry["task"] != "mnist":
            preprocess = {
                "scale": "1",
                "mean": ",".join(f"{v:g}" for v in entry["sub"]),
                "std": ",".join(f"{1 / v:.6g}" for v in entry["mul"]),
            }
        return {"calibration_data": str(data), "preprocess": preprocess, "max_drop": max_drop}

    def score(self, name: str, model: Path) -> float | None:
        """The task's metric (share of right answers, or dB) on the development split; None without one."""
        words = [sys.executable, str(self.folder / "evaluate.py"), "--model", f"{name}={model}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: evaluate.py ended with {done.returncode}: {done.stderr[-300:]}")
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        return float(lines[0][2]) if lines else None

    def _pairs(self, entry: dict[str, Any]) -> tuple[Path, Path]:
        """Crops of photos made smaller (and larger again where the network wants that), and what they were."""
        scale, enlarged = int(entry["scale"]), bool(entry["pre_upsample"])
        names = [self.scratch / f"sr{scale}{'e' if enlarged else ''}_{part}.npy" for part in ("x", "y")]
        if not all(n.exists() for n in names):
            small, large = _crops(self.folder, scale, enlarged=enlarged)
            np.save(names[0], small)
            np.save(names[1], large)
        return names[0], names[1]


def luma(rgb: Any) -> Any:
    """(H, W) in [0, 1] of an RGB image (H, W, 3) in [0, 255]."""
    return (16 + np.asarray(rgb, np.float32) @ LUMA / 255) / 255


def _crops(folder: Path, scale: int, *, enlarged: bool, size: int = 48) -> tuple[Any, Any]:
    """Inputs and targets (N, 1, h, w) from the photos, in their order."""
    inputs, targets = [], []
    for photos in np.load(folder / "data" / "faces24_320x240.npz").values():
        for photo in photos if photos.ndim == 4 else photos[None]:
            whole = Image.fromarray(photo)
            whole = whole.crop((0, 0, whole.width // scale * scale, whole.height // scale * scale))
            low = whole.resize((whole.width // scale, whole.height // scale), Image.Resampling.BICUBIC)
            fed = luma(low.resize(whole.size, Image.Resampling.BICUBIC) if enlarged else low)
            wanted, step = luma(whole), 1 if enlarged else scale
            for top in range(0, wanted.shape[0] - size + 1, size):
                for left in range(0, wanted.shape[1] - size + 1, size):
                    part = size // step
                    inputs.append(fed[top // step : top // step + part, left // step : left // step + part])
                    targets.append(wanted[top : top + size, left : left + size])
    return np.stack(inputs)[:, None].astype(np.float32), np.stack(targets)[:, None].astype(np.float32)
