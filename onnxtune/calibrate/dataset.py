"""Calibration samples by index, from wherever they come; checked against what the model wants to be fed."""

from __future__ import annotations

import contextlib
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.calibrate import arrays, images
from onnxtune.calibrate.functions import importable, named, users_code
from onnxtune.calibrate.labels import checked, read_labels
from onnxtune.calibrate.preprocess import Preprocess
from onnxtune.errors import DataError
from onnxtune.feeds import Feeds
from onnxtune.model import Model
from onnxtune.shapes import Shape, describe
from onnxtune.sizes import spatial_axes
from onnxtune.temporary import temporary

LEAST = 16
"""Fewest samples of which anything can be learned."""
LEAST_CLASSIFIED = 64
"""Fewest samples for a classifier: each one says little."""
SHARES = (0.6, 0.2, 0.2)
"""Parts for fitting, for choosing, and for the gate."""
BLOCK = 2**20

Sample = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Spec:
    """What one input wants: `shape` without the batch axis, `batch` a number where the model fixes it."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    batch: int | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """`count` samples; `feeds` makes a batch of some of them. `labels` (count,) or targets (count, ...) or None.

    `source` says where they come from; `names`: the samples' file names where each has one; `classes`: names
    of the classes where folders name them; `batch` is the batch size that the model fixes (None: free); `notes`:
    how the data were understood, where they could have meant something else.
    """

    source: str
    count: int
    specs: tuple[Spec, ...]
    sample: Callable[[int], Sample]
    where: Callable[[int], str]
    labels: NDArray[Any] | None = None
    digest: Callable[[], str] = field(default=lambda: "")
    names: Sequence[str] = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def batch(self) -> int | None:
        return next((s.batch for s in self.specs if s.batch is not None), None)

    def feeds(self, indices: Sequence[int] | NDArray[Any]) -> Feeds:
        """The samples stacked along a new first axis, in the inputs' types. Raises DataError for NaN, Inf and
        wrong sizes, naming file and sample."""
        samples = [self.sample(int(i)) for i in indices]
        made: Feeds = {}
        for spec in self.specs:
            rows = [s[spec.name] for s in samples]
            for i, row in zip(indices, rows, strict=True):
                _check_row(row, spec, self.where(int(i)))
            if any(r.shape != rows[0].shape for r in rows):
                raise DataError(f"{self.source}: samples of different sizes cannot be batched")
            made[spec.name] = np.stack(rows).astype(spec.dtype, copy=False)
        return made

    def batches(self, indices: NDArray[Any], size: int) -> Iterator[tuple[NDArray[Any], Feeds, int]]:
        """(indices, feeds, how many of the feeds' rows count) in the order given.

        Samples of one size go together, up to `size`; where the model fixes the batch, the last one is filled
        up with repeats that do not count.
        """
        size = self.batch or size
        start = 0
        while start < len(indices):
            chosen = indices[start : start + size]
            first = self._shape(int(chosen[0]))
            same = next((n for n, i in enumerate(chosen) if self._shape(int(i)) != first), len(chosen))
            chosen = chosen[:same]
            start += len(chosen)
            padded = np.resize(chosen, self.batch) if self.batch else chosen
            yield chosen, self.feeds(padded), len(chosen)

    def _shape(self, index: int) -> tuple[tuple[int, ...], ...]:
        if all(isinstance(d, int) for s in self.specs for d in s.shape):
            return ()
        return tuple(v.shape for v in self.sample(index).values())


def _check_row(row: NDArray[Any], spec: Spec, where: str) -> None:
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        raise DataError(f"{where}: input '{spec.name}' holds NaN or infinite values")
    wrong = row.ndim != len(spec.shape) or any(
        isinstance(want, int) and want != have for want, have in zip(spec.shape, row.shape, strict=False)
    )
    if wrong:
        have, want = ("x".join(str(d or "?") for d in s) for s in (row.shape, spec.shape))
        raise DataError(f"{where}: input '{spec.name}' takes samples of {want}, this one is {have}")


def specs_of(model: Model) -> tuple[Spec, ...]:
    """What the model's inputs want. Raises DataError for inputs without a rank."""
    found = []
    for value in model.inputs:
        info = describe(value)
        if info is None or info.shape is None or not info.shape:
            raise DataError(f"{model.name}: input '{value.name}' has no batch axis; calibration needs one")
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.elem_type))
        first = info.shape[0] if isinstance(info.shape[0], int) else None
        found.append(Spec(value.name, dtype, info.shape[1:], first))
    return tuple(found)


