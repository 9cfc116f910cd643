"""Calibration samples from every kind of source, and one clear line for each thing that can be wrong with them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxtune.calibrate.dataset import Dataset, open_dataset, split
from onnxtune.calibrate.preprocess import Preprocess, parse
from onnxtune.demo import FOLDER, held_out_images, model_path
from onnxtune.errors import DataError, UsageError
from onnxtune.model import Model, load
from onnxtune.testing import model_of

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
X = np.random.default_rng(0).standard_normal((20, 3, 8, 6)).astype(np.float32)


@pytest.fixture
def model() -> Model:
    return Model(model_of("g (float[N, 3, 8, 6] image) => (float[N, 3, 8, 6] y) { y = Relu (image) }"))


def two_inputs() -> Model:
    return Model(
        model_of("g (float[N, 4] a, float[N, 2] b) => (float[N, 4] y, float[N, 2] z) { y = Relu (a) z = Relu (b) }")
    )


def fixed_batch(batch: int) -> Model:
    return Model(model_of(f"g (float[{batch}, 3, 8, 6] image) => (float[{batch}, 3, 8, 6] y) {{ y = Relu (image) }}"))


# --- sources ---------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_by_input_name(write: Callable[..., Any], tmp_path: Path, model: Model) -> None:
    write(tmp_path / "d.npz", image=X, labels=np.arange(20))
    with open_dataset(str(tmp_path / "d.npz"), model) as data:
        assert data.count == 20
        assert data.labels is not None
        assert data.labels.tolist() == list(range(20))
        np.testing.assert_array_equal(data.feeds([3, 0])["image"], X[[3, 0]])


@pytest.mark.parametrize(("shape", "stored"), [("1, 8, 6", (20, 8, 6)), ("8, 6, 1", (20, 8, 6))])
def test_the_channel_axis_of_gray_images_may_be_missing(shape: str, stored: tuple[int, ...], tmp_path: Path) -> None:
    gray = Model(model_of(f"g (float[N, {shape}] image) => (float[N, {shape}] y) {{ y = Relu (image) }}"))
    np.save(tmp_path / "d.npy", X[:, 0].reshape(20, -1)[:, : int(np.prod(stored[1:]))].reshape(stored))
    with open_dataset(str(tmp_path / "d.npy"), gray) as data:
        found = data.feeds([2, 3])["image"]
        assert found.shape == (2, *(int(d) for d in shape.split(",")))
        np.testing.assert_array_equal(found.ravel(), np.load(tmp_path / "d.npy")[2:4].ravel())
        assert "of one channel" in data.notes[0]


@pytest.mark.parametrize("stored", [(1, 8, 6), (20, 6, 8), (20, 48)])
def test_no_channel_axis_is_made_up(stored: tuple[int, ...], tmp_path: Path) -> None:
    gray = Model(model_of("g (float[N, 1, 8, 6] image) => (float[N, 1, 8, 6] y) { y = Relu (image) }"))
    np.save(tmp_path / "d.npy", np.zeros(stored, np.float32))
    with (
        pytest.raises(DataError, match=r"no sample axis|takes samples of 1x8x6"),
        open_dataset(str(tmp_path / "d.npy"), gray),
    ):
        pass


def test_the_images_of_the_demo_are_taken_as_they_are() -> None:
    assert held_out_images()[0].shape[1:] == (1, 32, 32)
    with open_dataset(str(FOLDER / "digits.npz"), load(model_path()), preprocess=parse({"scale": "1/255"})) as data:
        images, labels = held_out_images()
        np.testing.assert_allclose(data.feeds(range(len(images)))["image"], images)
        assert data.labels is not None
        np.testing.assert_array_equal(data.labels, labels)


def test_npz_of_two_inputs(tmp_path: Path) -> None:
    a, b = np.ones((5, 4), np.float32), np.zeros((5, 2), np.float32)
    np.savez(tmp_path / "d.npz", a=a, b=b)
    with open_dataset(str(tmp_path / "d.npz"), two_inputs()) as data:
        feeds = data.feeds([0, 1])
        assert {k: v.shape for k, v in feeds.items()} == {"a": (2, 4), "b": (2, 2)}


def test_single_array(tmp_path: Path, model: Model) -> None:
    np.save(tmp_path / "d.npy", X)
    with open_dataset(str(tmp_path / "d.npy"), model) as data:
        np.testing.assert_array_equal(data.feeds([19])["image"], X[19:])


def test_folder_of_samples_and_of_batches(tmp_path: Path, model: Model) -> None:
    np.save(tmp_path / "0.npy", X[0])
    np.save(tmp_path / "1.npy", X[1:4])
    np.savez(tmp_path / "2.npz", image=X[4:6])
    with open_dataset(str(tmp_path), model) as data:
        assert data.count == 6
        np.testing.assert_array_equal(data.feeds(range(6))["image"], X[:6])


def test_images_flat_and_in_classes(tmp_path: Path, model: Model) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 6, 3), np.uint8)
    for place in ("flat", "classes/10", "classes/9"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "a.png")
    with open_dataset(str(tmp_path / "flat"), model) as data:
        assert data.labels is None
        np.testing.assert_allclose(data.feeds([0])["image"][0], pixels.transpose(2, 0, 1) / 255, atol=1e-6)
    with open_dataset(str(tmp_path / "classes"), model) as data:
        assert data.classes == ("9", "10")
        assert data.labels is not None
        assert data.labels.tolist() == [0, 1]


def test_images_are_resized_cropped_and_normalised(tmp_path: Path, model: Model) -> None:
    Image.fromarray(np.full((40, 20, 3), (10, 20, 30), np.uint8)).save(tmp_path / "a.png")
    preprocess = parse({"resize": 10, "crop": "8x6", "scale": 1, "mean": "1,2,3", "std": [2], "channel-order": "bgr"})
    with open_dataset(str(tmp_path), model, preprocess=preprocess) as data:
        row = data.feeds([0])["image"][0]
    assert row.shape == (3, 8, 6)
    np.testing.assert_allclose(row[:, 0, 0], [(30 - 1) / 2, (20 - 2) / 2, (10 - 3) / 2])


def test_gray_8_bit_arrays(tmp_path: Path) -> None:
    model = Model(model_of("g (float[N, 1, 8, 6] image) => (float[N, 1, 8, 6] y) { y = Relu (image) }"))
    np.save(tmp_path / "d.npy", np.full((4, 8, 6), 51, np.uint8))
    with open_dataset(str(tmp_path / "d.npy"), model, preprocess=Preprocess()) as data:
        np.testing.assert_allclose(data.feeds([0])["image"], np.full((1, 1, 8, 6), 0.2), rtol=1e-6)


def test_channels_last_model(tmp_path: Path) -> None:
    model = Model(model_of("g (float[N, 8, 6, 3] image) => (float[N, 8, 6, 3] y) { y = Relu (image) }"))
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 6, 3), np.uint8)
    np.save(tmp_path / "d.npy", pixels)
    with open_dataset(str(tmp_path / "d.npy"), model, preprocess=Preprocess()) as data:
        np.testing.assert_allclose(data.feeds([2])["image"][0], pixels[2] / 255, atol=1e-6)


def test_function_is_spooled(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feeder_one.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    for i in range(4):\n"
        "        yield {'image': np.full((2, 3, 8, 6), i, np.float32)}, np.array([i, i])\n"
    )
    monkeypatch.chdir(tmp_path)
    with open_dataset("feeder_one:feeds", model) as data:
        assert data.count == 8
        assert data.labels is not None
        assert data.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert data.feeds([7])["image"].max() == 3


def test_labels_from_csv_by_name_and_by_order(tmp_path: Path, model: Model) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.png", "a.png"):
        Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(folder / name)
    (tmp_path / "named.csv").write_text("file,class\nb.png,5\na.png,7\n")
    (tmp_path / "plain.csv").write_text("1\n2\n")
    for name, want in (("named.csv", [7, 5]), ("plain.csv", [1, 2])):
        with open_dataset(str(folder), model, labels=tmp_path / name) as data:
            assert data.labels is not None
            assert data.labels.tolist() == want


# --- batches ---------------------------------------------------------------------------------


def test_batches_of_a_fixed_size_are_filled_up(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    with open_dataset(str(tmp_path / "d.npy"), fixed_batch(8)) as data:
        parts = list(data.batches(np.arange(20), 3))
        assert [(len(f["image"]), n) for _, f, n in parts] == [(8, 8), (8, 8), (8, 4)]
        np.testing.assert_array_equal(np.concatenate([f["image"][:n] for _, f, n in parts]), X)


def test_samples_of_several_sizes_go_apart(tmp_path: Path) -> None:
    model = Model(model_of("g (float[N, 3, H, W] image) => (float[N, 3, H, W] y) { y = Relu (image) }"))
    for i, width in enumerate((5, 5, 7, 5)):
        np.save(tmp_path / f"{i}.npy", np.zeros((3, 4, width), np.float32))
    with open_dataset(str(tmp_path), model) as data:
        shapes = [f["image"].shape for _, f, _ in data.batches(np.arange(4), 8)]
    assert [s[-1] for s in shapes] == [5, 7, 5]
    assert [s[0] for s in shapes] == [2, 1, 1]


def test_splits_are_disjoint_complete_and_seeded() -> None:
    first, again, other = (split(100, seed, classified=True, source="d") for seed in (0, 0, 1))
    assert sorted([*first.fit, *first.select, *first.gate]) == list(range(100))
    assert (len(first.fit), len(first.select), len(first.gate)) == (60, 20, 20)
    np.testing.assert_array_equal(first.fit, again.fit)
    assert not np.array_equal(first.fit, other.fit)


@pytest.mark.parametrize(("count", "classified", "needed"), [(8, True, "64"), (8, False, "16")])
def test_too_few_samples_says_how_many_are_needed(count: int, classified: bool, needed: str) -> None:
    with pytest.raises(DataError, match=f"8 samples are too few; at least {needed}"):
        split(count, 0, classified=classified, source="d.npz")


# --- what can be wrong -----------------------------------------------------------------------


def broken(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(source, part of the message)."""
    np.savez(tmp_path / "other.npz", a=X, b=X)
    yield "other.npz", "holds no array 'image' (it holds 'a', 'b')"
    np.save(tmp_path / "wide.npy", np.zeros((20, 3, 8, 7), np.float32))
    yield "wide.npy", "takes samples of 3x8x6, this one is 3x8x7"
    np.save(tmp_path / "bytes.npy", np.zeros((20, 3, 8, 6), np.uint8))
    yield "bytes.npy", "8-bit values for input 'image'"
    np.save(tmp_path / "ints.npy", np.zeros((20, 3, 8, 6), np.int64))
    yield "ints.npy", "values of type int64"
    np.save(tmp_path / "rank.npy", X[0])
    yield "rank.npy", "no sample axis"
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    yield "objects.npy", "pickled"
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    yield "cut.npy", "not a NumPy file, or truncated"
    whole = tmp_path / "whole.npy"
    np.save(whole, X)
    (tmp_path / "short.npy").write_bytes(whole.read_bytes()[:-100])
    yield "short.npy", "truncated"
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04 nothing")
    yield "no.npz", "not a NPZ file"
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    yield "text.npz", "is not an array"
    yield "absent.npz", "no such file"
    (tmp_path / "empty").mkdir()
    yield "empty", "no NPZ, NPY or image files"
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.jpg").write_bytes(b"\xff\xd8\xff no image")
    yield "damaged", "not an image that can be decoded"
    (tmp_path / "model.txt").write_text("x")
    yield "model.txt", "neither NPZ, NPY nor a folder"


