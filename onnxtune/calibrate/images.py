"""Samples in a folder of images (pillow reads them): flat, or one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.preprocess import Preprocess
from onnxtune.errors import DataError, UsageError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
PIXELS = 2**27
"""Most pixels of one image; larger ones are taken for an attack on memory."""


def find_images(folder: Path) -> tuple[list[Path], NDArray[np.int64] | None, list[str]]:
    """(files, their classes or None, names of the classes). Classes are the sub-folders in order of their names."""
    flat = _in(folder)
    classes = sorted((p for p in folder.iterdir() if p.is_dir() and _in(p)), key=_order)
    if flat or not classes:
        return flat, None, []
    files = [(path, number) for number, sub in enumerate(classes) for path in _in(sub)]
    return [p for p, _ in files], np.array([n for _, n in files], np.int64), [c.name for c in classes]


def _order(folder: Path) -> tuple[bool, int, str]:
    """Folders named by numbers count as numbers."""
    return (not folder.name.isdecimal(), int(folder.name) if folder.name.isdecimal() else 0, folder.name)


def _in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def read_image(path: Path, preprocess: Preprocess, size: Sequence[int | None], channels: int) -> NDArray[np.uint8]:
    """One image (H, W, channels), resized and cropped as `preprocess` says, else to `size` (height, width) where known.

    Raises DataError for a file that cannot be decoded, UsageError when pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UsageError("image folders need pillow: pip install 'onnxtune[images]'") from None
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > PIXELS:
                raise DataError(f"{path}: {opened.width} x {opened.height} pixels is too large for an image")
            gray = channels == 1 or preprocess.channel_order == "gray"
            image = opened.convert("L" if gray else "RGB")
    except DataError:
        raise
    except Exception as error:  # pillow raises many kinds for files that are damaged or no images
        raise DataError(f"{path}: not an image that can be decoded ({one_line(error)})") from None
    image = _fitted(image, preprocess, size)
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def _fitted(image: Any, preprocess: Preprocess, size: Sequence[int | None]) -> Any:
    from PIL import Image

    height, width = size
    if preprocess.resize:
        target = _target(preprocess.resize, image.height, image.width)
        image = image.resize(target[::-1], Image.Resampling.BILINEAR)
    elif not preprocess.crop and height and width and (image.height, image.width) != (height, width):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if preprocess.crop:
        rows, columns = (*preprocess.crop, *preprocess.crop)[:2]
        top, left = (image.height - rows) // 2, (image.width - columns) // 2
        image = image.crop((left, top, left + columns, top + rows))
    return image


def _target(resize: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    if len(resize) == 2:
        return resize[0], resize[1]
    short = min(height, width)
    return max(1, round(height * resize[0] / short)), max(1, round(width * resize[0] / short))