@contextlib.contextmanager
def open_dataset(
    source: str,
    model: Model,
    *,
    preprocess: Preprocess | None = None,
    labels: str | Path | None = None,
    flag: str = "--calibration-data",
) -> Iterator[Dataset]:
    """The samples that `flag` names: NPZ, NPY, a folder of these, a folder of images, `module:function`.

    Raises DataError (the file and what is wrong with it), UsageError (pillow missing, no such function).
    """
    specs = specs_of(model)
    with temporary("data") as scratch:
        path = Path(source)
        if path.is_dir():
            found = _folder(path, specs, scratch, preprocess)
        elif path.suffix.lower() in arrays.SUFFIXES or path.exists():
            if path.suffix.lower() not in arrays.SUFFIXES:
                raise DataError(f"{path}: is neither NPZ, NPY nor a folder")
            found = _file(path, specs, scratch, preprocess)
        elif ":" in source:
            found = _function(source, specs, scratch, flag)
        else:
            raise DataError(f"{source}: no such file or folder")
        if found.count == 0:
            raise DataError(f"{source}: holds no samples")
        if labels is not None:
            found = replace(found, labels=read_labels(Path(labels), found.count, found.names, scratch))
        yield found


def _file(path: Path, specs: tuple[Spec, ...], scratch: Path, preprocess: Preprocess | None) -> Dataset:
    held = arrays.read_arrays(path, scratch)
    stacks = arrays.by_input(held, tuple(s.name for s in specs), path)
    count = len(next(iter(stacks.values()))) if next(iter(stacks.values())).ndim else 0
    notes = []
    for spec in specs:
        axis = arrays.missing_channel(stacks[spec.name].shape, spec.shape)
        if axis is not None:
            sizes = _sizes(stacks[spec.name].shape[1:])
            stacks[spec.name] = np.expand_dims(stacks[spec.name], axis + 1)
            notes.append(f"'{spec.name}': the samples of {sizes} were taken for {_sizes(spec.shape)}, of one channel")
    for spec in specs:
        stack = stacks[spec.name]
        gray = stack.dtype == np.uint8 and preprocess is not None
        if stack.ndim == len(spec.shape) and not gray:
            raise DataError(f"{path}: '{spec.name}' has no sample axis; it needs one before {_sizes(spec.shape)}")
        if len(stack) != count:
            raise DataError(f"{path}: the arrays hold different numbers of samples")
        _check_type(stack.dtype, spec, path, preprocess)

    def sample(index: int) -> Sample:
        return {s.name: _prepared(np.asarray(stacks[s.name][index]), s, preprocess) for s in specs}

    _check_row(sample(0)[specs[0].name], specs[0], f"{path}: sample 0") if count else None
    brought = next((held[k] for k in arrays.LABEL_NAMES if k in held and k not in stacks), None)
    found = None if brought is None else checked(brought, count, f"{path}: labels")
    where = lambda i: f"{path}: sample {i}"  # noqa: E731
    return Dataset(
        str(path), count, specs, sample, where, found, lambda: _hash([path]), notes=tuple(dict.fromkeys(notes))
    )


def _check_type(dtype: np.dtype[Any], spec: Spec, path: Path, preprocess: Preprocess | None) -> None:
    if dtype == np.uint8 and spec.dtype.kind == "f" and preprocess is None:
        raise DataError(
            f"{path}: 8-bit values for input '{spec.name}' of type {spec.dtype};"
            " say how to convert them (--scale, --mean, --std, --layout) or store what the model is fed"
        )
    if dtype.kind != spec.dtype.kind and not (dtype == np.uint8 and preprocess is not None):
        raise DataError(f"{path}: values of type {dtype} for input '{spec.name}' of type {spec.dtype}")


