"""Digits from every source, and what happens where the files are not what they should be."""

import gzip
import io
import struct
import sys
import types

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks.digit_data import Digits, load_digits
from tpo_dist.tasks.idx_files import read_idx

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (7, 4, 3), dtype=np.uint8), "test": RNG.integers(0, 256, (5, 4, 3), np.uint8)}
LABELS = {"train": np.arange(7, dtype=np.uint8), "test": np.arange(5, dtype=np.uint8) + 5}


def idx(array, kind=0x08):
    return struct.pack(f">{1 + array.ndim}I", kind << 8 | array.ndim, *array.shape) + array.tobytes()


def write_folder(folder, *, compressed=False, separator="-"):
    folder.mkdir(exist_ok=True)
    for split, stem in (("train", "train"), ("test", "t10k")):
        for what, array in (("images", IMAGES[split]), ("labels", LABELS[split])):
            name = f"{stem}-{what}{separator}idx{array.ndim}-ubyte"
            data = idx(array)
            (folder / (name + ".gz" if compressed else name)).write_bytes(gzip.compress(data) if compressed else data)
    return folder


def assert_ours(digits):
    np.testing.assert_allclose(digits.train_images_ND, IMAGES["train"].reshape(7, 12) / 255, rtol=1e-6)
    np.testing.assert_allclose(digits.test_images_ND, IMAGES["test"].reshape(5, 12) / 255, rtol=1e-6)
    assert digits.train_labels_N.tolist() == list(range(7))
    assert digits.test_labels_N.tolist() == list(range(5, 10))


def test_scikit_learn_s_digits():
    from sklearn.datasets import load_digits as load

    digits = load_digits("sklearn")
    assert digits.train_images_ND.shape == (1297, 64)
    assert digits.test_images_ND.shape == (500, 64)
    assert (digits.train_images_ND.min(), digits.train_images_ND.max()) == (0, 1)
    images, labels = load(return_X_y=True)
    ours = np.column_stack(
        [
            np.concatenate([digits.train_images_ND, digits.test_images_ND]) * 16,
            np.concatenate([digits.train_labels_N, digits.test_labels_N]),
        ]
    )
    theirs = np.column_stack([images, labels])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])  # every image exactly once
    assert (np.bincount(digits.test_labels_N) > 30).all()
    assert digits.test_labels_N[:10].tolist() == [7, 8, 2, 8, 2, 9, 7, 1, 8, 6]  # the split is fixed


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("separator", ["-", "."])
def test_idx_files(compressed, separator, tmp_path):
    assert_ours(load_digits("folder", str(write_folder(tmp_path / "d", compressed=compressed, separator=separator))))


DAMAGES = {
    "cut": (lambda data: data[:-1], "holds 83 values; its header says 7x4x3"),
    "one byte more": (lambda data: data + b"\0", "holds 85 values; its header says 7x4x3"),
    "no header": (lambda data: data[:9], "has 9 bytes, fewer than the header"),
    "another type": (lambda data: struct.pack(">I", 0x0D03) + data[4:], "starts with 0x00000d03"),
    "labels for images": (lambda data: idx(np.arange(9, dtype=np.uint8)) * 2, "starts with 0x00000801"),
    "something else": (lambda data: b"<html>not found</html>", "starts with"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_idx_files_are_refused(damage, words, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(idx(IMAGES["train"])))
    with pytest.raises(UsageError, match=words):
        read_idx(path, 3)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"plain", lambda data: data[:30] + b"x" * 40])
def test_damaged_compression_is_refused(damage, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(idx(IMAGES["train"]))))
    with pytest.raises(UsageError, match="cannot be read"):
        read_idx(path, 3)


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    folder = write_folder(tmp_path / "fewer")
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS["train"][:-1]))
    with pytest.raises(UsageError, match="7 images with 6 labels"):
        load_digits("folder", str(folder))
    folder = write_folder(tmp_path / "wrong")
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS["train"] + 4))
    with pytest.raises(UsageError, match="labels from 4 to 10; digits are 0 to 9"):
        load_digits("folder", str(folder))
    folder = write_folder(tmp_path / "size")
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES["test"][:, :2]))
    with pytest.raises(UsageError, match="differ in size"):
        load_digits("folder", str(folder))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        load_digits("folder", str(tmp_path / "nowhere"))
    folder = write_folder(tmp_path / "d")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match="neither t10k-labels-idx1-ubyte"):
        load_digits("folder", str(folder))


def write_parquet(folder, split, rows):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), folder / f"{split}-00000-of-00001.parquet")


def png(image):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_parquet_files(tmp_path):
    for split in ("train", "test"):
        rows = {"image": [png(image) for image in IMAGES[split]], "label": LABELS[split].tolist()}
        write_parquet(tmp_path / "mnist", split, rows)
    assert_ours(load_digits("folder", str(tmp_path)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"image": [1, 2], "label": [3, 4]}, "cannot be read"),
        ({"picture": [1, 2], "label": [3, 4]}, "cannot be read"),
        ({"image": [{"bytes": b"no picture"}], "label": [3]}, "cannot be read"),
        ({"image": [png(IMAGES["train"][0])], "label": [None]}, "labels that are no whole numbers, or none"),
        ({"image": [png(IMAGES["train"][0])], "label": [3.5]}, "labels that are no whole numbers, or none"),
        ({"image": [png(IMAGES["train"][0]), png(IMAGES["train"][0][:2])], "label": [3, 4]}, "of several sizes"),
    ],
)
def test_other_parquet_files_are_refused(rows, words, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path, split, rows)
    with pytest.raises(UsageError, match=words):
        load_digits("folder", str(tmp_path))


def test_a_parquet_file_that_was_cut_is_refused(tmp_path):
    for split in ("train", "test"):
        write_parquet(
            tmp_path, split, {"image": [png(image) for image in IMAGES[split]], "label": LABELS[split].tolist()}
        )
    file = tmp_path / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UsageError, match="test-00000-of-00001.parquet: cannot be read"):
        load_digits("folder", str(tmp_path))


@pytest.fixture
def _forgetful():
    load_digits.cache_clear()
    yield
    load_digits.cache_clear()


@pytest.mark.usefixtures("_forgetful")
def test_mnist_from_the_hub(monkeypatch):
    hub = types.ModuleType("datasets")
    hub.load_dataset = lambda name, split: {"image": list(IMAGES[split]), "label": LABELS[split].tolist()}
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert_ours(load_digits("mnist"))


@pytest.mark.usefixtures("_forgetful")
def test_an_absent_hub_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs the package datasets. Fix: pip install 'tpo-dist\[llm\]'"):
        load_digits("mnist")

    def offline(name, split):
        raise ConnectionError("no route\nto host")

    hub = types.ModuleType("datasets")
    hub.load_dataset = offline
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(UsageError, match=r"ConnectionError: no route to host\)\. Fix: .*source=folder"):
        load_digits("mnist")


def test_no_images_are_refused():
    empty = np.zeros((0, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="0 images"):
        Digits(
            train_images_ND=empty,
            train_labels_N=np.zeros(0, dtype=np.int64),
            test_images_ND=empty,
            test_labels_N=np.zeros(0, dtype=np.int64),
        )
