"""Images of handwritten digits: scikit-learn's 8x8 ones, MNIST from the Hugging Face hub, or files in a folder.

Shapes: N images, D pixels.
"""

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_words
from tpo_dist.tasks.idx_files import read_idx

DigitSource = Literal["sklearn", "mnist", "folder"]
CLASSES = 10
SKLEARN_TEST_IMAGES = 500
"""Of scikit-learn's 1797; which ones is fixed."""
_HUB_NAME = "ylecun/mnist"
_IDX_STEMS = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Digits:
    """A training and a test split. Raises ValueError where images and labels do not fit together."""

    train_images_ND: NDArray[np.float32]
    """Brightness in [0, 1]."""
    train_labels_N: NDArray[np.int64]
    """0 to 9."""
    test_images_ND: NDArray[np.float32]
    test_labels_N: NDArray[np.int64]

    def __post_init__(self) -> None:
        for images, labels in (
            (self.train_images_ND, self.train_labels_N),
            (self.test_images_ND, self.test_labels_N),
        ):
            if len(images) == 0 or len(images) != len(labels):
                raise ValueError(f"{len(images)} images with {len(labels)} labels")
            if images.shape[1:] != self.train_images_ND.shape[1:]:
                raise ValueError("training and test images differ in size")
            if int(labels.min()) < 0 or int(labels.max()) >= CLASSES:
                raise ValueError(f"labels from {labels.min()} to {labels.max()}; digits are 0 to 9")
        for array in (self.train_images_ND, self.train_labels_N, self.test_images_ND, self.test_labels_N):
            array.setflags(write=False)


def check_source(source: DigitSource, path: str) -> None:
    """Raise UsageError unless exactly the source `folder` has a path."""
    if source == "folder" and not path:
        raise UsageError("source = 'folder'", "path does not say which", "give the folder of IDX or parquet files")
    if source != "folder" and path:
        raise UsageError(f"path = {path!r}", f"source = {source!r} takes no folder", "give source=folder or no path")


@functools.lru_cache(maxsize=2)
def load_digits(source: DigitSource, path: str = "") -> Digits:
    """The images, read once per process. Raises UsageError for data that is missing or damaged."""
    check_source(source, path)
    if source == "sklearn":
        return _from_sklearn()
    splits = _from_hub() if source == "mnist" else _from_folder(Path(path))
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    try:
        return Digits(
            train_images_ND=_pixels(train),
            train_labels_N=train_labels.astype(np.int64),
            test_images_ND=_pixels(test),
            test_labels_N=test_labels.astype(np.int64),
        )
    except ValueError as error:
        raise UsageError(path or _HUB_NAME, f"holds {error}", "give the files as published") from None


Split = tuple[NDArray[np.uint8], NDArray[Any]]
"""Images as bytes [N, rows, columns] and labels [N]."""


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _from_sklearn() -> Digits:
    """1797 images of 8x8 in 17 shades; 500 of them, the same ones always, are the test split."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = np.argsort(draw_words(0, "prompt", np.arange(len(images)), 1)[:, 0], kind="stable")
    images, labels = images[order].astype(np.float32) / np.float32(16), labels[order].astype(np.int64)
    return Digits(
        train_images_ND=images[SKLEARN_TEST_IMAGES:],
        train_labels_N=labels[SKLEARN_TEST_IMAGES:],
        test_images_ND=images[:SKLEARN_TEST_IMAGES],
        test_labels_N=labels[:SKLEARN_TEST_IMAGES],
    )


def _from_hub() -> dict[str, Split]:
    where = "source = 'mnist'"
    try:
        import datasets
    except ImportError:
        raise UsageError(where, "needs the package datasets", "pip install 'tpo-dist[llm]'") from None
    try:
        splits = {name: datasets.load_dataset(_HUB_NAME, split=name) for name in ("train", "test")}
    except Exception as error:  # noqa: BLE001  whatever keeps the hub from answering, the advice is the same
        reason = f"{_HUB_NAME} cannot be loaded ({type(error).__name__}: {error})".replace("\n", " ")
        raise UsageError(where, reason, "connect, or download the files and give source=folder path=FOLDER") from None
    return {
        name: (np.stack([np.asarray(image, dtype=np.uint8) for image in split["image"]]), np.asarray(split["label"]))
        for name, split in splits.items()
    }


def _from_folder(folder: Path) -> dict[str, Split]:
    if not folder.is_dir():
        raise UsageError(f"path = {str(folder)!r}", "there is no such folder", "give one with IDX or parquet files")
    parquet = {name: sorted(folder.rglob(f"{name}*.parquet")) for name in ("train", "test")}
    if all(parquet.values()):
        return {name: _read_parquet(files) for name, files in parquet.items()}
    return {name: _read_idx_split(folder, stem) for name, stem in _IDX_STEMS.items()}


def _read_idx_split(folder: Path, stem: str) -> Split:
    images = read_idx(_find(folder, f"{stem}-images", "idx3-ubyte"), 3)
    return images, read_idx(_find(folder, f"{stem}-labels", "idx1-ubyte"), 1)


def _find(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{separator}{kind}{end}" for separator in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    reason = f"there is neither {names[0]} (or {names[1]}) nor train*.parquet with test*.parquet"
    raise UsageError(f"path = {str(folder)!r}", reason, "give a folder with the four IDX files or with parquet files")


def _read_parquet(files: list[Path]) -> Split:
    """Files as the hub stores them: `image` holds the bytes of a PNG, `label` the digit."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(str(files[0]), "needs the package pyarrow", "pip install pyarrow, or give IDX files") from None
    from PIL import Image

    images, labels = [], []
    for file in files:
        try:
            table = pq.read_table(file, columns=["image", "label"]).to_pydict()
            images += [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("L")) for row in table["image"]]
            labels += table["label"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            fix = "give the files of ylecun/mnist as they are on the hub"
            raise UsageError(str(file), f"cannot be read ({error})".replace("\n", " "), fix) from None
    if not images or len({image.shape for image in images}) > 1:
        raise UsageError(str(files[0].parent), "holds no images, or of several sizes", "give images of one size")
    found = np.asarray(labels)
    if found.dtype.kind not in "iu":
        reason = "holds labels that are no whole numbers, or none"
        raise UsageError(str(files[0].parent), reason, "give the files of ylecun/mnist as they are on the hub")
    return np.stack(images).astype(np.uint8), found