def _prepared(row: NDArray[Any], spec: Spec, preprocess: Preprocess | None) -> NDArray[Any]:
    """8-bit images (H, W, C), (H, W) or (C, H, W) converted; everything else as it is."""
    if preprocess is None or row.dtype != np.uint8 or spec.dtype.kind != "f":
        return row
    first = _channels_first(spec, preprocess)
    if row.ndim == 2:
        row = row[..., None]
    elif row.ndim == 3 and row.shape[-1] not in (1, 3, 4) and row.shape[0] in (1, 3, 4):
        row = row.transpose(1, 2, 0)
    if row.ndim != 3:
        return row
    return preprocess.values(row, first)


def _channels_first(spec: Spec, preprocess: Preprocess) -> bool:
    if preprocess.layout is not None:
        return preprocess.layout == "nchw"
    return spatial_axes((None, *spec.shape)) != (1, 2)


def _folder(path: Path, specs: tuple[Spec, ...], scratch: Path, preprocess: Preprocess | None) -> Dataset:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in arrays.SUFFIXES)
    pictures, classes, names = images.find_images(path)
    if files:
        return _array_folder(path, files, specs, scratch, preprocess)
    if pictures:
        return _image_folder(path, pictures, classes, names, specs, preprocess or Preprocess())
    raise DataError(f"{path}: no NPZ, NPY or image files in this folder")


def _array_folder(
    path: Path, files: Sequence[Path], specs: tuple[Spec, ...], scratch: Path, preprocess: Preprocess | None
) -> Dataset:
    """Each file one sample, or several along axis 0. Only headers stay in memory."""
    names = tuple(s.name for s in specs)
    rows: list[tuple[Path, int | None]] = []
    for file in files:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            first = arrays.by_input(arrays.read_arrays(file, Path(folder)), names, file)[names[0]]
            _check_type(first.dtype, specs[0], file, preprocess)
            single = first.ndim == len(specs[0].shape) or (first.ndim == 2 and first.dtype == np.uint8)
            rows += [(file, None)] if single else [(file, i) for i in range(len(first))]

    def sample(index: int) -> Sample:
        file, row = rows[index]
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            held = arrays.by_input(arrays.read_arrays(file, Path(folder)), names, file)
            taken = {s.name: np.array(held[s.name] if row is None else held[s.name][row]) for s in specs}
        return {s.name: _prepared(taken[s.name], s, preprocess) for s in specs}

    def where(index: int) -> str:
        file, row = rows[index]
        return str(file) if row is None else f"{file}: sample {row}"

    names_of = [f.name for f, _ in rows] if all(r is None for _, r in rows) else []
    return Dataset(str(path), len(rows), specs, sample, where, None, lambda: _hash(files), names_of)


def _image_folder(
    path: Path,
    files: Sequence[Path],
    classes: NDArray[np.int64] | None,
    names: Sequence[str],
    specs: tuple[Spec, ...],
    preprocess: Preprocess,
) -> Dataset:
    if len(specs) != 1 or len(specs[0].shape) != 3:
        raise DataError(f"{path}: images can only be fed to a model with one input of rank 4")
    spec = specs[0]
    first = _channels_first(spec, preprocess)
    shape = spec.shape if first else (spec.shape[2], spec.shape[0], spec.shape[1])
    channels = shape[0] if isinstance(shape[0], int) else 3
    if channels not in (1, 3):
        raise DataError(f"{path}: images have 1 or 3 channels, input '{spec.name}' takes {channels}")
    size = [d if isinstance(d, int) else None for d in shape[1:]]

    def sample(index: int) -> Sample:
        pixels = images.read_image(files[index], preprocess, size, channels)
        if spec.dtype == np.uint8:
            return {spec.name: pixels.transpose(2, 0, 1) if first else pixels}
        return {spec.name: preprocess.values(pixels, first)}

    where = lambda i: str(files[i])  # noqa: E731
    called = [f.name for f in files]
    return Dataset(str(path), len(files), specs, sample, where, classes, lambda: _hash(files), called, tuple(names))