def test_each_fault_is_one_line_with_the_files_name(tmp_path: Path, model: Model) -> None:
    seen = 0
    for name, message in broken(tmp_path):
        with pytest.raises(DataError) as caught, open_dataset(str(tmp_path / name), model) as data:
            data.feeds([0])
        text = str(caught.value)
        assert message in text, text
        assert name in text
        assert "\n" not in text
        seen += 1
    assert seen == 14


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value: float, tmp_path: Path, model: Model) -> None:
    bad = X.copy()
    bad[7, 0, 0, 0] = value
    np.save(tmp_path / "d.npy", bad)
    with open_dataset(str(tmp_path / "d.npy"), model) as data:
        data.feeds([6])
        with pytest.raises(DataError, match=r"sample 7.*NaN or infinite"):
            data.feeds([6, 7])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(5), "5 labels for 20 samples"),
        (np.full(20, 0.5), "whole"),
        (np.full(20, -1), "start at 0"),
        (np.array(["a"] * 20), "no class numbers"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, message: str, tmp_path: Path, model: Model) -> None:
    np.save(tmp_path / "d.npy", X)
    np.save(tmp_path / "labels.npy", labels)
    source, path = str(tmp_path / "d.npy"), tmp_path / "labels.npy"
    with pytest.raises(DataError, match=message), open_dataset(source, model, labels=path):
        pass


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise ValueError('boom')", DataError, "raised ValueError: boom"),
        ("raise SystemExit(2)", DataError, "raised SystemExit: 2"),
        ("return 3", DataError, "it raised TypeError: 'int' object is not iterable"),
        ("yield {}[0]", DataError, "it raised KeyError: 0"),
        ("return iter([])", DataError, "no samples"),
        ("return iter([3])", DataError, "expected a mapping"),
        ("return iter([{}])", DataError, "no array for input 'image'"),
        ("return iter([{'image': __import__('numpy').zeros((1, 2))}])", DataError, "takes float32 of rank 4"),
    ],
)
def test_functions_that_do_not_deliver(
    body: str, error: type[Exception], message: str, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"feeder_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def feeds():\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message), open_dataset(f"{name}:feeds", model):
        pass


def test_a_function_that_does_not_exist(model: Model) -> None:
    for source in ("no_such_module_here:feeds", "json:no_such_function"):
        with pytest.raises(UsageError, match=source), open_dataset(source, model):
            pass


def test_memory_does_not_grow_with_the_samples(tmp_path: Path, model: Model) -> None:
    """A compressed archive of 200 MB is unpacked to disk and mapped, not read."""
    import tracemalloc

    np.savez_compressed(tmp_path / "d.npz", image=np.zeros((350_000, 3, 8, 6), np.float32))
    tracemalloc.start()
    with open_dataset(str(tmp_path / "d.npz"), model) as data:
        data.feeds([0, 349_999])
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


# --- preprocessing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [{"mean": "a"}, {"std": "0"}, {"resize": "0"}, {"crop": "1,2,3"}, {"layout": "x"}, {"zoom": 1}, {"scale": "1/0"}],
)
def test_preprocessing_that_makes_no_sense(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        parse(table)


def test_wrong_number_of_means() -> None:
    with pytest.raises(UsageError, match="2 numbers for 3 channels"):
        Preprocess(mean=(1.0, 2.0)).values(np.zeros((2, 2, 3), np.uint8), channels_first=True)


def test_nothing_given_is_no_preprocessing() -> None:
    assert parse({"mean": None, "resize": ""}) is None


def test_digest_depends_on_the_content(tmp_path: Path, model: Model) -> None:
    digests = []
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", X + i)
        with open_dataset(str(tmp_path / f"{i}.npy"), model) as data:
            assert isinstance(data, Dataset)
            digests.append(data.digest())
    assert digests[0] != digests[1]
    assert len(digests[0]) == 64