def _function(source: str, specs: tuple[Spec, ...], scratch: Path, flag: str) -> Dataset:
    """Feeds from a user's generator, spooled to disk: each one a batch, input name -> array (or (feeds, labels))."""
    yielded = _call(source, flag)
    spools = {s.name: (scratch / f"spool-{i}.bin").open("wb") for i, s in enumerate(specs)}
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    known: list[NDArray[Any]] = []
    count = 0
    try:
        with users_code(source, DataError):
            for item in yielded:
                feeds, labels = item if isinstance(item, tuple) else (item, None)
                count += _spool(source, feeds, specs, spools, shapes)
                if labels is not None:
                    known.append(np.atleast_1d(np.asarray(labels)))
    finally:
        for stream in spools.values():
            stream.close()
    if not count:
        raise DataError(f"{source}: it yielded no samples")
    paths = [Path(stream.name) for stream in spools.values()]
    stacks = {
        s.name: np.memmap(p, shapes[s.name][1], "r", shape=(count, *shapes[s.name][0]))
        for s, p in zip(specs, paths, strict=True)
    }
    labels = checked(np.concatenate(known), count, f"{source}: labels") if known else None
    sample = lambda i: {n: np.asarray(stack[i]) for n, stack in stacks.items()}  # noqa: E731
    return Dataset(source, count, specs, sample, lambda i: f"{source}: sample {i}", labels, lambda: _hash(paths))


def _call(source: str, flag: str) -> Iterable[Any]:
    function = named(flag, source)
    with importable(), users_code(source, DataError):
        made: Iterable[Any] = iter(function())
    return made


def _spool(
    source: str,
    feeds: Any,
    specs: tuple[Spec, ...],
    spools: Mapping[str, Any],
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]],
) -> int:
    if not isinstance(feeds, Mapping):
        raise DataError(f"{source}: it yielded a {type(feeds).__name__}; expected a mapping input name -> array")
    counts = set()
    for spec in specs:
        if spec.name not in feeds:
            raise DataError(f"{source}: it yielded no array for input '{spec.name}'")
        value = np.ascontiguousarray(feeds[spec.name])
        if value.dtype.kind != spec.dtype.kind or value.ndim != len(spec.shape) + 1:
            want = f"{spec.dtype} of rank {len(spec.shape) + 1}"
            raise DataError(f"{source}: input '{spec.name}' takes {want}, got {value.dtype} of rank {value.ndim}")
        row = (value.shape[1:], value.dtype)
        if shapes.setdefault(spec.name, row) != row:
            raise DataError(f"{source}: samples of '{spec.name}' differ in size or type")
        spools[spec.name].write(value.tobytes())
        counts.add(len(value))
    if len(counts) != 1:
        raise DataError(f"{source}: the arrays of one batch hold different numbers of samples")
    return counts.pop()


def _sizes(shape: Shape) -> str:
    return "x".join(str(d or "?") for d in shape)


def _hash(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of the files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Splits:
    """Indices of the samples for fitting, choosing and the gate; disjoint, shuffled with a seed."""

    fit: NDArray[np.int64]
    select: NDArray[np.int64]
    gate: NDArray[np.int64]

    @property
    def text(self) -> str:
        return f"{len(self.fit)} to fit, {len(self.select)} to choose, {len(self.gate)} for the gate"


def split(count: int, seed: int, *, classified: bool, source: str) -> Splits:
    """Shuffle and cut. Raises DataError with the number needed when there are too few samples."""
    least = LEAST_CLASSIFIED if classified else LEAST
    if count < least:
        raise DataError(f"{source}: {count} samples are too few; at least {least} are needed (some hundreds are good)")
    order = np.random.default_rng(seed).permutation(count)
    first, second = math.ceil(SHARES[0] * count), math.ceil((SHARES[0] + SHARES[1]) * count)
    return Splits(order[:first], order[first:second], order[second:])
